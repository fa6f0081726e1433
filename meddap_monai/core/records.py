"""Records, the one currency of the pipeline: one JSON line about one image, and a valid MONAI datalist item.

The fields are fixed in ``docs/contracts.md`` and ``schemas/record.json``. On disk ``image`` is relative to the records
file; everything that reads makes it absolute.
"""

import hashlib
import json
import os
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from meddap_monai import store
from meddap_monai.core.contract import RecordSet
from meddap_monai.core.seeds import derive_seed
from meddap_monai.errors import RecordsError

FILE_GROUP = "file-"
"""How `patient` begins where none is known, so that each file is a group of its own."""
ITEM_FIELDS = ("id", "image", "label", "class_name", "patient", "split", "source", "sha256")
"""What `read_records` returns by default: no nulls and no nesting, so that it collates."""
LONGEST_LINE = 2**20
"""Bytes of one record."""
_AGAIN = "run the stage that writes this file again"

Record = dict[str, Any]


def read_records(
    path: Path | str, split: str | None = None, source: str | None = None, full: bool = False
) -> list[Record]:
    """Return the records of a file as MONAI datalist items, images absolute.

    Args:
        path: a ``.jsonl`` file written by a stage.
        split: only this split.
        source: only this source.
        full: every field instead of `ITEM_FIELDS`.

    Raises:
        RecordsError: the file is missing, or a line breaks the contract (file and line are named).
    """
    chosen = (
        record
        for record in iter_records(path)
        if split in (None, record["split"]) and source in (None, record["source"])
    )
    if full:
        return list(chosen)
    return [{name: record[name] for name in ITEM_FIELDS} for record in chosen]


def iter_records(path: Path | str) -> Iterator[Record]:
    """Yield full records one by one, images absolute; memory grows with ids and patients only.

    A link on the way to an image may not leave the folder of the records (`store.links_out`).

    Raises:
        RecordsError: see `read_records`.
    """
    path = Path(path)
    folder = path.resolve().parent
    together, safe = RecordSet(_classes_beside(path)), ""
    for number, line in enumerate(_lines(path), start=1):
        where = f"{path}, line {number}"
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            raise RecordsError(f"{where}: not UTF-8 text (byte {line[error.start]:#04x}); {_AGAIN}") from error
        record = store.parse_json(text, str(path), RecordsError, _AGAIN, number)
        together.add(record, where)
        record["image"] = image = os.path.normpath(folder / record["image"])
        if (place := os.path.dirname(image)) != safe or os.path.islink(image):
            if store.links_out(image, folder):
                raise RecordsError(
                    f"{where}: image {image[:200]!r} lies behind a link that leaves the folder of its records; copy "
                    f"the file there, or set {store.ALLOW_LINKS}=1 if the link can be trusted"
                )
            safe = place
        yield record


def _lines(path: Path) -> Iterator[bytes]:
    try:
        stream = store.regular_file(path).open("rb")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", error)
        raise RecordsError(f"{path}: cannot be read ({reason}); give the records file of a stage") from error
    with stream:
        while line := stream.readline(LONGEST_LINE + 1):
            if len(line) > LONGEST_LINE:
                raise RecordsError(f"{path}: a line of more than {LONGEST_LINE:,} bytes; {_AGAIN}")
            yield line


def _classes_beside(path: Path) -> list[str]:
    """Return the classes of the ``stage.json`` beside a records file; none where it gives none."""
    beside = path.parent / "stage.json"
    return list(store.read_stage(path.parent).get("classes", ())) if beside.exists() else []


def write_records(path: Path | str, records: Iterable[Record]) -> int:
    """Write records atomically, checked, one line each, images relative to the file; return how many.

    Raises:
        RecordsError: a record breaks the contract or an id occurs twice; nothing is written.
        DiskFull: no space is left; an old file is untouched.
    """
    path = Path(path)
    folder = path.resolve().parent
    together, count = RecordSet(), 0
    with store.atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        for count, record in enumerate(records, start=1):
            together.add(record, f"{path}, record {count}")
            image = Path(record["image"])
            relative = os.path.relpath(image, folder) if image.is_absolute() else str(image)
            stream.write(json.dumps(record | {"image": relative}, sort_keys=True, ensure_ascii=False) + "\n")
    return count


def class_names(path: Path | str) -> list[str]:
    """Return the class names of a records file in the order of their labels, from the ``stage.json`` beside it."""
    if not Path(path).is_file():
        raise RecordsError(f"{path}: no such file; give the records file of a stage")
    document = store.read_stage(Path(path).parent)
    classes = document.get("classes")
    if not classes:
        raise RecordsError(f"{path}: the stage.json beside it names no classes; index the folder again")
    return list(classes)


def pixel_hash(pixels: np.ndarray) -> str:
    """Return the SHA-256 of an image's shape, dtype and values: equal for equal pictures, whatever their file."""
    pixels = np.ascontiguousarray(pixels)
    head = f"{pixels.shape}{pixels.dtype.str}".encode()
    return hashlib.sha256(head + pixels.tobytes()).hexdigest()


# ----------------------------------------------------------------------------------------------------------- splits
def draw_split(
    records: Iterable[Record],
    train_per_class: int,
    val_per_class: int,
    seed: int,
    seen: frozenset[str] = frozenset(),
) -> list[Record]:
    """Draw a small data set: by group first, by class second; everything not drawn is the test set.

    A group (patient, lesion, near-duplicates) is never cut: what it has beyond the wanted number is left out, never
    tested on. The draw depends on the seed and the ids only, so every arm of a seed sees the same test set.

    Args:
        records: full records of real images.
        train_per_class: images per class in train.
        val_per_class: images per class in val.
        seed: the draw.
        seen: pixel hashes that a base was trained on. Their groups may train, and are left out elsewhere.

    Raises:
        RecordsError: a class has too few images in separate groups.
    """
    drawn = iter_draw(_groups(records), train_per_class, val_per_class, seed, seen)
    return sorted(drawn, key=lambda record: record["id"])


def iter_draw(
    members: Mapping[str, Sequence[Record]],
    train_per_class: int,
    val_per_class: int,
    seed: int,
    seen: frozenset[str] = frozenset(),
) -> Iterator[Record]:
    """`draw_split` for groups that need not be in memory: yield the records as they are dealt.

    Args:
        members: group -> its records, of which ``id``, ``class_name`` and, with `seen`, ``sha256`` are looked at.
        train_per_class: see `draw_split`.
        val_per_class: see `draw_split`.
        seed: see `draw_split`.
        seen: see `draw_split`.
    """
    order = sorted(members)
    random.Random(derive_seed(seed, "draw")).shuffle(order)
    if seen:
        order.sort(key=lambda name: not _touches(members[name], seen))
    classes = sorted(_totals(members)[0])
    taken: set[str] = set()
    for split, wanted in (("train", train_per_class), ("val", val_per_class)):
        counts = Counter[str]()
        for name in order:
            if name in taken or (split == "val" and _touches(members[name], seen)):
                continue
            if part := _still_wanted(members[name], counts, wanted):
                taken.add(name)
                yield from (record | {"split": split} for record in part)
        for class_name in classes:
            if counts[class_name] < wanted:
                raise RecordsError(
                    f"class {class_name!r}: {counts[class_name]} images in separate groups for {split}, expected "
                    f"{wanted}; draw fewer per class or add images of other patients"
                )
    for name in order:
        if name not in taken and not _touches(members[name], seen):
            yield from (record | {"split": "test"} for record in members[name])


def _still_wanted(group: Sequence[Record], counts: Counter[str], wanted: int) -> list[Record]:
    """Records of a group whose classes have less than wanted; they are counted."""
    part = []
    for record in sorted(group, key=lambda item: item["id"]):
        if counts[record["class_name"]] < wanted:
            counts[record["class_name"]] += 1
            part.append(record)
    return part


def split_by_group(records: Iterable[Record], fractions: Mapping[str, float], seed: int) -> list[Record]:
    """Split whole groups, each into the split where its rarest class is furthest below its share.

    Args:
        records: full records.
        fractions: split -> share, e.g. ``{"train": .6, "val": .2, "test": .2}``; shares sum to 1.
        seed: the order in which groups are dealt.

    Raises:
        RecordsError: a class has fewer groups than there are splits, or the shares do not sum to 1.
    """
    return sorted(iter_split(_groups(records), fractions, seed), key=lambda record: record["id"])


def iter_split(members: Mapping[str, Sequence[Record]], fractions: Mapping[str, float], seed: int) -> Iterator[Record]:
    """`split_by_group` for groups that need not be in memory: yield the records as they are dealt.

    Args:
        members: group -> its records, of which ``class_name`` is looked at.
        fractions: see `split_by_group`.
        seed: see `split_by_group`.
    """
    if not abs(sum(fractions.values()) - 1) <= 1e-6 or min(fractions.values()) < 0:
        raise RecordsError(f"shares of splits are {dict(fractions)}, expected numbers from 0 to 1 that sum to 1")
    totals, groups = _totals(members)
    for class_name, number in sorted(groups.items()):
        if number < len(fractions):
            raise RecordsError(
                f"class {class_name!r}: {number} patient(s) or group(s), expected at least {len(fractions)} to "
                f"fill {', '.join(fractions)}; add patients or give a fixed split"
            )
    order = sorted(members)
    random.Random(derive_seed(seed, "split")).shuffle(order)
    counts: dict[str, Counter[str]] = {split: Counter() for split in fractions}
    for name in order:
        group = members[name]
        rarest = min((record["class_name"] for record in group), key=lambda item: (totals[item], item))

        def deficit(split: str, rarest: str = rarest) -> float:
            return fractions[split] - counts[split][rarest] / totals[rarest]

        chosen = max(fractions, key=deficit)
        counts[chosen].update(record["class_name"] for record in group)
        yield from (record | {"split": chosen} for record in group)


def _totals(members: Mapping[str, Sequence[Record]]) -> tuple[Counter[str], Counter[str]]:
    """Images and groups per class."""
    totals, groups = Counter[str](), Counter[str]()
    for group in members.values():
        totals.update(record["class_name"] for record in group)
        groups.update({record["class_name"] for record in group})
    return totals, groups


def _groups(records: Iterable[Record]) -> dict[str, list[Record]]:
    members: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        members[record["patient"]].append(record)
    return members


def _touches(group: Sequence[Record], seen: frozenset[str]) -> bool:
    return bool(seen) and any(record["sha256"] in seen for record in group)
