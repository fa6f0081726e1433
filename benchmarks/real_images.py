"""The real images that bases are judged by: training ones, held-out ones that no base saw, and the words of classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from judging import read_set

from meddap_monai.core.records import Record, read_records
from meddap_monai.diffusion.bases.base import Base
from meddap_monai.diffusion.bases.prompt_choice import tables_for
from meddap_monai.diffusion.bases.prompts import PromptTable


def real_sets(path: Path, bases: Sequence[Base], side: int, device: str = "Phantom A") -> tuple[Any, Any, list[Record]]:
    """Return training and held-out real pictures, (N, side, side) uint8 with names, and all records of real images.

    Held out are the patients of split val of whom no base saw an image.
    """
    records = [record for record in read_records(path, full=True) if (record.get("meta") or {}).get("device") != device]
    seen = frozenset().union(*(base.train_hashes for base in bases))
    patients = {record["patient"] for record in records if record["sha256"] in seen}
    train = [record for record in records if record["split"] == "train"]
    held = [record for record in records if record["split"] == "val" and record["patient"] not in patients]
    return read_set(train, side), read_set(held, side), records


def seen_by(base: Base, records: Sequence[Record], side: int) -> dict[str, Any] | None:
    """Return the real pictures that a base saw; None where none of the records is known to it."""
    known = [record for record in records if record["sha256"] in base.train_hashes]
    return read_set(known, side) if known else None


def classes_of(train: Any, held: Any, bases: Sequence[Base]) -> list[str]:
    """Return the classes of training and held-out images whose words every base has learned, sorted."""
    names = sorted({str(name) for name in train["class"]} & {str(name) for name in held["class"]})
    return [name for name in names if all(_knows(base, name) for base in bases)]


def _knows(base: Base, name: str) -> bool:
    return any(name in one.classes for one in tables_for(base.card["prompts"], [name]) if one.name != "labels")


def table_of(class_name: str, base: Base) -> PromptTable:
    """Return the prompt table by which a base words a class."""
    return next(one for one in tables_for(base.card["prompts"], [class_name]) if class_name in one.classes)


def organs(classes: Sequence[str], base: Base) -> dict[str, list[str]]:
    """Return name of a prompt table -> its classes."""
    found: dict[str, list[str]] = {}
    for name in classes:
        found.setdefault(table_of(name, base).name, []).append(name)
    return found
