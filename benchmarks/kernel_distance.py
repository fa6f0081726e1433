"""Quality of sampling loops: FID, KID, and the interval of a KID difference.

"KID no worse" means that the 95 % bootstrap interval of the difference includes 0 or favours the loop.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from meddap_monai.evaluation.generative import frechet_distance


def compare(
    features: dict[str, np.ndarray], reference: np.ndarray, against: str, samples: int = 500
) -> dict[str, dict[str, Any]]:
    """Return each loop's FID, KID and the bootstrap of KID(loop) - KID(`against`).

    Args:
        features: (N, D) of each loop's images.
        reference: (M, D) of real images; one resampling of them serves all loops.
        against: the loop that the others are compared with.
        samples: of the bootstrap.
    """
    draw = np.random.default_rng(0)
    weights = {name: _resamplings(draw, len(rows), samples) for name, rows in features.items()}
    of_reference = _resamplings(draw, len(reference), samples)
    replicates, rows = {}, {}
    for name, found in features.items():
        once = kernel_distance(found, reference, np.ones((1, len(found))), np.ones((1, len(reference))))
        replicates[name] = kernel_distance(found, reference, weights[name], of_reference)
        rows[name] = {"kid": float(once[0]), "fid": frechet_distance(found, reference)}
    for name, row in rows.items():
        low, high = np.quantile(replicates[name] - replicates[against], (0.025, 0.975))
        row |= {"kid_difference_low": float(low), "kid_difference_high": float(high), "no_worse": bool(low <= 0)}
    return rows


def _resamplings(draw: np.random.Generator, count: int, samples: int) -> np.ndarray:
    return draw.multinomial(count, np.full(count, 1 / count), size=samples).astype(np.float64)


def kernel_distance(x: np.ndarray, y: np.ndarray, weights_x: np.ndarray, weights_y: np.ndarray) -> np.ndarray:
    """Return KID (Binkowski et al. 2018) per row of weights; an image is never paired with itself."""

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def within(a: np.ndarray, weights: np.ndarray) -> np.ndarray:
        pairs = kernel(a, a)
        np.fill_diagonal(pairs, 0)
        total = weights.sum(1) ** 2 - (weights**2).sum(1)
        return np.einsum("bi,bi->b", weights @ pairs, weights) / total

    between = np.einsum("bi,bi->b", weights_x @ kernel(x, y), weights_y) / (weights_x.sum(1) * weights_y.sum(1))
    return within(x, weights_x) + within(y, weights_y) - 2 * between
