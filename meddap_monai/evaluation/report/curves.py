"""Curves of a test set: ROC and precision-recall, averaged over classes and seeds with intervals; calibration."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from meddap_monai.evaluation.bootstrap import Table, patient_draws
from meddap_monai.evaluation.predictions import Predictions
from meddap_monai.statistics.intervals import over_seeds
from meddap_monai.statistics.weighted import confidence_bins

GRID = np.linspace(0, 1, 51)
BANDS = 200
"""Bootstrap replicates of a band; its ends are drawn, not tested."""


def curves_of_arms(table: Table, samples: int, seed: int, confidence: float) -> dict[str, Any]:
    """Return ROC and precision-recall curves of all arms with pointwise intervals over patients and seeds.

    Args:
        table: predictions on one test set.
        samples: bootstrap replicates, at most `BANDS` are used.
        seed: of the evaluation.
        confidence: of the bands.

    Returns:
        ``roc``: ``x`` false-positive rates and arm -> true-positive rates; ``precision_recall``: ``x`` sensitivities
        and arm -> precisions. Each arm has ``mean``, ``low`` and ``high``.
    """
    draws = patient_draws(table, min(samples, BANDS), seed)
    result: dict[str, Any] = {}
    kinds: dict[str, Callable[..., np.ndarray]] = {"roc": roc, "precision_recall": precision_recall}
    for kind, curve in kinds.items():
        result[kind] = {"x": [round(float(x), 4) for x in GRID], "arms": {}}
        for arm, runs in table.items():
            lines = [mean_curve(runs[number], draws.weights(runs[number].groups), curve) for number in sorted(runs)]
            band = over_seeds(np.stack(lines), len(draws.names))
            low, high = band.interval(confidence, (0.0, 1.0))
            shown = {"mean": band.mean, "low": low, "high": high}
            result[kind]["arms"][arm] = {name: [round(float(y), 5) for y in line] for name, line in shown.items()}
    return result


def calibration_of_arms(table: Table) -> dict[str, list[dict[str, float]]]:
    """Return arm -> bins of confidence that hold images: mean confidence, share right, images; all seeds together.

    The confidence is the uncalibrated probability of the chosen class; the bins are those of the calibration error.
    """
    result = {}
    for arm, runs in table.items():
        probabilities = np.concatenate([found.probabilities for found in runs.values()])
        labels = np.concatenate([found.labels for found in runs.values()])
        confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
        place = confidence_bins(confidence)
        result[arm] = [
            {
                "confidence": round(float(confidence[place == number].mean()), 5),
                "right": round(float(right[place == number].mean()), 5),
                "images": int((place == number).sum()),
            }
            for number in np.unique(place)
        ]
    return result


def write_curves(board: Path, report: Mapping[str, Any], tables: Mapping[str, Table]) -> None:
    """Write a TensorBoard run per arm: each metric over the seeds, and its ROC over the false-positive rate in percent.

    Args:
        board: folder of the runs.
        report: what `build_report` returned.
        tables: test set -> predictions, for the seeds of each arm.
    """
    from torch.utils.tensorboard import SummaryWriter

    shutil.rmtree(board, ignore_errors=True)  # of an evaluation that was cut short
    for arm in report["arms"]:
        with SummaryWriter(str(board / arm)) as writer:
            for name, found in report["sets"].items():
                for metric, value in found["arms"].get(arm, {}).items():
                    for seed, one in zip(sorted(tables[name][arm]), value["values"], strict=True):
                        if np.isfinite(one):
                            writer.add_scalar(f"evaluate/{name}_{metric}", one, seed)
                lines = found["curves"]["roc"]
                for x, y in zip(lines["x"], lines["arms"].get(arm, {}).get("mean", []), strict=False):
                    if np.isfinite(y):
                        writer.add_scalar(f"evaluate/{name}_roc_sensitivity", y, round(100 * x))


def mean_curve(found: Predictions, weights: np.ndarray, curve: Callable[..., np.ndarray]) -> np.ndarray:
    """Return a one-against-rest curve averaged over the classes present: ``(B, 51)``.

    Args:
        found: predictions of N images.
        weights: ``(B, N)``, how often each replicate counts each image.
        curve: `roc` or `precision_recall`.
    """
    lines = []
    for label in np.unique(found.labels):
        truth = found.labels == label
        if not truth.all():
            lines.append(curve(*counts(found.probabilities[:, label], truth, weights)))
    if not lines:
        return np.full((len(weights), len(GRID)), np.nan)
    table = np.stack(lines)
    there = np.isfinite(table)
    return np.where(there.any(axis=0), np.where(there, table, 0).sum(axis=0) / np.maximum(there.sum(axis=0), 1), np.nan)


def counts(scores: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return true and false positives ``(B, T + 1)`` at falling thresholds, from none called positive to all."""
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) != 0])
    ordered = weights[:, order]
    parts = [np.add.reduceat(ordered * chosen[order], starts, axis=1).cumsum(axis=1) for chosen in (truth, ~truth)]
    hits, misses = (np.pad(part, ((0, 0), (1, 0))) for part in parts)
    return hits, misses


def roc(hits: np.ndarray, misses: np.ndarray) -> np.ndarray:
    """Return true-positive rates ``(B, 51)`` at the false-positive rates of `GRID`; NaN where one side is missing."""
    return _read(_share(misses), _share(hits))


def precision_recall(hits: np.ndarray, misses: np.ndarray) -> np.ndarray:
    """Return the best precision ``(B, 51)`` that still reaches each sensitivity of `GRID`."""
    picked = hits + misses
    precision = np.divide(hits, picked, out=np.zeros_like(hits), where=picked > 0)
    precision[np.isnan(_share(misses)[:, -1])] = np.nan
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    recall = _share(hits)
    first = (recall[:, None, :] >= GRID[None, :, None] - 1e-12).argmax(axis=2)
    return np.where(np.isfinite(recall[:, -1:]), np.take_along_axis(best, first, axis=1), np.nan)


def _share(running: np.ndarray) -> np.ndarray:
    total = running[:, -1:]
    return np.divide(running, total, out=np.full_like(running, np.nan), where=total > 0)


def _read(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Interpolate rows ``y(x)`` on `GRID`; at a step the upper value."""
    return np.stack([np.interp(GRID, *pair) for pair in zip(x, y, strict=True)])
