"""Records that a test makes itself: of pictures it draws, and of synthetic images that borrow real ones."""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from meddap_monai.core.records import Record, pixel_hash, write_records

CLASSES = ["benign", "malignant", "normal"]


def image_record(folder: Path, item: str, pixels: np.ndarray, class_name: str, **fields: Any) -> Record:
    """Save pixels as ``images/<item>.png``; return the full record: of a real training image, but for `fields`."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(folder / "images" / f"{item}.png")
    image = {"id": item, "image": f"images/{item}.png", "label": CLASSES.index(class_name), "class_name": class_name}
    image |= {"patient": item, "split": "train", "source": "real", "sha256": pixel_hash(pixels)}
    return image | fields


def as_synthetic(row: Record) -> Record:
    """Return the record of a synthetic image that borrows the picture of a real one."""
    return row | {"id": f"s-{row['id']}", "source": "synthetic", "patient": "synthetic", "synthetic": {"seed": 1}}


def write_like(source: Path, folder: Path, rows: Iterable[Record]) -> Path:
    """Write ``records.jsonl`` beside a copy of the stage.json of another records file; return it."""
    write_records(folder / "records.jsonl", rows)
    shutil.copy(source.parent / "stage.json", folder)
    return folder / "records.jsonl"
