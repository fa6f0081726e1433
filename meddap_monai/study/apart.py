"""The unseen set of a study is held against all that will train, as soon as both are indexed."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meddap_monai import store
from meddap_monai.core.records import Record, class_names, iter_records, read_records, write_records
from meddap_monai.errors import RecordsError
from meddap_monai.images import provenance

FOLDER = "unseen_apart"
_ADVICE = (
    "To leave them out, counted and listed, type unseen#exclude_seen=true; or give another base or another unseen set"
)


@dataclass(frozen=True)
class Training:
    """What a study trains on.

    Attributes:
        base: hashes and fingerprints of what the base saw.
        base_name: its name.
        own: records file of the own images.
        drawn: whether every own image may be drawn for training; else those of the splits train and val do.
        unlabelled: records file of what a base is going to be trained on.
    """

    base: provenance.Images
    base_name: str
    own: Path
    drawn: bool
    unlabelled: Path | None

    def sets(self) -> Iterator[tuple[str, provenance.Images]]:
        """Yield name and images of each, the most telling first."""
        yield f"the training images of the base {self.base_name!r}", self.base
        own = (row for row in iter_records(self.own) if self.drawn or row["split"] in ("train", "val"))
        yield "the own images (index)", provenance.images_of(own)


def keep_apart(output: Path, unseen: Path, training: Training, exclude: bool, overwrite: bool = False) -> Path:
    """Return the records of the unseen set to be tested on: none of them seen by anything that trains.

    Args:
        output: folder of the study; with `exclude` the result lies in ``unseen_apart/``, which stands for the index of
            the unseen set from then on: its ``rejects.csv`` and counts hold those of the index too.
        unseen: records file of the unseen set.
        training: what trains.
        exclude: leave seen images out instead of stopping.
        overwrite: replace a folder of another configuration.

    Raises:
        LeakedRecords: an image was seen, equal or edited, or shares its patient with the unlabelled set; the message
            says what to type.
        RecordsError: none is left.
    """
    if not exclude:
        rows = read_records(unseen, full=True)
        for name, images in training.sets():
            provenance.refuse_seen(provenance.find_seen(rows, images), f"{unseen}", name, _ADVICE)
        if training.unlabelled:
            provenance.check_apart(unseen, training.unlabelled, _ADVICE)
        return unseen
    inputs: dict[str, Any] = {"records": unseen, "index": training.own, "unlabelled": training.unlabelled}
    seen = store.sha256_text("".join(sorted(training.base)))
    with store.open_stage(output / FOLDER, "index", {"exclude_seen": True, "base": seen}, inputs, overwrite) as stage:
        if not stage.done:
            _leave_out(stage, unseen, training)
    return output / FOLDER / "records.jsonl"


def refuse_seen_unseen(unseen: Path, drawn: Iterable[Path]) -> None:
    """Stop when an unseen image, equal or edited, is a training image of a draw, before a classifier is trained.

    Args:
        unseen: records file of the unseen set.
        drawn: records files of the draws.

    Raises:
        LeakedRecords: says what to type.
    """
    rows = read_records(unseen, full=True)
    training = (row for path in drawn for row in read_records(path, split="train", source="real", full=True))
    images = provenance.images_of({row["sha256"]: row for row in training}.values())
    advice = "To leave them out, counted and listed, type evaluate#exclude_seen=true; or give another unseen set"
    provenance.refuse_seen(provenance.find_seen(rows, images), f"{unseen}", "the training images of the draws", advice)


def _leave_out(stage: store.Stage, unseen: Path, training: Training) -> None:
    rows = read_records(unseen, full=True)
    why = _reasons(rows, training)
    kept = [row for row in rows if row["id"] not in why]
    if not kept:
        raise RecordsError(f"{unseen}: all {len(why)} images were seen in training; give another unseen set")
    write_records(stage.folder / "records.jsonl", kept)
    before = unseen.parent / "rejects.csv"
    lines = [cells for _, cells in store.read_csv(before)][1:] if before.is_file() else []
    lines += [[name, reason] for name, reason in sorted(why.items())]
    store.write_atomic(stage.folder / "rejects.csv", store.csv_text(("item", "reason"), lines))
    counts = dict(store.read_stage(unseen.parent).get("counts") or {"in": len(rows), "rejected": 0})
    counts |= {"out": len(kept), "rejected": counts["rejected"] + len(why), "seen_left_out": len(why)}
    stage.finish(counts, classes=class_names(unseen))


def _reasons(rows: list[Record], training: Training) -> Mapping[str, str]:
    """Return id -> why it is left out: by what it was seen, and how like its training image it is."""
    why: dict[str, str] = {}
    for name, images in training.sets():
        found = provenance.find_seen(rows, images)
        for one in (one for one in found if one.same):
            reason = f"seen, among {name}: {one.likeness:.3f} like {one.training[:12]}"
            why.setdefault(one.record["id"], reason)
        provenance.refuse_seen([one for one in found if not one.same], "unseen", name, _ADVICE)
    if training.unlabelled:
        shared = provenance.shared_with(rows, iter_records(training.unlabelled))
        for row in rows:
            if row["sha256"] in shared:
                why.setdefault(row["id"], "seen, image or patient of the unlabelled set")
    return why
