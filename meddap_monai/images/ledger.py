"""The outcome of an index run before it is written: accepted images, rejected items, where each came from."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from meddap_monai import store
from meddap_monai.images.accept import THUMBNAIL
from meddap_monai.images.duplicates import Groups, exact_duplicates, near_duplicates
from meddap_monai.images.pseudonym import pseudonym
from meddap_monai.images.sources import Source


class Ledger:
    """Accepted images and rejected items of a run, in the order of their sources."""

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.items: list[dict[str, Any]] = []
        self.thumbnails: list[bytes] = []
        self.rejects: list[tuple[str, str]] = []
        self.places: list[tuple[str, str, str]] = []

    def take(self, outcome: Mapping[str, Any], source: Source) -> None:
        """Add the outcome of one source."""
        for item in outcome.get("items", ()):
            self.thumbnails.append(base64.b64decode(item["thumbnail"]))
            self.items.append({name: value for name, value in item.items() if name != "thumbnail"})
            self.places.append((item["id"], str(item["meta"]["frame"]), str(source.path)))
        if "error" in outcome:
            item = pseudonym(source.relative, self.key, "item", 12)
            self.rejects.append((item, outcome["error"]))
            self.places.append((item, "", str(source.path)))

    def drop(self, reason_of: Callable[[dict[str, Any]], str]) -> None:
        """Reject the items for which there is a reason."""
        kept: list[dict[str, Any]] = []
        thumbnails = []
        for item, small in zip(self.items, self.thumbnails, strict=True):
            if reason := reason_of(item):
                self.rejects.append((item["id"], reason))
            else:
                kept.append(item)
                thumbnails.append(small)
        self.items, self.thumbnails = kept, thumbnails


def drop_duplicates(ledger: Ledger, groups: Groups) -> int:
    """Reject copies and pictures under several classes; join the patients of copies; return how many."""
    patients = {item["id"]: item["patient"] for item in ledger.items}
    copies, torn = exact_duplicates((item["id"], item["sha256"], item["class_name"]) for item in ledger.items)
    for copy, kept in copies.items():
        groups.join(patients[copy], patients[kept])
    ledger.drop(
        lambda item: (
            "the same picture occurs under several classes"
            if item["id"] in torn
            else (f"exact duplicate of {copies[item['id']]}" if item["id"] in copies else "")
        )
    )
    return len(copies) + len(torn)


def join_near_duplicates(ledger: Ledger, groups: Groups, correlation: float) -> int:
    """Join the patients of almost equal pictures; return how many pairs there are."""
    if len(ledger.items) < 2:
        return 0
    flat = np.frombuffer(b"".join(ledger.thumbnails), np.uint8)
    pairs = 0
    for first, second in near_duplicates(flat.reshape(-1, THUMBNAIL, THUMBNAIL), correlation):
        groups.join(ledger.items[first]["patient"], ledger.items[second]["patient"])
        pairs += 1
    return pairs


def write_lists(folder: Path, ledger: Ledger) -> None:
    """Write ``rejects.csv`` and ``private/sources.csv``; only the latter names source paths."""
    store.write_atomic(folder / "rejects.csv", _table(("item", "reason"), sorted(ledger.rejects)))
    places = _table(("item", "frame", "source"), sorted(ledger.places))
    store.write_atomic(folder / "private" / "sources.csv", places, mode=0o600)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return stream.getvalue().encode("utf-8", "backslashreplace").decode()
