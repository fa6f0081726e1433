"""The provenance guard: a trained thing carries hashes and fingerprints of what it saw, and is never judged on it.

``train_sha256.txt`` holds a line per training image: the SHA-256 of its pixels, then its fingerprint
(`images.likeness`) where the image was at hand. The hash finds equal pixels in any file; the fingerprint finds images
that were resized, cropped, compressed, padded or mirrored, or whose contrast was changed.
"""

import re
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from meddap_monai import store
from meddap_monai.core.progress import progress
from meddap_monai.core.records import FILE_GROUP, Record, iter_records
from meddap_monai.errors import LeakedRecords, StageError
from meddap_monai.images.likeness import DIGITS, Known, fingerprint, from_text, to_text
from meddap_monai.images.reading.recorded import open_recorded

NAME = "train_sha256.txt"
SAME, ALIKE = 0.98, 0.95
"""Correlations from which an image counts as a training image, and from which a pair is only reported."""
_CARDS = ("adapter.json", "base.json", "classifier.json", "filter.json", "model.pt")
"""What this package writes into the folder of a trained thing, always beside `NAME`."""
_LINE = re.compile(rf"([0-9a-f]{{64}})(?: ([0-9a-f]{{{DIGITS}}}))?")
_MANY, _SHOWN = 500, 10
_FOUND: dict[tuple[str, str], tuple[str, float]] = {}
"""Pixel hash and hash of the fingerprints -> what was found; stages of a study ask the same again and again."""

Images = Mapping[str, str]
"""Pixel hash -> fingerprint as text, empty where it is not known."""


@dataclass(frozen=True)
class Sighting:
    """An image that is a training image, or nearly.

    Attributes:
        record: of the image.
        likeness: 1 for equal pixels, else the correlation of the thumbnails.
        training: pixel hash of the training image.
    """

    record: Record
    likeness: float
    training: str

    @property
    def same(self) -> bool:
        """Whether it counts as the training image."""
        return self.likeness >= SAME

    def __str__(self) -> str:
        """Return the image and, where its pixels differ, how like which training image it is."""
        how = "" if self.likeness == 1 else f", {self.likeness:.3f} like {self.training[:12]}"
        return f"{self.record['id']} ({self.record['split']}{how})"


# ------------------------------------------------------------------------------------------------ what a thing saw
def images_of(records: Iterable[Record]) -> dict[str, str]:
    """Return hash and fingerprint of the real images of records; of synthetic ones the hash."""
    return {
        record["sha256"]: to_text(fingerprint(np.asarray(open_recorded(record)))) if record["source"] == "real" else ""
        for record in records
    }


def write_train_hashes(
    folder: Path | str,
    training: Iterable[Record],
    everything: Iterable[Record] = (),
    inherited: Images | None = None,
) -> Path:
    """Write ``train_sha256.txt``: what was trained on, and all images of the same groups.

    Args:
        folder: of the trained thing.
        training: full records it was trained on; synthetic ones count through what their generator saw.
        everything: full records among which group members (same patient, near-duplicates) are looked up.
        inherited: `training_images` of the things it was built on (base, adapter).
    """
    training = list(training)
    groups = {record["patient"] for record in training if record["source"] == "real"}
    members = [*training, *(record for record in everything if record["patient"] in groups)]
    found = together(inherited or {}, images_of({record["sha256"]: record for record in members}.values()))
    return store.write_atomic(Path(folder) / NAME, "".join(f"{line(*item)}\n" for item in sorted(found.items())))


def together(*parts: Images) -> dict[str, str]:
    """Return what several things saw; a fingerprint that one of them knows stays known."""
    found: dict[str, str] = {}
    for part in parts:
        found |= {digest: look or found.get(digest, "") for digest, look in part.items()}
    return found


def line(digest: str, look: str) -> str:
    """Return a line of ``train_sha256.txt``."""
    return f"{digest} {look}".rstrip()


def training_images(folder: Path | str) -> dict[str, str]:
    """Return what a trained thing saw; for a foreign one that does not say, nothing and a warning.

    Raises:
        StageError: a thing of this package lost its ``train_sha256.txt``, or a line of it is none.
    """
    path = Path(folder) / NAME
    if not path.exists() and any((Path(folder) / card).exists() for card in _CARDS):
        raise StageError(
            f"{path}: missing, so nothing tells which images this was trained on and no test set is safe from it; get "
            "the whole folder again"
        )
    lines = store.read_text(path, advice="get the whole folder again").splitlines() if path.exists() else []
    read = [_LINE.fullmatch(text) for text in lines]
    wrong = next((number for number, match in enumerate(read, start=1) if match is None), None)
    if wrong is not None:
        raise StageError(
            f"{path}, line {wrong}: expected 64 hexadecimal digits, or these and {DIGITS} of a fingerprint; get the "
            "whole folder again"
        )
    found = {match[1]: match[2] or "" for match in read if match}
    if not lines:
        warnings.warn(
            f"{folder}: carries no {NAME}, so nothing tells which images it was trained on; judge it only on images "
            "that it cannot have seen",
            stacklevel=2,
        )
    elif not any(found.values()):
        warnings.warn(
            f"{path}: holds no fingerprints, so only images with equal pixels are recognised, not resized or cropped "
            "ones",
            stacklevel=2,
        )
    return found


def train_hashes(folder: Path | str) -> frozenset[str]:
    """Return the hashes of what a trained thing saw; see `training_images`."""
    return frozenset(training_images(folder))


# ------------------------------------------------------------------------------------------------------ comparing
def find_seen(records: Sequence[Record], saw: Images, aside: Collection[str] = ()) -> list[Sighting]:
    """Return the records that are training images, or at least `ALIKE`, in their order.

    Args:
        records: full records.
        saw: hashes and fingerprints of the training images.
        aside: hashes of training images whose fingerprints are not compared: those that stand in the same index, which
            has joined its near-duplicates already.
    """
    looks = {digest: look for digest, look in saw.items() if look and digest not in aside}
    asked = [record for record in records if record["sha256"] not in saw]
    found = dict(_compare(asked, looks)) if looks else {}
    sightings = []
    for record in records:
        training, likeness = (
            (record["sha256"], 1.0) if record["sha256"] in saw else found.get(record["sha256"], ("", 0.0))
        )
        if likeness >= ALIKE:
            sightings.append(Sighting(record, likeness, training))
    return sightings


def _compare(records: Sequence[Record], looks: Images) -> Iterator[tuple[str, tuple[str, float]]]:
    """Yield pixel hash, and hash of the nearest training image with the correlation, below 1 as pixels differ."""
    digests = list(looks)
    name = store.sha256_text("\n".join(line(*item) for item in looks.items()))
    new = list({r["sha256"]: r for r in records if (r["sha256"], name) not in _FOUND}.values())
    if len(_FOUND) > 1_000_000:
        _FOUND.clear()
    bar = progress(new, desc="seen before?", unit="image", leave=False, disable=len(new) < _MANY)
    nearest = Known(from_text([looks[digest] for digest in digests])).nearest(np.asarray(open_recorded(r)) for r in bar)
    for record, (number, likeness) in zip(new, nearest, strict=True):
        _FOUND[record["sha256"], name] = digests[number], min(likeness, 0.9999)
    for record in records:
        yield record["sha256"], _FOUND[record["sha256"], name]


def seen_by(folder: Path | str, records: Iterable[Record], beside: Iterable[Record] = ()) -> list[Sighting]:
    """Return which validation, test and unseen records the thing in `folder` saw, or nearly; see `find_seen`.

    Args:
        folder: of a base, adapter, filter or classifier.
        records: full records of an index.
        beside: further records of the same index.
    """
    saw = training_images(folder)
    if not saw:
        return []
    judged, held = [], {record["sha256"] for record in beside}
    for record in records:
        held.add(record["sha256"])
        if record["split"] != "train":
            judged.append(record)
    return find_seen(judged, saw, held)


def check_provenance(folder: Path | str, records: Iterable[Record], beside: Iterable[Record] = ()) -> None:
    """Stop when a val, test or unseen record is among the training images of the thing in `folder`.

    Args:
        folder: of a base, adapter, filter or classifier.
        records: full records of an index.
        beside: further records of the same index.

    Raises:
        LeakedRecords: names the folder, the split and the first records.
    """
    advice = "Leave them out of these splits, or use another base or adapter"
    refuse_seen(seen_by(folder, records, beside), f"{folder}", "its training images", advice)


def refuse_seen(sightings: Sequence[Sighting], what: str, among: str, advice: str) -> None:
    """Stop at images that were seen; list those that are only alike in a warning.

    Args:
        sightings: of val, test or unseen images.
        what: whom the message is about.
        among: what the images are found among.
        advice: what to do.

    Raises:
        LeakedRecords: says all of these and names the first images.
    """
    seen = [one for one in sightings if one.same]
    if seen:
        edited = sum(one.likeness < 1 for one in seen)
        how = f", {edited} of them resized, cropped or changed otherwise" if edited else ""
        raise LeakedRecords(
            f"{what}: {len(seen)} validation, test or unseen image(s) are among {among}{how}, such as "
            f"{', '.join(map(str, seen[:3]))}; expected none. {advice}"
        )
    if sightings:
        more = f" and {len(sightings) - _SHOWN} more" if len(sightings) > _SHOWN else ""
        warnings.warn(
            f"{what}: {len(sightings)} image(s) are much like {among}: "
            f"{', '.join(map(str, sightings[:_SHOWN]))}{more}; look at them. They are used: the same image begins at "
            f"{SAME}",
            stacklevel=3,
        )


# ---------------------------------------------------------------------------------------------------- two data sets
def shared_with(records: Iterable[Record], others: Iterable[Record]) -> frozenset[str]:
    """Return the pixel hashes of records that stand among other records too, edited or not, or whose patient does.

    Patients are compared by their keyed pseudonyms, which are equal in every index made with one key. Where no patient
    is known, each file is a group of its own, and only the images are compared.
    """
    records, others = list(records), list(others)
    patients = {other["patient"] for other in others if not other["patient"].startswith(FILE_GROUP)}
    seen = {one.record["sha256"] for one in find_seen(records, images_of(others)) if one.same}
    return frozenset(seen | {record["sha256"] for record in records if record["patient"] in patients})


_APART = "Leave them out of one of the two, or rename groups that only share a number"


def check_apart(test: Path, training: Path, advice: str = _APART) -> None:
    """Stop when a test set shares images or patients with what a base is going to be trained on.

    Args:
        test: records file.
        training: records file.
        advice: what to do.

    Raises:
        LeakedRecords: names both files and the first records.
    """
    hits = shared_with(iter_records(test), iter_records(training))
    if hits:
        names = [record["id"] for record in iter_records(test) if record["sha256"] in hits]
        raise LeakedRecords(
            f"{test}: {len(names)} image(s), such as {', '.join(names[:3])}, stand in {training} too, or show its "
            f"patients; expected none. {advice}"
        )
