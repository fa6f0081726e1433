"""Stand-ins for generated images: simulated ones under the name of a synthetic record."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from meddap_monai import store
from meddap_monai.core.records import write_records
from meddap_monai.phantom.simulation import simulate_image
from tests.record_material import CLASSES, image_record


def picture(shown: str, seed: int, size: int = 64) -> np.ndarray:
    """Return a simulated image (size, size) uint8."""
    pixels = simulate_image(shown, seed=seed)
    return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR))


def synthetic_record(
    folder: Path, number: int, target: str, pixels: np.ndarray, adjective: str = "none"
) -> dict[str, Any]:
    """Save an image; return its synthetic record."""
    item = f"syn-{number:05d}"
    facts = {
        "prompt": f"an ultrasound photo of {target} tumor in breast",
        "negative_prompt": "",
        "adjective": adjective,
        "seed": number,
        "mode": "text",
        "height": pixels.shape[0],
        "width": pixels.shape[1],
        "steps": 1,
        "guidance": 1.0,
        "scheduler": "none",
        "adapters": [],
        "base": "simulated",
        "shard": 0,
        "row": number,
        "batch": 1,
        "dtype": "float32",
        "device": "cpu",
        "threads": 1,
    }
    made = {"image": str(folder / "images" / f"{item}.png"), "patient": "synthetic", "source": "synthetic"}
    return image_record(folder, item, pixels, target, **made, synthetic=facts)


def write_generated(folder: Path, shown_and_target: Sequence[tuple[str, str]], first_seed: int = 500_000) -> Path:
    """Write simulated images of class `shown` labelled `target` as a generate folder; return its records file."""
    with store.open_stage(folder, "generate", {"simulated": list(map(list, shown_and_target))}) as stage:
        records = [
            synthetic_record(
                folder, number, target, picture(shown, first_seed + number), ("none", "bright")[number % 2]
            )
            for number, (shown, target) in enumerate(shown_and_target)
        ]
        write_records(folder / "generated.jsonl", records)
        stage.finish({"in": len(records), "out": len(records), "rejected": 0}, CLASSES)
    return folder / "generated.jsonl"


def some_wrong(per_class: int, share: float, seed: int = 0) -> list[tuple[str, str]]:
    """Return (shown, target) pairs, `share` of them with another class than the one shown, drawn evenly."""
    rng = np.random.default_rng(seed)
    pairs = []
    for shown in CLASSES:
        for number in range(per_class):
            others = [name for name in CLASSES if name != shown]
            pairs.append((shown, others[int(rng.integers(2))] if number < round(share * per_class) else shown))
    return pairs
