"""The same metric for parts of a test set: by device, by centre, wherever the records say so."""

from collections import Counter
from typing import Any

import numpy as np

from meddap_monai.evaluation.bootstrap import Table, patient_draws
from meddap_monai.evaluation.predictions import Predictions
from meddap_monai.statistics.intervals import PatientDraws, over_seeds
from meddap_monai.statistics.weighted import weighted_metrics

FIELDS = ("device", "centre")
SMALLEST = 10
"""Subgroups of fewer images are counted but not judged."""


def subgroup_table(table: Table, samples: int, seed: int, confidence: float) -> list[dict[str, Any]]:
    """Return one row per field, value and arm: images, patients, macro AUC over seeds with its interval.

    A field with a single value tells nothing and is left out.
    """
    draws = patient_draws(table, samples, seed)
    rows = []
    for field in FIELDS:
        first = next(iter(next(iter(table.values())).values()))
        values = Counter(_value(row, field) for row in first.rows)
        if len([value for value in values if value]) < 2:
            continue
        for value in sorted(value for value in values if value):
            for arm, runs in table.items():
                parts = [part(runs[number], field, value) for number in sorted(runs)]
                rows.append({"field": field, "value": value, "arm": arm} | _judge(parts, draws, confidence))
    return rows


def _value(row: dict[str, Any], field: str) -> str:
    return str((row.get("meta") or {}).get(field) or "")


def part(found: Predictions, field: str, value: str) -> Predictions:
    """Return the predictions whose record has this value."""
    chosen = np.array([_value(row, field) == value for row in found.rows])
    rows = [row for row, keep in zip(found.rows, chosen, strict=True) if keep]
    return Predictions(rows, found.labels[chosen], found.probabilities[chosen], found.classes)


def _judge(parts: list[Predictions], draws: PatientDraws, confidence: float) -> dict[str, Any]:
    images, patients = len(parts[0].rows), len(set(parts[0].groups))
    if any(len(found.rows) < SMALLEST or len(np.unique(found.labels)) < 2 for found in parts):
        return {"images": images, "patients": patients, "mean": None, "low": None, "high": None}
    values = [
        weighted_metrics(found.probabilities, found.labels, draws.weights(found.groups))["auc"] for found in parts
    ]
    estimate = over_seeds(np.stack(values), len({name for found in parts for name in found.groups}))
    low, high = estimate.interval(confidence, (0.0, 1.0))
    return {
        "images": images,
        "patients": patients,
        "mean": float(estimate.mean),
        "low": float(low),
        "high": float(high),
    }
