"""ROC and precision-recall curves of a test set, averaged over classes and seeds on one grid."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn import metrics as sk

from meddap_monai.evaluation.judge import Table
from meddap_monai.evaluation.predictions import Predictions

GRID = np.linspace(0, 1, 51)


def roc_of_arms(table: Table) -> dict[str, Any]:
    """Return arm -> mean true-positive rate, lowest and highest seed, on the false-positive rates of `GRID`."""
    result: dict[str, Any] = {"false_positive": [round(float(x), 4) for x in GRID], "arms": {}}
    for arm, runs in table.items():
        curves = np.stack([mean_roc(runs[number]) for number in sorted(runs)])
        shown = {"mean": curves.mean(axis=0), "low": curves.min(axis=0), "high": curves.max(axis=0)}
        result["arms"][arm] = {name: [round(float(y), 5) for y in line] for name, line in shown.items()}
    return result


def mean_roc(found: Predictions) -> np.ndarray:
    """Return the one-against-rest ROC averaged over the classes present: ``(51,)`` true-positive rates."""
    lines = []
    for label in np.unique(found.labels):
        truth = found.labels == label
        if truth.all():
            continue
        false_positive, true_positive, _ = sk.roc_curve(truth, found.probabilities[:, label])
        lines.append(np.interp(GRID, false_positive, true_positive))
    return np.mean(lines, axis=0) if lines else GRID.copy()
