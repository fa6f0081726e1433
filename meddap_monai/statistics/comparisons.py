"""Paired comparisons between arms, the correction for comparing many of them, and the verdict."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

HELPS, NOTHING, HARMS = "helps", "no evidence", "harms"
EXACT_SEEDS = 12
"""Up to this many seeds all sign patterns are enumerated."""


@dataclass(frozen=True)
class Comparison:
    """One arm against its reference, paired by seed and by patient.

    Attributes:
        difference: mean over seeds, arm minus reference, turned so that positive is better.
        low: lower end of its interval.
        high: upper end.
        error: standard error over seeds and patients, see `meddap_monai.statistics.intervals`.
        freedom: its degrees of freedom.
        detectable: difference that would have been found with 80 % power at the level of the interval.
        p_value: two-sided, of the same t distribution as the interval.
        p_permutation: two-sided, signs of the seeds' differences flipped; knows seeds only, not patients.
        p_wilcoxon: two-sided signed-rank test over the seeds; likewise, NaN below two seeds.
        p_holm: `p_value` corrected for the arms compared together (Holm 1979); set by `correct`.
    """

    difference: float
    low: float
    high: float
    error: float
    freedom: float
    detectable: float
    p_value: float
    p_permutation: float
    p_wilcoxon: float
    p_holm: float = math.nan


def permutation_p(differences: Sequence[float] | np.ndarray, samples: int = 10_000, seed: int = 0) -> float:
    """Return the two-sided sign-flip permutation p-value of paired differences; exact up to `EXACT_SEEDS` pairs."""
    values = np.asarray(differences, dtype=float)
    if len(values) < 2 or not np.isfinite(values).all():
        return math.nan
    if len(values) <= EXACT_SEEDS:
        patterns = (np.arange(2 ** len(values))[:, None] >> np.arange(len(values)) & 1) * 2 - 1
        means = np.abs((patterns * values).mean(axis=1))
        return float((means >= abs(values.mean()) - 1e-12).mean())
    signs = np.random.default_rng(seed).integers(2, size=(samples, len(values))) * 2 - 1
    means = np.abs((signs * values).mean(axis=1))
    return float(((means >= abs(values.mean()) - 1e-12).sum() + 1) / (samples + 1))


def wilcoxon_p(differences: Sequence[float] | np.ndarray) -> float:
    """Return the two-sided Wilcoxon signed-rank p-value; NaN below two pairs, 1 when nothing differs."""
    values = np.asarray(differences, dtype=float)
    if len(values) < 2 or not np.isfinite(values).all():
        return math.nan
    if not values.any():
        return 1.0
    return float(stats.wilcoxon(values).pvalue)


def holm(values: Sequence[float]) -> list[float]:
    """Return p-values corrected for being looked at together (Holm 1979); NaN stays NaN and does not count."""
    numbers = np.asarray(values, dtype=float)
    corrected = np.full(len(numbers), np.nan)
    order = [int(i) for i in np.argsort(numbers) if np.isfinite(numbers[i])]
    largest = 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, float(numbers[place]) * (len(order) - rank)))
        corrected[place] = largest
    return [float(value) for value in corrected]


LEAST_SEEDS = 5
"""A verdict other than `NOTHING` needs as many paired seeds: the spread of fewer is hardly known."""

RULE = (
    "Stated before looking, and only for at least {least} paired seeds: an arm with synthetic images HELPS on a "
    "test set when (1) the {confidence:.0%} interval of its paired difference in {metric} to the best arm of real "
    "images alone (the floor: the one with the highest mean on that test set) lies wholly above zero, and (2) the "
    "p-value, corrected by Holm for all arms with synthetic images on all test sets of this report, is below "
    "{level:g}, and (3) it also does better on average than the controls (real images duplicated, synthetic images "
    "with shuffled labels) and than HOG with logistic regression, where these were run. It HARMS when the interval "
    "of its difference to real images alone with the same augmentation lies wholly below zero and (2) holds for "
    "that. Everything else is NO EVIDENCE, which is not evidence of no effect: the smallest difference that could "
    "have been found is printed beside it."
)


def verdict(
    comparison: Comparison,
    beaten_by: Sequence[str],
    level: float = 0.05,
    seeds: int = LEAST_SEEDS,
    like: Comparison | None = None,
) -> tuple[str, str]:
    """Return the verdict of `RULE` and its reason in a sentence.

    Args:
        comparison: against the floor, `p_holm` set.
        beaten_by: names of controls and sanity arms that do at least as well on average.
        level: of significance.
        seeds: how many pairs the comparison has.
        like: against real images alone with the same augmentation; None when that is the floor.
    """
    shown = f"{comparison.difference:+.3f} [{comparison.low:+.3f}, {comparison.high:+.3f}]"
    if not math.isfinite(comparison.low):
        return NOTHING, "no interval could be computed"
    if seeds < LEAST_SEEDS:
        return NOTHING, f"{shown}: {seeds} paired seed(s), a verdict needs {LEAST_SEEDS}"
    if comparison.low > 0 and comparison.p_holm < level:
        if beaten_by:
            return NOTHING, f"{shown}: above the reference, but not above {' and '.join(beaten_by)}, so no claim"
        return HELPS, f"{shown}, corrected p {comparison.p_holm:.3f}"
    worse = like or comparison
    if worse.high < 0 and worse.p_holm < level:
        shown = f"{worse.difference:+.3f} [{worse.low:+.3f}, {worse.high:+.3f}]"
        return HARMS, f"{shown} to real images alone with the same augmentation, corrected p {worse.p_holm:.3f}"
    return (
        NOTHING,
        f"{shown}, corrected p {comparison.p_holm:.3f}; differences below {comparison.detectable:.3f} would be missed",
    )
