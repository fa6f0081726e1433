"""Features once: a frozen extractor turns images into (N, D) float32, cached for every later question.

Clustering, the centroid rule, the out-of-distribution guards, the copy check, FID and KID, and TensorBoard's projector
all read the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from meddap_monai import store
from meddap_monai.records import Record
from meddap_monai.selection.crossfit import Judged


def for_rules(
    extractor: str,
    real_judged: Judged,
    judged: Judged,
    training: Sequence[Record],
    synthetic: Sequence[Record],
    folder: Path,
) -> tuple[np.ndarray, np.ndarray]:
    """Return features per fold of the real and the synthetic images, (K, M, D) and (K, N, D) float32, and cache them.

    Args:
        extractor: "filter" or one of `extract`.
        real_judged: of the real training images.
        judged: of the synthetic images.
        training: M full real records.
        synthetic: N full records.
        folder: of the cache.
    """
    save(folder / "real.npy", join(real_judged.features), training, extractor)
    save(folder / "synthetic.npy", join(judged.features), synthetic, extractor)
    return real_judged.features, judged.features


def join(per_fold: np.ndarray) -> np.ndarray:
    """Return (N, K * D) float32 of unit length from (K, N, D) of unit length."""
    return np.concatenate(list(per_fold), axis=1) / np.sqrt(len(per_fold)).astype(np.float32)


def save(path: Path, values: np.ndarray, records: Sequence[Record], extractor: str) -> None:
    """Write a feature matrix and, beside it, whose rows they are.

    Args:
        path: ``.npy`` file.
        values: (N, D) float32.
        records: N records, in the order of the rows.
        extractor: name of the extractor.
    """
    with store.atomic_path(path, needs=values.nbytes) as temporary, temporary.open("wb") as stream:
        np.save(stream, values.astype(np.float32), allow_pickle=False)
    document = {
        "extractor": extractor,
        "shape": list(values.shape),
        "ids": [record["id"] for record in records],
        "sha256": [record["sha256"] for record in records],
    }
    store.write_json(path.with_suffix(".json"), document)
