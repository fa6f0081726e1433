"""What the other stages left behind, gathered for the report: counts, reasons, pictures, seconds."""

from __future__ import annotations

import csv
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from meddap_monai.errors import RecordsError
from meddap_monai.records import Record, iter_records

RECORD_FILES = ("records.jsonl", "chosen.jsonl", "generated.jsonl", "kept.jsonl", "hybrid.jsonl")
REASON_COLUMNS = ("reason", "rule", "error", "message")


def read_sections(sections: Mapping[str, Path]) -> dict[str, Any]:
    """Return per section what the report says about it; a folder without ``stage.json`` is left out.

    Args:
        sections: stage name (or ``unseen``) -> folder.
    """
    found = {}
    for name, folder in sections.items():
        path = folder / "stage.json"
        if path.is_file():
            found[name] = _section(folder, json.loads(path.read_text(encoding="utf-8")))
    return found


def _section(folder: Path, stage: dict[str, Any]) -> dict[str, Any]:
    records = records_of(folder)
    return {
        "stage": stage.get("stage", ""),
        "counts": stage.get("counts", {}),
        "seconds": stage.get("seconds"),
        "device": str((stage.get("configuration") or {}).get("device", "cpu")),
        "classes": class_counts(records),
        "patients": len({row["patient"] for row in records if row["source"] == "real"}),
        "reasons": reasons(folder),
        "shown": _shown(stage),
        "copies": copy_summary(folder),
    }


def _shown(stage: dict[str, Any]) -> dict[str, Any]:
    """Keys of a finished stage that are neither bookkeeping nor long: what the stage itself wanted to say."""
    known = {"stage", "configuration", "inputs", "versions", "state", "counts", "seconds", "classes", "history"}
    return {key: value for key, value in stage.items() if key not in known and len(json.dumps(value)) < 2000}


def copy_summary(folder: Path) -> dict[str, Any] | None:
    """Return what ``selection.json`` says about copies of training images; None where it says nothing."""
    path = folder / "selection.json"
    if not path.is_file():
        return None
    found = json.loads(path.read_text(encoding="utf-8")).get("copies")
    wanted = ("copies", "of", "rate", "interval", "real_images_flagged", "closest")
    return {name: found.get(name) for name in wanted} if found else None


def records_of(folder: Path) -> list[Record]:
    """Return the full records of a stage folder; none when it has none."""
    for name in RECORD_FILES:
        if (folder / name).is_file():
            try:
                return list(iter_records(folder / name))
            except RecordsError:
                return []
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
        path = folder / name
        if not path.is_file():
            continue
        with path.open(encoding="utf-8", newline="") as stream:
            for line in csv.DictReader(stream):
                column = next((key for key in REASON_COLUMNS if line.get(key)), None)
                counts[str(line[column]).split(":")[0][:120] if column else "not said"] += 1
    return dict(counts.most_common(20))


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
    path = folder / "dropped.csv"
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as stream:
        return [dict(line) for line, _ in zip(csv.DictReader(stream), range(limit), strict=False)]
