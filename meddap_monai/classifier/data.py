"""Images for a classifier: decoded once, fitted into a square, and drawn in an order that depends on the seed only."""

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import CacheDataset, DataLoader, Dataset, PersistentDataset
from monai.transforms import Compose, MapTransform

from meddap_monai.classifier.config import ClassifyConfig
from meddap_monai.core.printing import PrintsArguments
from meddap_monai.core.records import Record
from meddap_monai.core.seeds import derive_seed
from meddap_monai.errors import RecordsError
from meddap_monai.images.framing import to_square
from meddap_monai.images.reading.recorded import open_recorded


class LoadFramed(PrintsArguments, MapTransform):
    """Read the image of a record and fit it into a square: path -> ``(C, size, size)`` uint8 tensor.

    Where the item has a ``sha256``, the pixels must be those.

    Args:
        keys: keys that hold paths.
        size: side of the square in pixels.
        channels: 1 (grey, ITU-R 601 luma) or 3.
        fit: see `ClassifyConfig`.
        allow_missing_keys: as in MONAI.
    """

    def __init__(
        self, keys: Any = "image", size: int = 64, channels: int = 1, fit: str = "pad", allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.size, self.channels, self.fit = size, channels, fit

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of the record with its image as a tensor."""
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = read_framed(item | {"image": item[key]}, self.size, self.channels, self.fit)
        return item


def read_framed(record: Mapping[Any, Any], size: int, channels: int = 1, fit: str = "pad") -> torch.Tensor:
    """Return ``(channels, size, size)`` uint8 of the image of a record.

    Raises:
        UnreadableImage: the file is missing or no image.
        ChangedImage: the pixels are not those of the record.
    """
    return to_square(open_recorded(record).convert("L" if channels == 1 else "RGB"), size, fit)


class _ByName(Compose):
    """A composition without random transforms that lets named errors through; MONAI's turns all into RuntimeError."""

    def __call__(self, item: Any, *_: Any, **__: Any) -> Any:  # type: ignore[override]
        """Apply the transforms in their order."""
        for transform in self.transforms:
            item = transform(item)
        return item


def make_dataset(rows: Sequence[Record], config: ClassifyConfig, cache_folder: Path | None = None) -> Dataset:
    """Return a MONAI data set over records: ``image`` uint8, ``label``, ``synthetic`` (0 or 1), ``id``."""
    items = [
        {
            "image": row["image"],
            "label": int(row["label"]),
            "synthetic": int(row["source"] == "synthetic"),
            "id": row["id"],
            "sha256": row.get("sha256"),
        }
        for row in rows
    ]
    transform = _ByName([LoadFramed("image", config.resolution, config.channels, config.fit)])
    if config.cache == "memory":
        return CacheDataset(items, transform, progress=False, num_workers=1)
    if config.cache == "disk":
        return PersistentDataset(items, transform, cache_folder, track_meta=False, weights_only=True)
    return Dataset(items, transform)


def collate(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Stack items to ``image (B, C, H, W)`` uint8, ``label (B,)``, ``synthetic (B,)`` int64 and ``id`` list of text."""
    return {
        "image": torch.stack([torch.as_tensor(item["image"]) for item in items]),
        "label": torch.tensor([item["label"] for item in items]),
        "synthetic": torch.tensor([item["synthetic"] for item in items]),
        "id": [item["id"] for item in items],
    }


def make_loader(dataset: Dataset, batches: Sequence[Sequence[int]], num_workers: int = 0) -> DataLoader:
    """Return a loader that yields exactly these batches of indices, in this order."""
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=num_workers,
        collate_fn=collate,
        persistent_workers=num_workers > 0,
    )


def in_order(count: int, batch: int) -> list[list[int]]:
    """Return the batches of one pass over `count` items in their order."""
    return [list(range(start, min(start + batch, count))) for start in range(0, count, batch)]


def plan_batches(rows: Sequence[Record], config: ClassifyConfig) -> np.ndarray:
    """Draw the whole order of a run ahead: ``(steps, batch)`` int64 indices into `rows`.

    Whether a place of a batch is filled from the real or the synthetic images is drawn with the sampling weights; each
    source is gone through in permutations, so that no image is drawn twice before all are drawn once. The order of the
    real images depends on the seed and their number only, so arms of one seed that share their real images see them
    in the same order. With `balance_classes` the classes take turns, each with its own permutations.

    Raises:
        RecordsError: nothing to draw from.
    """
    places = config.steps * config.batch
    pools = {source: [i for i, row in enumerate(rows) if row["source"] == source] for source in ("real", "synthetic")}
    weights = {"real": config.real_weight, "synthetic": config.synthetic_weight}
    mass = {source: len(pool) * weights[source] for source, pool in pools.items()}
    if not sum(mass.values()):
        raise RecordsError(
            f"no training image has a sampling weight above 0 ({len(rows)} images); check mix and weights"
        )
    rng = np.random.default_rng(derive_seed(config.seed, "classify/source"))
    is_synthetic = rng.random(places) < mass["synthetic"] / sum(mass.values())
    plan = np.empty(places, dtype=np.int64)
    for source, chosen in (("real", ~is_synthetic), ("synthetic", is_synthetic)):
        plan[chosen] = _stream(pools[source], rows, int(chosen.sum()), source, config)
    return plan.reshape(config.steps, config.batch)


def _stream(pool: list[int], rows: Sequence[Record], count: int, source: str, config: ClassifyConfig) -> np.ndarray:
    if not count:
        return np.empty(0, dtype=np.int64)
    if not config.balance_classes:
        return _permutations(np.array(pool), count, config.seed, source)
    labels = sorted({rows[i]["label"] for i in pool})
    stream = np.empty(count, dtype=np.int64)
    for turn, label in enumerate(labels):
        members = np.array([i for i in pool if rows[i]["label"] == label])
        places = stream[turn :: len(labels)].size
        stream[turn :: len(labels)] = _permutations(members, places, config.seed, f"{source}/{label}")
    return stream


def _permutations(pool: np.ndarray, count: int, seed: int, name: str) -> np.ndarray:
    passes = -(-count // len(pool)) if len(pool) else 0
    drawn = [
        pool[np.random.default_rng(derive_seed(seed, f"classify/{name}", epoch=turn)).permutation(len(pool))]
        for turn in range(passes)
    ]
    return np.concatenate(drawn)[:count] if drawn else np.empty(0, dtype=np.int64)


def to_float(images: torch.Tensor) -> torch.Tensor:
    """Map uint8 images to float32 in 0..1."""
    return images.to(torch.float32).div_(255.0)
