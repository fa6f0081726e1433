"""What the parts of the check work on, and how they judge."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from meddap_monai import store
from meddap_monai.core.records import read_records, write_records
from meddap_monai.phantom.simulation import simulate_image
from tests.record_material import CLASSES, image_record
from tools.tiny_base import build_tiny_base

if TYPE_CHECKING:
    from benchmarks.gpu_check.run import Job


def base(job: Job) -> str | Path:
    """Return the embedded base, or a tiny one."""
    return build_tiny_base(job.folder / "tiny", resolution=32) if job.toy else "embedded"


def simulated(job: Job, per_class: dict[str, int], size: int) -> Path:
    """Write simulated pictures as the folder of an index, two of a patient; return its records."""
    folder = job.folder / "index"
    with store.open_stage(folder, "index", {"simulated": per_class, "size": size}) as stage:
        rows = []
        for number, (split, count) in enumerate(per_class.items()):
            for label, name in enumerate(CLASSES):
                for picture in range(count):
                    seed = 10_000 * number + 1_000 * label + picture
                    pixels = Image.fromarray(simulate_image(name, seed=seed, scanner="own")).resize((size, size))
                    facts = {"split": split, "patient": f"{split}-{name}-{picture // 2}", "meta": {"frame": 0}}
                    item = f"{split}-{name}-{picture:03d}"
                    rows.append(image_record(folder, item, np.asarray(pixels), name, **facts))
        write_records(folder / "records.jsonl", rows)
        stage.finish({"in": len(rows), "out": len(rows), "rejected": 0}, classes=CLASSES)
    return folder / "records.jsonl"


def few(job: Job) -> Path:
    """Return the records that most parts need."""
    return simulated(job, {"train": 4, "val": 2, "test": 2}, 32 if job.toy else 128)


def judged(found: dict[str, tuple[float, float]]) -> dict[str, Any]:
    """Return ``{name: {"found", "bound"}}``.

    Raises:
        AssertionError: something lies beyond its bound, or is no number.
    """
    told = ", ".join(f"{name} {value:.4g} (bound {bound:g})" for name, (value, bound) in found.items())
    assert all(value <= bound for value, bound in found.values()), f"differs from the CPU: {told}"
    return {name: {"found": float(f"{value:.4g}"), "bound": bound} for name, (value, bound) in found.items()}


def pictures(path: Path) -> np.ndarray:
    """Return the pictures of a records file, ``(N, H, W) int``."""
    return np.stack([np.asarray(Image.open(row["image"]).convert("L")) for row in read_records(path)]).astype(int)


def apart(one: Path, other: Path) -> float:
    """Return the mean absolute difference of the pictures of two records files, in grey levels."""
    return float(np.abs(pictures(one) - pictures(other)).mean())
