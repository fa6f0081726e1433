"""The provenance guard: a trained thing carries the hashes of what it saw, and is never judged on any of it."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from pathlib import Path

from meddap_monai import store
from meddap_monai.core.records import FILE_GROUP, Record, iter_records
from meddap_monai.errors import LeakedRecords, StageError

NAME = "train_sha256.txt"
_CARDS = ("adapter.json", "base.json", "classifier.json", "filter.json", "model.pt")
"""What this package writes into the folder of a trained thing, always beside `NAME`."""
_HASH = re.compile(r"[0-9a-f]{64}")


def write_train_hashes(
    folder: Path | str, training: Iterable[Record], everything: Iterable[Record] = (), inherited: Iterable[str] = ()
) -> Path:
    """Write ``train_sha256.txt``: pixel hashes of the training images and of all images of the same groups.

    Args:
        folder: of the trained thing.
        training: full records it was trained on; synthetic ones count through what their generator saw.
        everything: full records among which group members (same patient, near-duplicates) are looked up.
        inherited: hashes of the things it was built on (base, adapter).
    """
    training = list(training)
    groups = {record["patient"] for record in training if record["source"] == "real"}
    hashes = {record["sha256"] for record in training} | set(inherited)
    hashes |= {record["sha256"] for record in everything if record["patient"] in groups}
    return store.write_atomic(Path(folder) / NAME, "".join(f"{item}\n" for item in sorted(hashes)))


def shared_with(records: Iterable[Record], others: Iterable[Record]) -> frozenset[str]:
    """Return the pixel hashes of records that stand among other records too, or whose patient does.

    Patients are compared by their keyed pseudonyms, which are equal in every index made with one key. Where no patient
    is known, each file is a group of its own, and only equal pixels are found.
    """
    hashes, patients = set(), set()
    for other in others:
        hashes.add(other["sha256"])
        if not other["patient"].startswith(FILE_GROUP):
            patients.add(other["patient"])
    return frozenset(
        record["sha256"] for record in records if record["sha256"] in hashes or record["patient"] in patients
    )


def check_apart(test: Path, training: Path) -> None:
    """Stop when a test set shares images or patients with what a base is going to be trained on.

    Args:
        test: records file.
        training: records file.

    Raises:
        LeakedRecords: names both files and the first records.
    """
    hits = shared_with(iter_records(test), iter_records(training))
    if hits:
        names = [record["id"] for record in iter_records(test) if record["sha256"] in hits]
        raise LeakedRecords(
            f"{test}: {len(names)} image(s), such as {', '.join(names[:3])}, stand in {training} too, or show its "
            "patients; expected none. Leave them out of one of the two, or rename groups that only share a number"
        )


def train_hashes(folder: Path | str) -> frozenset[str]:
    """Return the hashes a trained thing saw; for a foreign one that carries none, nothing and a warning.

    Raises:
        StageError: a thing of this package lost its ``train_sha256.txt``, or a line of it is no hash.
    """
    path = Path(folder) / NAME
    if not path.exists() and any((Path(folder) / card).exists() for card in _CARDS):
        raise StageError(
            f"{path}: missing, so nothing tells which images this was trained on and no test set is safe from it; get "
            "the whole folder again"
        )
    lines = store.read_text(path, advice="get the whole folder again").splitlines() if path.exists() else []
    wrong = next((number for number, line in enumerate(lines, start=1) if _HASH.fullmatch(line) is None), None)
    if wrong is not None:
        raise StageError(f"{path}, line {wrong}: expected 64 hexadecimal digits; get the whole folder again")
    if not lines:
        warnings.warn(
            f"{folder}: carries no {NAME}, so nothing tells which images it was trained on; judge it only on images "
            "that it cannot have seen",
            stacklevel=2,
        )
    return frozenset(lines)


def check_provenance(folder: Path | str, records: Iterable[Record]) -> None:
    """Stop when a val, test or unseen record is among the training images of the thing in `folder`.

    Args:
        folder: of a base, adapter, filter or classifier.
        records: full records.

    Raises:
        LeakedRecords: names the folder, the split and the first records.
    """
    seen = train_hashes(folder)
    if not seen:
        return
    hits = [record for record in records if record["split"] != "train" and record["sha256"] in seen]
    if hits:
        examples = ", ".join(f"{record['id']} ({record['split']})" for record in hits[:3])
        raise LeakedRecords(
            f"{folder}: {len(hits)} validation, test or unseen image(s) are among its training images, such as "
            f"{examples}; expected none. Leave them out of these splits, or use another base or adapter"
        )
