"""Intervals of shares, and agreement between readers."""

from __future__ import annotations

from collections.abc import Sequence

from scipy.stats import binomtest
from sklearn.metrics import cohen_kappa_score


def wilson(successes: int, count: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a share (Wilson 1927); (0, 1) when nothing was counted.

    Args:
        successes: how often.
        count: of how many that do not depend on each other.
    """
    if count == 0:
        return 0.0, 1.0
    low, high = binomtest(successes, count).proportion_ci(method="wilson")
    return float(low), float(high)


def cohens_kappa(first: Sequence[str], second: Sequence[str]) -> float:
    """Return the agreement of two readers beyond chance (Cohen 1960); nan when both always say the same one thing.

    Args:
        first: answers of one reader.
        second: answers of the other, about the same items.
    """
    if len({*first, *second}) < 2:
        return float("nan")
    return float(cohen_kappa_score(first, second))
