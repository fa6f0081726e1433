"""Intervals of shares, and agreement between readers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
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


@dataclass(frozen=True)
class Guessing:
    """A classifier beside one that guesses.

    Attributes:
        accuracy: share of right answers.
        guessed: accuracy of always naming the commonest class.
        balanced_accuracy: mean over the classes of the share of their images that are recognised.
        low: lower end of its 95 % interval.
        chance: balanced accuracy of any answer that does not look at the image: one over the classes present.
        better: the interval lies above chance.
    """

    accuracy: float
    guessed: float
    balanced_accuracy: float
    low: float
    chance: float
    better: bool


def beyond_guessing(confusion: np.ndarray) -> Guessing:
    """Tell whether a classifier tells classes apart at all.

    The interval is that of a sum of independent shares, each with four answers of a guesser added (for two classes
    Agresti and Coull's two successes and two failures, 1998): a class that is always recognised has a spread too.

    Args:
        confusion: ``(K, K)`` counts, rows true, columns chosen; at least one image.
    """
    counts = confusion.sum(axis=1)
    there = counts > 0
    hits, counts = np.diagonal(confusion)[there], counts[there]
    balanced, chance = float((hits / counts).mean()), 1 / len(counts)
    softened = (hits + 4 * chance) / (counts + 4)
    error = math.sqrt((softened * (1 - softened) / (counts + 4)).sum()) / len(counts)
    low = float(softened.mean()) - 1.96 * error
    return Guessing(
        accuracy=float(hits.sum() / counts.sum()),
        guessed=float(counts.max() / counts.sum()),
        balanced_accuracy=balanced,
        low=low,
        chance=chance,
        better=bool(low > chance),
    )


def cohens_kappa(first: Sequence[str], second: Sequence[str]) -> float:
    """Return the agreement of two readers beyond chance (Cohen 1960); nan when both always say the same one thing.

    Args:
        first: answers of one reader.
        second: answers of the other, about the same items.
    """
    if len({*first, *second}) < 2:
        return float("nan")
    return float(cohen_kappa_score(first, second))
