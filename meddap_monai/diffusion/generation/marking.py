"""A synthetic image says so, and says how it was made: in its record and in the text of its PNG file."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from meddap_monai.core.records import Record, pixel_hash
from meddap_monai.diffusion.generation.plan import PlanRow
from meddap_monai.images.reading.marks import KEY
from meddap_monai.images.reading.opening import image_text


def synthetic_field(row: PlanRow, made: dict[str, Any]) -> dict[str, Any]:
    """Return the record field ``synthetic`` (``docs/contracts.md``) of a row of a plan.

    Args:
        row: what was asked for.
        made: how the run made it: ``adapters, base, shard, batch, dtype, device, threads, ...``.
    """
    names = ("prompt", "negative_prompt", "adjective", "seed", "mode", "strength", "height", "width", "steps")
    wanted = {name: getattr(row, name) for name in names}
    return wanted | {
        "guidance": row.guidance,
        "scheduler": row.scheduler,
        "row": row.row,
        "source_id": row.source_id or None,
        **made,
    }


def read_mark(path: Path | str) -> dict[str, Any] | None:
    """Return the field `synthetic` from a PNG file's text, or None for an image without our mark."""
    text = image_text(path)
    return dict(json.loads(text[KEY])) if text.get("SyntheticData") == "YES" and KEY in text else None


def record_of(row: PlanRow, name: str, pixels: np.ndarray, patient: str, synthetic: dict[str, Any]) -> Record:
    """Return the record of a synthetic image that stands as ``<name>.png`` beside its records file."""
    return {
        "id": name,
        "image": f"{name}.png",
        "label": row.label,
        "class_name": row.class_name,
        "patient": patient,
        "split": "train",
        "source": "synthetic",
        "sha256": pixel_hash(pixels),
        "synthetic": synthetic,
    }


def grey_of(pixels: np.ndarray) -> np.ndarray:
    """Return ``(H, W) uint8`` of an RGB image (ITU-R BT.601 luma)."""
    return np.asarray(Image.fromarray(pixels).convert("L"))
