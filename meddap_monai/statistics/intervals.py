"""Bootstrap over patients and seeds: how far a number may be off, given who was tested and how training fell out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from meddap_monai.seeds import derive_seed


@dataclass(frozen=True)
class Interval:
    """A mean with its percentile interval and the standard error of the bootstrap."""

    mean: float
    low: float
    high: float
    error: float


def group_weights(groups: Sequence[str], samples: int, seed: int, name: str) -> np.ndarray:
    """Draw whole groups with replacement, `samples` times.

    Args:
        groups: patient or group of each image.
        samples: replicates.
        seed: of the evaluation.
        name: what is resampled; equal names give equal draws, which is what pairs two arms.

    Returns:
        ``(samples, N)`` float: how often each image counts.
    """
    names, place = np.unique(np.asarray(groups), return_inverse=True)
    rng = np.random.default_rng(derive_seed(seed, "evaluate/groups", name))
    counts = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=samples)
    return counts[:, place].astype(np.float64)


def seed_draws(count: int, samples: int, seed: int) -> np.ndarray:
    """Draw training seeds with replacement: ``(samples, count)`` int indices."""
    rng = np.random.default_rng(derive_seed(seed, "evaluate/seeds", count))
    return rng.integers(count, size=(samples, count))


def over_seeds(table: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Average replicates over resampled seeds.

    Args:
        table: ``(S, B)`` replicates of each seed.
        draws: ``(B, S)`` of `seed_draws`.

    Returns:
        ``(B,)``.
    """
    return table[draws, np.arange(table.shape[1])[:, None]].mean(axis=1)


def interval(mean: float, replicates: np.ndarray, confidence: float = 0.95) -> Interval:
    """Return the percentile interval of bootstrap replicates around a mean; NaN replicates are left out."""
    found = replicates[np.isfinite(replicates)]
    if not len(found):
        return Interval(mean, float("nan"), float("nan"), float("nan"))
    low, high = np.quantile(found, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(mean, float(low), float(high), float(found.std(ddof=1)) if len(found) > 1 else float("nan"))
