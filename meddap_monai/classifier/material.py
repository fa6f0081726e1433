"""What a classifier learns from: read, and checked before anything is trained."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from meddap_monai.core.records import Record, class_names, read_records
from meddap_monai.errors import LeakedRecords, RecordsError


@dataclass(frozen=True)
class Material:
    """What a classifier learns from: training and validation records and the class names."""

    training: list[Record]
    validation: list[Record]
    classes: list[str]


def read_material(records: Path) -> Material:
    """Read and check what a classifier learns from.

    Raises:
        LeakedRecords: a synthetic image outside train.
        RecordsError: a class without training image, no validation image, or fewer than two classes.
    """
    classes = class_names(records)
    rows = read_records(records, full=True)
    leaked = [row["id"] for row in rows if row["source"] == "synthetic" and row["split"] != "train"]
    if leaked:
        raise LeakedRecords(
            f"{records}: {len(leaked)} synthetic image(s) outside train, such as {leaked[0]}; they only train"
        )
    training = [row for row in rows if row["split"] == "train"]
    validation = [row for row in rows if row["split"] == "val"]
    found = Counter(row["label"] for row in training)
    if len(classes) < 2:
        raise RecordsError(f"{records}: holds one class ({', '.join(classes)}), expected at least two to tell apart")
    empty = [name for label, name in enumerate(classes) if not found[label]]
    if empty:
        raise RecordsError(
            f"{records}: no training image of class {empty[0]!r}; expected at least one of each of {classes}"
        )
    if not validation:
        raise RecordsError(f"{records}: no image of split val; the best weights are chosen on real validation images")
    return Material(training, validation, classes)
