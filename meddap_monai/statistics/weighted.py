"""The metrics of `meddap_monai.statistics.metrics` for many bootstrap replicates at once.

A replicate is a vector of image weights (how often its patient was drawn). scikit-learn would need one call per
replicate, metric, arm and seed; here all replicates of a run are one pass. Tests hold each metric equal to
scikit-learn's.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

ECE_BINS = 10
SPECIFICITY = 0.9
"""Specificity at which sensitivity is read."""
BLOCK = 2**14
"""Weights worked on at once; more of them leave the processor's cache."""


@dataclass(frozen=True)
class Metric:
    """A metric of predictions.

    Attributes:
        words: as people call it.
        value: (probabilities, labels, weights) as in `weighted_metrics` -> ``(B,)``; None for those of one pass.
        lower_is_better: for the sign of differences.
        range: least and largest value.
    """

    words: str
    value: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray] | None = None
    lower_is_better: bool = False
    range: tuple[float, float] = (0.0, 1.0)


METRICS = {
    "auc": Metric("AUC"),
    "macro_f1": Metric("macro F1"),
    "balanced_accuracy": Metric("balanced accuracy"),
    "accuracy": Metric("accuracy"),
    "sensitivity": Metric("sensitivity"),
    "specificity": Metric("specificity"),
    "precision": Metric("precision"),
    "average_precision": Metric("average precision"),
    "sensitivity_at_90": Metric("sensitivity at 90 % specificity"),
    "brier": Metric("Brier score (lower is better)", lower_is_better=True, range=(0.0, 2.0)),
    "ece": Metric("calibration error (lower is better)", lower_is_better=True),
}
"""Name in configurations and reports -> metric."""


def weighted_metrics(probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Return every metric of every replicate.

    Args:
        probabilities: ``(N, K)`` float.
        labels: ``(N,)`` int; averages go over the classes present.
        weights: ``(B, N)`` float, not negative; row b weighs the images of replicate b.

    Returns:
        Metric name -> ``(B,)`` float; a class without weight in a replicate is left out of that replicate's average.
    """
    step = max(1, BLOCK // len(labels))
    blocks = [_block(probabilities, labels, weights[start : start + step]) for start in range(0, len(weights), step)]
    return {name: np.concatenate([block[name] for block in blocks]) for name in METRICS}


def confidence_bins(confidence: np.ndarray, bins: int = ECE_BINS) -> np.ndarray:
    """Return the bin ``0..bins-1`` of each confidence."""
    numbers: np.ndarray = np.clip((confidence * bins).astype(int), 0, bins - 1)
    return numbers


def _block(probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    predicted = probabilities.argmax(axis=1)
    total = weights.sum(axis=1)
    present = [int(label) for label in np.unique(labels)]
    parts = [_of_class(probabilities[:, c], labels == c, predicted == c, weights) for c in present]
    averaged = {name: _nan_mean([part[name] for part in parts]) for name in parts[0]}
    squared = ((probabilities - np.eye(probabilities.shape[1])[labels]) ** 2).sum(axis=1)
    return {
        **{name: one.value(probabilities, labels, weights) for name, one in METRICS.items() if one.value},
        **averaged,
        "balanced_accuracy": averaged["sensitivity"],
        "accuracy": weights @ (predicted == labels) / total,
        "brier": weights @ squared / total,
        "ece": _calibration_error(probabilities, labels, weights),
    }


def _of_class(scores: np.ndarray, truth: np.ndarray, chosen: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    with np.errstate(invalid="ignore", divide="ignore"):
        positive, negative = weights @ truth, weights @ ~truth
        hit, false = weights @ (truth & chosen), weights @ (~truth & chosen)
        sensitivity = hit / positive
        picked = hit + false
        precision = np.where(picked > 0, hit / picked, 0.0)
        curve = _curve(scores, truth, weights, positive, negative)
        return {
            "sensitivity": sensitivity,
            "specificity": 1 - false / negative,
            "precision": np.where(positive > 0, precision, np.nan),
            "macro_f1": np.where(positive > 0, 2 * hit / (positive + picked), np.nan),
            **curve,
        }


def _curve(
    scores: np.ndarray, truth: np.ndarray, weights: np.ndarray, positive: np.ndarray, negative: np.ndarray
) -> dict[str, np.ndarray]:
    """AUC, average precision, sensitivity at the fixed specificity, from one sort; equal scores are one threshold."""
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) != 0])
    ordered = weights[:, order]
    hits = np.add.reduceat(ordered * truth[order], starts, axis=1)
    misses = np.add.reduceat(ordered * ~truth[order], starts, axis=1)
    true_positive, false_positive = hits.cumsum(axis=1), misses.cumsum(axis=1)
    below = negative[:, None] - false_positive
    picked = true_positive + false_positive
    precision = np.where(picked > 0, true_positive / picked, 0.0)
    found = np.where(negative > 0, positive, np.nan)
    allowed = false_positive <= (1 - SPECIFICITY + 1e-12) * negative[:, None]
    return {
        "auc": (hits * (below + misses / 2)).sum(axis=1) / (positive * negative),
        "average_precision": (hits * precision).sum(axis=1) / positive,
        "sensitivity_at_90": np.where(allowed, true_positive, 0.0).max(axis=1) / found,
    }


def _calibration_error(probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    confidence = probabilities.max(axis=1)
    surplus = (probabilities.argmax(axis=1) == labels) - confidence
    place = confidence_bins(confidence, ECE_BINS)
    gaps = [np.abs(weights @ np.where(place == b, surplus, 0.0)) for b in range(ECE_BINS)]
    error: np.ndarray = np.sum(gaps, axis=0) / weights.sum(axis=1)
    return error


def _nan_mean(columns: list[np.ndarray]) -> np.ndarray:
    table = np.stack(columns)
    there = np.isfinite(table)
    count = there.sum(axis=0)
    return np.where(count > 0, np.where(there, table, 0).sum(axis=0) / np.maximum(count, 1), np.nan)
