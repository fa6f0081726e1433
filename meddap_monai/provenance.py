"""The provenance guard: a trained thing carries the hashes of what it saw, and is never judged on any of it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from meddap_monai import store
from meddap_monai.errors import LeakedRecords
from meddap_monai.records import Record

NAME = "train_sha256.txt"


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


def train_hashes(folder: Path | str) -> frozenset[str]:
    """Return the hashes a trained thing saw; empty for a foreign one that carries none."""
    path = Path(folder) / NAME
    return frozenset(path.read_text().split()) if path.is_file() else frozenset()


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
            f"{examples}; expected none. Draw the split again without them (draw: seen), or use another base or adapter"
        )
