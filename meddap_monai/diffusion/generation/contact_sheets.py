"""Contact sheets: per class the real images, the synthetic ones of each adjective, and the nearest real ones."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from meddap_monai import store
from meddap_monai.core.records import Record, iter_records
from meddap_monai.images.framing import crop_top
from meddap_monai.images.reading.opening import image_size
from meddap_monai.images.reading.recorded import open_recorded

TILE = 112
_THUMBNAIL = 32
_MARGIN, _LINE = 4, 16
_COMPARED = 2000


def draw_sheets(output: Path, real: Path, columns: int) -> list[Path]:
    """Write ``sheets/<label>_<class>.png`` and show them in TensorBoard.

    Args:
        output: folder of ``generate``, with its joined records.
        real: records file of the real images; up to 2,000 training images per class are compared.
        columns: images per row.
    """
    from torch.utils.tensorboard import SummaryWriter

    synthetic = _first_of_each(iter_records(output / "generated.jsonl"), columns)
    originals = _training_images(iter_records(real), {label for label, _ in synthetic})
    paths = []
    with SummaryWriter(str(output / "tensorboard")) as curves:
        for label in sorted({label for label, _ in synthetic}):
            name = next(records[0]["class_name"] for (other, _), records in synthetic.items() if other == label)
            rows = {adjective: records for (other, adjective), records in synthetic.items() if other == label}
            sheet = class_sheet(rows, originals.get(label, []), columns)
            path = output / "sheets" / f"{label:02d}_{_safe(name)}.png"
            with store.atomic_path(path) as temporary:
                sheet.save(temporary, format="PNG")
            curves.add_image(f"generate/sheets/{_safe(name)}", np.asarray(sheet), 0, dataformats="HWC")
            paths.append(path)
    return paths


def class_sheet(rows: dict[str, list[Record]], real: Sequence[Record], columns: int) -> Image.Image:
    """Return the sheet of one class: a row of real images, then per adjective synthetic over nearest real ones.

    Args:
        rows: adjective -> records of synthetic images.
        real: records of real training images of the class.
        columns: images per row.
    """
    shape = image_size(next(iter(rows.values()))[0]["image"])
    prints = np.stack([fingerprint(item, shape) for item in real]) if real else np.zeros((0, _THUMBNAIL**2))
    lines: list[tuple[str, Sequence[Record]]] = [("real", real[:columns])] if real else []
    for adjective, records in rows.items():
        images: Sequence[Record] = records[:columns]
        lines.append((f"synthetic, {adjective}", images))
        if real:
            near = [real[int(np.argmax(prints @ fingerprint(image, shape)))] for image in images]
            lines.append(("nearest real", near))
    wide = max(len(images) for _, images in lines)
    sheet = Image.new("RGB", (wide * (TILE + _MARGIN) + _MARGIN, len(lines) * (TILE + _LINE + _MARGIN)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (title, images) in enumerate(lines):
        top = number * (TILE + _LINE + _MARGIN)
        draw.text((_MARGIN, top + 2), title.encode("ascii", "replace").decode(), fill="black")
        for column, record in enumerate(images):
            tile = ImageOps.contain(open_recorded(record).convert("RGB"), (TILE, TILE))
            sheet.paste(tile, (_MARGIN + column * (TILE + _MARGIN), top + _LINE))
    return sheet


def fingerprint(record: Record, shape: tuple[int, int]) -> np.ndarray:
    """Return ``(1024,) float32`` with mean 0 and length 1, so that a product of two is their correlation.

    Args:
        record: of the image.
        shape: (height, width) of the synthetic images; a real one is cropped to that form as a source image is, so
            that a hardly changed source is its own nearest.
    """
    cut = crop_top(open_recorded(record).convert("L"), *shape)
    small = np.asarray(cut.resize((_THUMBNAIL, _THUMBNAIL)), dtype=np.float32).ravel()
    small = small - small.mean()
    result: np.ndarray = small / max(float(np.linalg.norm(small)), 1e-6)
    return result


def _first_of_each(records: Iterable[Record], count: int) -> dict[tuple[int, str], list[Record]]:
    found: dict[tuple[int, str], list[Record]] = defaultdict(list)
    for record in records:
        cell = found[record["label"], record["synthetic"]["adjective"]]
        if len(cell) < count:
            cell.append(record)
    return found


def _training_images(records: Iterable[Record], labels: set[int]) -> dict[int, list[Record]]:
    found: dict[int, list[Record]] = defaultdict(list)
    for record in records:
        wanted = record["split"] == "train" and record["source"] == "real" and record["label"] in labels
        if wanted and len(found[record["label"]]) < _COMPARED:
            found[record["label"]].append(record)
    return found


def _safe(name: str) -> str:
    """Return a class name as part of a file name: letters, digits, ``-`` and ``_`` only, at most 40."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:40] or "class"
