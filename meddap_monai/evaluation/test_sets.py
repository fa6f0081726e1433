"""The test images that classifiers may be judged on: decided for all of them before any is loaded or trained."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meddap_monai import store
from meddap_monai.core.records import Record, read_records
from meddap_monai.errors import LeakedRecords, RecordsError
from meddap_monai.evaluation.predictions import ClassifierRun
from meddap_monai.images.provenance import Sighting, check_provenance, refuse_seen, seen_by

SEEN = "seen.csv"


@dataclass(frozen=True)
class TestSets:
    """What is tested on.

    Attributes:
        own: records file of runs -> its full records of split test.
        unseen: full records of the unseen test set, None without one.
        left_out: number of unseen images that a classifier or a guard has seen.
    """

    own: dict[Path, list[Record]]
    unseen: list[Record] | None
    left_out: int = 0


def open_test_sets(
    runs: Sequence[ClassifierRun], unseen: Path | None, guards: Sequence[Path], exclude_seen: bool, output: Path
) -> TestSets:
    """Read all test images and hold them against everything trained.

    Args:
        runs: the classifiers.
        unseen: records file.
        guards: further trained things (base, adapters, filter).
        exclude_seen: leave seen images out of the unseen set instead of stopping; ``seen.csv`` lists them.
        output: folder of the evaluation.

    Raises:
        LeakedRecords: a test or unseen image is among the training images of a run or a guard, or is synthetic.
        RecordsError: no image of the split test, or none that was not seen.
    """
    own: dict[Path, list[Record]] = {}
    for run in runs:
        path = Path(run.records)
        everything = read_records(path, full=True)
        own[path] = own.get(path) or test_rows(path, everything, "test")
        for folder in (run.model, *guards):
            check_provenance(folder, own[path], beside=everything)
    if unseen is None:
        return TestSets(own, None)
    rows = test_rows(unseen, read_records(unseen, full=True), "unseen")
    found = _seen(rows, [*(run.model for run in runs), *guards])
    seen = [one for one in found.values() if one[1].same]
    if found:
        _write_seen(output / SEEN, found.values())
    if not exclude_seen:
        for folder in dict.fromkeys(folder for folder, _ in seen):
            _refuse(folder, [sighting for by, sighting in seen if by == folder])
    refuse_seen([one for _, one in found.values() if not one.same], f"{unseen}", "training images", "")
    gone = {one.record["id"] for _, one in seen}
    rows = [row for row in rows if row["id"] not in gone]
    if not rows:
        raise RecordsError(f"{unseen}: all {len(gone)} images were seen in training; give another unseen set")
    return TestSets(own, rows, len(gone))


def check_unseen_by(run: ClassifierRun, sets: TestSets) -> None:
    """Hold a classifier that the evaluation trained itself against the test sets; see `open_test_sets`."""
    check_provenance(run.model, sets.own[Path(run.records)], beside=read_records(run.records, full=True))
    if sets.unseen:
        _refuse(run.model, seen_by(run.model, _as_unseen(sets.unseen)))


def _refuse(folder: Path, sightings: Sequence[Sighting]) -> None:
    advice = "To leave them out, counted and listed, type evaluate#exclude_seen=true; or give another unseen set"
    refuse_seen(sightings, f"{folder}", "its training images", advice)


def _seen(rows: Sequence[Record], trained: Iterable[Path]) -> dict[str, tuple[Path, Sighting]]:
    """Return id -> by what an image was seen, and how like its training image it is; the likest."""
    found: dict[str, tuple[Path, Sighting]] = {}
    judged = _as_unseen(rows)
    for folder in dict.fromkeys(trained):
        for one in seen_by(folder, judged):
            name = one.record["id"]
            if name not in found or one.likeness > found[name][1].likeness:
                found[name] = folder, one
    return found


def _as_unseen(rows: Iterable[Record]) -> list[Record]:
    return [row if row["split"] != "train" else row | {"split": "unseen"} for row in rows]


def _write_seen(path: Path, found: Iterable[tuple[Path, Sighting]]) -> None:
    head = ("item", "seen_by", "likeness", "training_sha256", "left_out_or_refused")
    lines: list[Sequence[Any]] = [
        (one.record["id"], folder.name, f"{one.likeness:.4f}", one.training, "yes" if one.same else "no")
        for folder, one in found
    ]
    store.write_atomic(path, store.csv_text(head, lines))


def test_rows(records: Path, everything: Sequence[Record], split: str) -> list[Record]:
    """Return the full records of the split test or unseen; of a file without split unseen, all its real ones.

    Raises:
        LeakedRecords: a synthetic record stands outside train.
        RecordsError: the split is empty.
    """
    synthetic = [row["id"] for row in everything if row["source"] == "synthetic" and row["split"] != "train"]
    if synthetic:
        raise LeakedRecords(
            f"{records}: {len(synthetic)} synthetic image(s) outside train, such as {synthetic[0]}; an evaluation "
            "judges on real images only"
        )
    rows = [row for row in everything if row["split"] == split]
    if split == "unseen" and not rows:
        rows = [row for row in everything if row["source"] == "real"]
    if not rows:
        raise RecordsError(f"{records}: no image of split {split!r}; draw the split with a test set")
    return rows
