"""A report for somebody who reads no statistics: what was asked, what was found, how sure, what it does not show."""

from collections.abc import Mapping, Sequence
from typing import Any

from meddap_monai.statistics.comparisons import HARMS, HELPS, LEAST_SEEDS, NOTHING
from meddap_monai.statistics.weighted import METRICS

MOST = 4
"""Verdicts that are told one by one; of more only the headline speaks."""
SCALE = {"auc": " (1 is perfect, 0.5 is guessing)"}


def plain_words(report: Mapping[str, Any]) -> dict[str, str]:
    """Return four short texts: ``asked``, ``found``, ``sure`` and ``not_shown``.

    Args:
        report: as it stands in ``report.json``.
    """
    told = report["verdicts"] if len(report["verdicts"]) <= MOST else []
    sets = [name for name in report["sets"] if any(row["test_set"] == name for row in told)]
    rows = {name: [row for row in told if row["test_set"] == name] for name in sets}
    return {
        "asked": _asked(report),
        "found": " ".join([headline(report["verdicts"]), *(_found(report, rows[name]) for name in sets)]),
        "sure": " ".join(filter(None, [_repeats(report), *(_sure(report, rows[name]) for name in sets)])),
        "not_shown": _not_shown(report),
    }


def headline(verdicts: Sequence[Mapping[str, Any]]) -> str:
    """Return the headline's answer in one sentence."""
    if not verdicts:
        return "Nothing to decide: no arm with synthetic images was compared with a reference arm."
    if all(row["seeds"] < LEAST_SEEDS for row in verdicts):
        return f"Too few seeds for a verdict: it needs {LEAST_SEEDS}."
    count = {word: sum(row["verdict"] == word for row in verdicts) for word in (HELPS, HARMS, NOTHING)}
    total = len(verdicts)
    if count[HELPS] == total:
        return "Yes, in every comparison made here."
    if count[NOTHING] == total:
        return "No evidence that they do, and none that they harm."
    parts = [f"{word} in {count[word]}" for word in (HELPS, HARMS, NOTHING) if count[word]]
    return f"It depends: {', '.join(parts)} of {total} comparisons."


def _asked(report: Mapping[str, Any]) -> str:
    trained = {name: counts.get("train", 0) for name, counts in report["draw"].items()}
    classes = ", ".join(f"{count} {name}" for name, count in trained.items())
    made = next((row["counts"]["out"] for row in report["stages"] if row["stage"] == "generate"), None)
    drawn = f" A computer program drew {made} artificial (synthetic) ones after them." if made else ""
    sets = " and on an ".join(found["name"] for found in report["sets"].values())
    return (
        f"{report['question']} Programs that name the class of an image learnt from {sum(trained.values())} real "
        f"images ({classes}).{drawn} Some learnt from the real images only, others from both. All were then tested on "
        f"real images of other patients: on an {sets}."
    )


def _found(report: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """What the arms reached on the test set that the verdicts are about."""
    found, metric = report["sets"][rows[0]["test_set"]], rows[0]["metric"]
    arms = dict.fromkeys([row["reference"] for row in rows] + [row["arm"] for row in rows])
    means = {arm: found["arms"][arm][metric]["mean"] for arm in arms}
    reached = "; ".join(f"{_quote(report, arm)} {_two_digits(mean)}" for arm, mean in means.items())
    return f"{METRICS[metric].words}{SCALE.get(metric, '')} on the {found['name']}: {reached}."


def _repeats(report: Mapping[str, Any]) -> str:
    count = len(report["seeds"])
    if count == 1:
        return "Everything was done once only, so that luck in training cannot be told from an effect."
    few = f" At least {LEAST_SEEDS} are needed to say yes or no." if count < LEAST_SEEDS else ""
    return f"Everything was repeated {count} times with other draws of images.{few}"


def _sure(report: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """How far the differences on a test set may reach."""
    told = []
    for row in rows:
        if row["low"] is None or row["high"] is None:
            continue
        crosses = row["low"] <= 0 <= row["high"]
        word = "so it may be none at all" if crosses else "which leaves out zero"
        told.append(f"{_quote(report, row['arm'])} {row['low']:+.3f} to {row['high']:+.3f}, {word}")
    if not told:
        return ""
    name, reference = report["sets"][rows[0]["test_set"]]["name"], _quote(report, rows[0]["reference"])
    return (
        f"On the {name} the true difference to {reference} lies, with {report['confidence']:.0%} confidence, "
        f"within: {'; '.join(told)}."
    )


def _quote(report: Mapping[str, Any], arm: str) -> str:
    return f"\u201c{report['arms'][arm]}\u201d"


def _two_digits(value: float | None) -> str:
    return "not known" if value is None else f"{value:.2f}"


def _not_shown(report: Mapping[str, Any]) -> str:
    parts = [
        "It does not show that any patient is diagnosed better, or what happens with another scanner, hospital or "
        "choice of patients. No program and no synthetic image of this report is for diagnosis."
    ]
    if "unseen" not in report["sets"]:
        parts.append("There was no test set from elsewhere.")
    filters = [row["filter"] for row in report["stages"] if row["stage"] == "select" and row["filter"]]
    if filters and not filters[0]["better"]:
        parts.append("The filter of the synthetic images could not tell the classes apart, so it vouches for none.")
    return " ".join(parts)


def filter_words(chosen: Mapping[str, Any]) -> str:
    """Return what the filter of a selection is worth, in one sentence; empty where nothing is known.

    Args:
        chosen: the row ``select`` of the report's ``stages``.
    """
    found = chosen.get("filter")
    if not found:
        return ""
    auc = "" if found["auc"] is None else f" and its AUC {found['auc']:.2f} (guessing: 0.50)"
    numbers = (
        f"on {found['images']} real images that it had not learnt, its accuracy is {found['accuracy']:.2f} (always "
        f"naming the commonest class: {found['guessed']:.2f}){auc}"
    )
    if found["better"]:
        return f"The filter can tell the classes apart: {numbers}."
    kept = f"{chosen['counts']['out']} of {chosen['counts']['in']}"
    return (
        f"The filter cannot tell the classes apart: {numbers}. That {kept} were kept does not mean that they show "
        "their class."
    )
