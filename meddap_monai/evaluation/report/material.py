"""What the other stages left behind, gathered for the report: counts, reasons, pictures, seconds."""

import itertools
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from meddap_monai import store
from meddap_monai.core.records import Record, iter_records
from meddap_monai.statistics.shares import beyond_guessing, wilson
from meddap_monai.store import STAGES

RECORD_FILES = ("records.jsonl", "chosen.jsonl", "generated.jsonl", "kept.jsonl", "hybrid.jsonl")
REASON_COLUMNS = ("reason", "rule", "error", "message")


def read_sections(sections: Mapping[str, Path]) -> dict[str, Any]:
    """Return per section what the report says about it; a folder without ``stage.json`` is left out.

    Args:
        sections: stage name (or ``unseen``) -> folder.
    """
    found = {}
    for name, folder in sections.items():
        if (folder / "stage.json").is_file():
            found[name] = _section(folder, store.read_stage(folder))
    return found


def sum_stages(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Return per stage what all its folders (seeds, variants, adapters) took and left out, in the order of the stages.

    Args:
        folders: stage folders; one without a finished ``stage.json`` counts nothing.
    """
    found: dict[str, list[tuple[Path, dict[str, Any]]]] = defaultdict(list)
    for folder in dict.fromkeys(folders):
        document = store.read_stage(folder) if (folder / "stage.json").is_file() else {}
        joined = "joined" in (document.get("configuration") or {})  # its parts are counted already
        if document.get("state") == "done" and "stage" in document and not joined:
            found[document["stage"]].append((folder, document))
    return [_sum(name, found[name]) for name in STAGES if name in found]


def _sum(name: str, members: Sequence[tuple[Path, dict[str, Any]]]) -> dict[str, Any]:
    counts: Counter[str] = Counter()
    why: Counter[str] = Counter()
    for folder, document in members:
        counts.update({key: document.get("counts", {}).get(key, 0) for key in ("in", "out", "rejected")})
        why.update(reasons(folder))
    devices = sorted({device_of(document) for _, document in members})
    return {
        "stage": name,
        "runs": len(members),
        "seconds": round(sum(store.read_cost(folder).get("seconds", 0.0) for folder, _ in members), 3),
        "device": ", ".join(devices),
        "counts": dict(counts),
        "reasons": dict(why.most_common(20)),
        "copies": _sum_copies([copy_summary(folder) for folder, _ in members]),
        "filter": _sum_filters([folder for folder, _ in members]),
    }


def device_of(stage: Mapping[str, Any]) -> str:
    """Return where a stage ran, from its ``stage.json``: as it says itself, or as it or its filter was asked to.

    What chose its device itself had only one to choose from where torch knows no other.
    """
    configuration = stage.get("configuration") or {}
    given = stage.get("device") or configuration.get("device") or (configuration.get("filter") or {}).get("device")
    asked = str(given or "cpu")
    without_gpu = str((stage.get("versions") or {}).get("torch", "")).endswith("+cpu")
    return "cpu" if asked == "auto" and without_gpu else asked


def _sum_copies(found: Sequence[dict[str, Any] | None]) -> dict[str, Any] | None:
    """Copies of all selections together; the interval is Wilson's."""
    checked = [one for one in found if one and one.get("of")]
    if not checked:
        return None
    copies, of = sum(one["copies"] for one in checked), sum(one["of"] for one in checked)
    flagged = [one["real_images_flagged"] for one in checked if one.get("real_images_flagged") is not None]
    mean = sum(flagged) / len(flagged) if flagged else None
    interval = list(wilson(copies, of))
    return {"copies": copies, "of": of, "rate": copies / of, "interval": interval, "real_images_flagged": mean}


def _sum_filters(folders: Sequence[Path]) -> dict[str, Any] | None:
    """Judge the filters of all selections together, each on real images that it was not trained on."""
    said = [store.read_json(folder / "selection.json") for folder in folders if (folder / "selection.json").is_file()]
    found = [one["filter"] for one in said if one.get("filter")]
    if not found:
        return None
    confusion = np.sum([one["confusion"] for one in found], axis=0)
    known = [one["auc"] for one in found if one["auc"] is not None]
    return {
        "images": int(confusion.sum()),
        "auc": sum(known) / len(known) if known else None,
        **asdict(beyond_guessing(confusion)),
    }


def _section(folder: Path, stage: dict[str, Any]) -> dict[str, Any]:
    records = records_of(folder)
    return {
        "stage": stage.get("stage", ""),
        "counts": stage.get("counts", {}),
        "seconds": store.read_cost(folder).get("seconds"),
        "device": device_of(stage),
        "classes": class_counts(records),
        "patients": len({row["patient"] for row in records if row["source"] == "real"}),
        "reasons": reasons(folder),
        "shown": _shown(stage),
        "copies": copy_summary(folder),
    }


def _shown(stage: dict[str, Any]) -> dict[str, Any]:
    """Keys of a finished stage that are neither bookkeeping nor long: what the stage itself wanted to say."""
    known = {"stage", "configuration", "inputs", "versions", "state", "counts", "classes", "device"}
    return {key: value for key, value in stage.items() if key not in known and len(json.dumps(value)) < 2000}


def copy_summary(folder: Path) -> dict[str, Any] | None:
    """Return what ``selection.json`` says about copies of training images; None where it says nothing."""
    path = folder / "selection.json"
    if not path.is_file():
        return None
    found = store.read_json(path).get("copies")
    wanted = ("copies", "of", "rate", "interval", "real_images_flagged", "closest", "thresholds")
    return {name: found.get(name) for name in wanted} if found else None


def records_of(folder: Path) -> list[Record]:
    """Return the full records of a stage folder; none when it has none."""
    for name in RECORD_FILES:
        if (folder / name).is_file():
            return list(iter_records(folder / name))
    return []


def class_counts(records: Iterable[Record]) -> dict[str, dict[str, int]]:
    """Return class -> split (or ``synthetic``) -> images."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for row in records:
        counts[row["class_name"]]["synthetic" if row["source"] == "synthetic" else row["split"]] += 1
    return {name: dict(counts[name]) for name in sorted(counts)}


def reasons(folder: Path) -> dict[str, int]:
    """Return why items were left out -> how many, from ``rejects.csv`` or ``dropped.csv``; most frequent first."""
    counts: Counter[str] = Counter()
    for name in ("rejects.csv", "dropped.csv"):
        for line in _rows(folder / name):
            column = next((key for key in REASON_COLUMNS if line.get(key)), None)
            counts[_kind_of(line[column]) if column else "not said"] += 1
    return dict(counts.most_common(20))


def _kind_of(reason: str) -> str:
    """A reason without what differs from item to item: what follows a colon, and ids."""
    return re.sub(r"\b[0-9a-f]{12,}\b", "another image", reason.split(":")[0])[:120]


def pictures_by_class(records: Iterable[Record], per_class: int) -> dict[str, list[Record]]:
    """Return class -> the first `per_class` records of different patients (ordered by id), then the rest."""
    groups: dict[str, list[Record]] = defaultdict(list)
    for row in sorted(records, key=lambda item: item["id"]):
        groups[row["class_name"]].append(row)
    chosen = {}
    for name in sorted(groups):
        once = {row["patient"]: row for row in reversed(groups[name])}
        first = [row for row in groups[name] if once[row["patient"]] is row]
        rest = [row for row in groups[name] if once[row["patient"]] is not row]
        chosen[name] = (first + rest)[:per_class]
    return chosen


def dropped_rows(folder: Path, limit: int) -> list[dict[str, str]]:
    """Return the first rows of ``dropped.csv``."""
    return list(itertools.islice(_rows(folder / "dropped.csv"), limit))


def _rows(path: Path) -> Iterator[dict[str, str]]:
    """Yield the rows of a table of a stage; none where there is no such file."""
    if path.is_file():
        lines = store.read_csv(path)
        _, head = next(lines, (1, []))
        yield from (dict(zip(head, cells, strict=False)) for _, cells in lines)
