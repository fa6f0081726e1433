"""Features once: a frozen extractor turns images into float32 vectors, cached for every later question.

Clustering, the probe of the filter, the guards, the copy check and TensorBoard's projector read these numbers. The
extractors are those of `meddap_monai.encoders.extractors`.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from meddap_monai import store
from meddap_monai.classifier.scoring import views_of
from meddap_monai.core.records import Record
from meddap_monai.encoders.extractors import Extractor, build_extractor
from meddap_monai.errors import StageError


def extract(
    name: str, records: Sequence[Record], images: np.ndarray, path: Path | None = None, device: str = "cpu"
) -> np.ndarray:
    """Return (N, D) float32 features of unit length; read from `path` when it holds those of the same images.

    Args:
        name: of the extractor, see `build_extractor`.
        records: N records.
        images: (N, C, H, W) uint8, theirs.
        path: ``.npy`` file of the cache; None does not cache.
        device: where the extractor runs.

    Raises:
        ConfigurationError: an unknown extractor, or its file cannot be used.
    """
    extractor = build_extractor(name, images.shape[1], images.shape[-1], device)
    return unit_length(extract_views(extractor, records, images, 1, path)[0])


def extract_views(
    extractor: Extractor, records: Sequence[Record], images: np.ndarray, views: int, path: Path | None = None
) -> np.ndarray:
    """Return (V, N, D) float32 features of the views of each image, cached as those of `extract` are.

    Args:
        extractor: a frozen network.
        records: N records.
        images: (N, C, H, W) uint8, theirs.
        views: how many, see `views_of`.
        path: ``.npy`` file of the cache; None does not cache.
    """
    told = f"{extractor.identity}, {images.shape[-1]} px"
    cached = load(path, records, told) if path is not None else None
    if cached is not None:
        return cached
    values = extractor.extract(images, partial(views_of, count=views))
    if path is not None:
        save(path, values, records, told)
    return values


def unit_length(values: np.ndarray) -> np.ndarray:
    """Return vectors (..., D) float32 divided by their lengths."""
    return values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1e-12)


def save(path: Path, values: np.ndarray, records: Sequence[Record], extractor: str) -> None:
    """Write a feature matrix and, beside it, whose rows they are.

    Args:
        path: ``.npy`` file.
        values: (N, D) or (V, N, D) float32.
        records: N full records, in the order of the rows.
        extractor: name of the extractor.
    """
    with store.atomic_path(path, needs=values.nbytes) as temporary, temporary.open("wb") as stream:
        np.save(stream, np.ascontiguousarray(values, dtype=np.float32), allow_pickle=False)
    store.write_json(path.with_suffix(".json"), _document(records, extractor) | {"shape": list(values.shape)})


def load(path: Path, records: Sequence[Record], extractor: str) -> np.ndarray | None:
    """Return cached features of exactly these images and this extractor, float32, or None."""
    beside = path.with_suffix(".json")
    if not (path.is_file() and beside.is_file()):
        return None
    try:
        found = store.read_json(beside)
        values = np.load(path, allow_pickle=False)
    except (StageError, OSError, ValueError, EOFError):
        return None  # not whole: the features are computed again
    wanted = _document(records, extractor) | {"shape": list(values.shape)}
    same = all(found.get(key) == value for key, value in wanted.items())
    return values if same and values.dtype == np.float32 and np.isfinite(values).all() else None


def _document(records: Sequence[Record], extractor: str) -> dict[str, object]:
    return {
        "extractor": extractor,
        "ids": [record["id"] for record in records],
        "sha256": [record["sha256"] for record in records],
    }
