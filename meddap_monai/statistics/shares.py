"""Intervals of shares, and agreement between readers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def wilson(successes: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """Return the Wilson score interval of a share (Wilson 1927); (0, 1) when nothing was counted.

    Args:
        successes: how often.
        count: of how many.
        z: normal quantile, 1.96 for 95 %.
    """
    if count == 0:
        return 0.0, 1.0
    share = successes / count
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    low, high = float(centre - half), float(centre + half)
    return (0.0 if successes == 0 else low), (1.0 if successes == count else high)


def cohens_kappa(first: Sequence[str], second: Sequence[str]) -> float:
    """Return the agreement of two readers beyond chance (Cohen 1960); nan when both always say the same one thing.

    Args:
        first: answers of one reader.
        second: answers of the other, about the same items.
    """
    one, two = np.asarray(first), np.asarray(second)
    if len(one) == 0:
        return float("nan")
    observed = float((one == two).mean())
    expected = float(sum((one == answer).mean() * (two == answer).mean() for answer in np.unique(one)))
    return float("nan") if expected == 1.0 else (observed - expected) / (1.0 - expected)
