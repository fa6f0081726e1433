"""What `select` leaves behind: kept and all records, ``dropped.csv`` and the figures of ``selection.json``."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from meddap_monai import store
from meddap_monai.core.records import Record, write_records
from meddap_monai.selection.copies.config import CopyConfig
from meddap_monai.selection.filtering.decisions import CopyCheck, Decision, selection_field
from meddap_monai.selection.filtering.rules import RuleConfig
from meddap_monai.statistics.shares import wilson

CURVE_POINTS = 41
PAIRS = 12


def write_outcome(
    folder: Path, synthetic: Sequence[Record], decision: Decision, rules: RuleConfig, copies: CopyConfig
) -> list[Record]:
    """Write ``kept.jsonl``, ``scored.jsonl`` (all images) and ``dropped.csv``; return all records with `selection`.

    Args:
        folder: output folder of the stage.
        synthetic: N full records.
        decision: about them.
        rules: that were used.
        copies: how copies were treated.
    """
    scored = [
        record | {"selection": selection_field(decision, row, rules, copies)} for row, record in enumerate(synthetic)
    ]
    write_records(folder / "scored.jsonl", scored)
    store.write_atomic(folder / "dropped.csv", _dropped_table(scored, decision))
    write_records(folder / "kept.jsonl", [record for record in scored if record["selection"]["kept"]])
    return scored


def _dropped_table(scored: Sequence[Record], decision: Decision) -> str:
    names = list(decision.scores)
    distances = list(decision.copies.nearest.distances) if decision.copies else []
    head = ["id", "image", "class_name", "adjective", "rule", "all_reasons", *names, "nearest_id", *distances]
    lines = []
    for record, reasons in zip(scored, decision.reasons, strict=True):
        selection = record["selection"]
        if selection["kept"]:
            continue
        nearest = selection.get("nearest", {"id": "", "distances": {}})
        lines.append(
            [record["id"], Path(record["image"]).name, record["class_name"], adjective(record), reasons[0]]
            + [";".join(reasons), *(selection["scores"][name] for name in names), nearest["id"]]
            + [nearest["distances"][name] for name in distances]
        )
    return store.csv_text(head, lines)


def adjective(record: Record) -> str:
    """Return the adjective a synthetic image was prompted with."""
    return str(record.get("synthetic", {}).get("adjective") or "none")


def summarise(scored: Sequence[Record], decision: Decision, classes: Sequence[str]) -> dict[str, Any]:
    """Return counts per class, adjective and reason, acceptance curves and the copy rate, for ``selection.json``.

    Args:
        scored: N full records with `selection`.
        decision: about them.
        classes: names in the order of labels.
    """
    summary: dict[str, Any] = {
        "classes": {name: _counts(decision, [record["class_name"] == name for record in scored]) for name in classes},
        "adjectives": {
            name: _counts(decision, [adjective(record) == name for record in scored])
            for name in sorted({adjective(record) for record in scored})
        },
        "acceptance": acceptance_curves(scored, decision, classes),
    }
    if decision.copies is not None:
        summary["copies"] = _copy_summary(scored, decision.copies)
    return summary


def filter_words(measured: Mapping[str, Any]) -> str:
    """Return in one sentence how good a filter is, beside guessing.

    Args:
        measured: of `FittedFilter.measure`.
    """
    able = "tells the classes apart" if measured["tells_classes_apart"] else "cannot tell the classes apart"
    accuracy, balanced, auc = (_with_interval(measured, name) for name in ("accuracy", "balanced_accuracy", "auc"))
    return (
        f"the filter {able}: on {measured['images']} real images left out, accuracy {accuracy} (always naming the "
        f"commonest class: {measured['guessed']:.2f}), balanced accuracy {balanced} (guessing: "
        f"{measured['chance']:.2f}), AUC {auc} (guessing: 0.50); in brackets 95 % intervals over patients"
    )


def _with_interval(measured: Mapping[str, Any], name: str) -> str:
    low, high = measured[f"{name}_interval"]
    return f"{measured[name]:.2f} [{low:.2f}, {high:.2f}]"


def _counts(decision: Decision, chosen: Sequence[bool]) -> dict[str, Any]:
    rows = np.flatnonzero(chosen)
    kept = int(decision.kept[rows].sum())
    low, high = wilson(kept, len(rows))
    removed = Counter(decision.reasons[row][0] for row in rows if decision.reasons[row])
    return {
        "in": len(rows),
        "kept": kept,
        "kept_share_interval": [round(low, 4), round(high, 4)],
        "removed_by": dict(sorted(removed.items())),
    }


def acceptance_curves(
    scored: Sequence[Record], decision: Decision, classes: Sequence[str]
) -> dict[str, dict[str, list[float]]]:
    """Return for each rule the share of each class whose score reaches a threshold, over thresholds.

    Args:
        scored: N full records.
        decision: with the verdicts.
        classes: names in the order of labels.
    """
    names = np.array([record["class_name"] for record in scored])
    curves = {}
    for rule, verdict in decision.verdicts.items():
        values = verdict.scores[rule]
        low, high = min(0.0, float(values.min())), max(1.0, float(values.max()))
        thresholds = np.linspace(low, high, CURVE_POINTS)
        curve = {"threshold": [round(float(value), 4) for value in thresholds]}
        for name in classes:
            own = values[names == name]
            if len(own):
                curve[name] = [round(float((own >= value).mean()), 4) for value in thresholds]
        curves[rule] = curve
    return curves


def _copy_summary(scored: Sequence[Record], check: CopyCheck) -> dict[str, Any]:
    count = int(check.copied.sum())
    low, high = wilson(count, len(check.copied))
    return {
        "copies": count,
        "of": len(check.copied),
        "rate": round(count / max(len(check.copied), 1), 6),
        "interval": [round(low, 6), round(high, 6)],
        "thresholds": {name: round(value, 6) for name, value in check.thresholds.values.items()},
        "real_images_flagged": round(check.thresholds.share, 6),
        "same_real_pictures": [
            [check.training[one]["id"], check.training[two]["id"]] for one, two in check.thresholds.same_pictures
        ],
        "closest": [
            {"synthetic": scored[row]["id"], **scored[row]["selection"]["nearest"], "copy": bool(check.copied[row])}
            for row in closest_pairs(check)
        ],
        "distances": {name: _quantiles(value) for name, value in check.nearest.distances.items()},
        "real_distances": {name: _quantiles(value) for name, value in check.thresholds.real_distances.items()},
    }


def closest_pairs(check: CopyCheck, count: int = PAIRS) -> list[int]:
    """Return the rows of the images nearest to a training image, nearest first, in units of the thresholds."""
    ratios = [check.nearest.distances[name] / max(value, 1e-6) for name, value in check.thresholds.values.items()]
    return [int(row) for row in np.argsort(np.min(ratios, axis=0), kind="stable")[:count]]


def _quantiles(values: np.ndarray) -> dict[str, float]:
    finite = values[np.isfinite(values)]
    if not len(finite):
        return {}
    return {f"{share:g} %": round(float(np.percentile(finite, share)), 6) for share in (0, 1, 5, 50, 95)}
