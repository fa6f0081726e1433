"""The table of a blinded reading: shares with Wilson intervals, and agreement between readers (Cohen's kappa)."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from meddap_monai import store
from meddap_monai.reading_form.reading import ANSWERS, CLASS, QUESTIONS, UNSURE, read_answers
from meddap_monai.statistics.shares import cohens_kappa, wilson

ASKED = QUESTIONS | {CLASS: "Did the reader name the class of the label?"}
"""Lines of the table; of the class, "yes" is the class of the label and "no" another one."""
COLUMNS = ("question", "reader", "source", "class_name", "yes", "no", "unsure", "count", "share_yes", "low", "high")


def summarise_reading(folder: Path) -> dict[str, Any]:
    """Compute the table of all readers of a folder and write ``table.json`` and ``table.csv``.

    Args:
        folder: output folder of the reading.

    Returns:
        ``questions``: name -> words; ``rows``: per question, reader ("all" pools them), source and class the counts
        and the share of "yes" with its 95 % Wilson interval over images, however many readers saw them;
        ``told_apart``: share of images whose source each reader named rightly ("unsure" counts as wrong);
        ``agreement``: kappa per pair of readers and question over the images both have read; ``read``: images per
        reader.
    """
    folder = Path(folder)
    readers = {path.stem: read_answers(path) for path in sorted((folder / "answers").glob("*.jsonl"))}
    pooled = [answer for answers in readers.values() for answer in answers]
    rows = [row for name, answers in [*readers.items(), ("all", pooled)] for row in _rows(name, answers)]
    table = {
        "questions": ASKED,
        "rows": rows,
        "told_apart": {name: _told_apart(answers) for name, answers in [*readers.items(), ("all", pooled)]},
        "agreement": _agreement(readers),
        "read": {name: len(answers) for name, answers in readers.items()},
    }
    store.write_json(folder / "table.json", table)
    store.write_atomic(folder / "table.csv", store.csv_text(COLUMNS, ([row[name] for name in COLUMNS] for row in rows)))
    return table


def _rows(reader: str, answers: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    classes = ["all", *sorted({answer["class_name"] for answer in answers})]
    rows = []
    for question, source, name in itertools.product(ASKED, ("real", "synthetic"), classes):
        about = [a for a in answers if a["source"] == source and name in ("all", a["class_name"])]
        if not about:
            continue
        chosen = [_answered(answer, question) for answer in about]
        low, high = _interval(chosen.count("yes"), len(chosen), len({answer["id"] for answer in about}))
        rows.append(
            {"question": question, "reader": reader, "source": source, "class_name": name}
            | {answer: chosen.count(answer) for answer in ANSWERS}
            | {"count": len(chosen), "share_yes": round(chosen.count("yes") / len(chosen), 4)}
            | {"low": round(low, 4), "high": round(high, 4)}
        )
    return rows


def _answered(answer: dict[str, Any], question: str) -> str:
    """Return yes, no or unsure; of the class, whether it is that of the label."""
    given = str(answer[question])
    if question != CLASS or given == UNSURE:
        return given
    return "yes" if given == answer["class_name"] else "no"


def _interval(hits: int, count: int, images: int) -> tuple[float, float]:
    """Wilson's interval over images: answers of several readers about one image are not new images."""
    return wilson(round(hits / max(count, 1) * images), images)


def _told_apart(answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    right = sum(answer["real"] == ("yes" if answer["source"] == "real" else "no") for answer in answers)
    low, high = _interval(right, len(answers), len({answer["id"] for answer in answers}))
    share = round(right / len(answers), 4) if answers else None
    return {"right": right, "count": len(answers), "share": share, "interval": [round(low, 4), round(high, 4)]}


def _agreement(readers: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    found = []
    for (one, first), (two, second) in itertools.combinations(readers.items(), 2):
        theirs = {answer["id"]: answer for answer in second}
        pairs = [(answer, theirs[answer["id"]]) for answer in first if answer["id"] in theirs]
        for question in ASKED:
            kappa = cohens_kappa([a[question] for a, _ in pairs], [b[question] for _, b in pairs])
            value = None if math.isnan(kappa) else round(kappa, 4)
            found.append({"readers": [one, two], "question": question, "count": len(pairs), "kappa": value})
    return found


def print_table(table: dict[str, Any]) -> str:
    """Return the pooled shares and the agreement as plain text lines."""
    lines = [f"{'question':<13}{'source':<11}{'yes':>6}  95 % interval"]
    for row in table["rows"]:
        if row["reader"] == "all" and row["class_name"] == "all":
            span = f"{row['low']:.2f} to {row['high']:.2f}"
            lines.append(f"{row['question']:<13}{row['source']:<11}{row['share_yes']:>6.2f}  {span} (n={row['count']})")
    for entry in table["agreement"]:
        kappa = "undefined" if entry["kappa"] is None else f"{entry['kappa']:.2f}"
        lines.append(f"kappa {' / '.join(entry['readers'])}, {entry['question']}: {kappa} (n={entry['count']})")
    return "\n".join(lines)
