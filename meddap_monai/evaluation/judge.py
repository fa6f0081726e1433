"""From predictions to numbers: every arm on one test set, with intervals, and every arm against its references."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from meddap_monai.evaluation import arms as arm_names
from meddap_monai.evaluation.predictions import Predictions
from meddap_monai.statistics.comparisons import Comparison, bootstrap_p, holm, permutation_p, verdict, wilcoxon_p
from meddap_monai.statistics.intervals import group_weights, interval, over_seeds, seed_draws
from meddap_monai.statistics.metrics import all_metrics, confusion, masked, per_class
from meddap_monai.statistics.weighted import LOWER_IS_BETTER, METRICS, weighted_metrics

Table = Mapping[str, Mapping[int, Predictions]]
"""Arm -> seed -> predictions on one test set."""


@dataclass
class Judged:
    """Point values and bootstrap replicates of all runs on one test set.

    Attributes:
        points: arm -> metric -> ``(S,)`` over its seeds.
        replicates: arm -> metric -> ``(S, B)``.
        seeds: arm -> its seeds in order.
    """

    points: dict[str, dict[str, np.ndarray]]
    replicates: dict[str, dict[str, np.ndarray]]
    seeds: dict[str, list[int]]


def judge(table: Table, shared: bool, samples: int, seed: int, mask: bool = False) -> Judged:
    """Compute point values and replicates of all runs.

    Args:
        table: predictions.
        shared: all seeds are tested on the same images (the unseen set), so one draw of patients serves them all.
        samples: bootstrap replicates.
        seed: of the evaluation.
        mask: renormalise over the classes present first.
    """
    judged = Judged({}, {}, {})
    for arm, runs in table.items():
        seeds = sorted(runs)
        points, replicates = [], []
        for number in seeds:
            found = runs[number]
            probabilities = masked(found.probabilities, found.labels) if mask else found.probabilities
            weights = group_weights(found.groups, samples, seed, "unseen" if shared else f"own {number}")
            points.append(all_metrics(probabilities, found.labels))
            replicates.append(weighted_metrics(probabilities, found.labels, weights))
        judged.seeds[arm] = seeds
        judged.points[arm] = {name: np.array([row[name] for row in points]) for name in METRICS}
        judged.replicates[arm] = {name: np.stack([row[name] for row in replicates]) for name in METRICS}
    return judged


def summarise(judged: Judged, confidence: float, seed: int) -> dict[str, dict[str, dict[str, Any]]]:
    """Return arm -> metric -> mean, interval, standard deviation over seeds and the seeds' values."""
    result: dict[str, dict[str, dict[str, Any]]] = {}
    for arm, metrics in judged.points.items():
        result[arm] = {}
        for name, values in metrics.items():
            replicates = judged.replicates[arm][name]
            draws = seed_draws(len(values), replicates.shape[1], seed)
            found = interval(float(values.mean()), over_seeds(replicates, draws), confidence)
            spread = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
            result[arm][name] = asdict(found) | {"sd": spread, "values": [float(value) for value in values]}
    return result


def compare(judged: Judged, arm: str, reference: str, metric: str, confidence: float, seed: int) -> Comparison | None:
    """Compare two arms over the seeds they share; None when they share none."""
    common = [number for number in judged.seeds[arm] if number in judged.seeds[reference]]
    if not common:
        return None

    def pick(name: str, source: Mapping[str, Mapping[str, np.ndarray]]) -> np.ndarray:
        places = [judged.seeds[name].index(number) for number in common]
        return source[name][metric][places]

    sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
    differences = sign * (pick(arm, judged.points) - pick(reference, judged.points))
    replicates = sign * (pick(arm, judged.replicates) - pick(reference, judged.replicates))
    drawn = over_seeds(replicates, seed_draws(len(common), replicates.shape[1], seed))
    found = interval(float(differences.mean()), drawn, confidence)
    return Comparison(
        difference=found.mean,
        low=found.low,
        high=found.high,
        error=found.error,
        detectable=2.8 * found.error,
        p_bootstrap=bootstrap_p(drawn),
        p_permutation=permutation_p(list(differences)),
        p_wilcoxon=wilcoxon_p(list(differences)),
    )


def compare_all(judged: Judged, metrics: tuple[str, ...], confidence: float, seed: int) -> list[dict[str, Any]]:
    """Compare every arm with its references; Holm's correction is added by `correct`."""
    rows = []
    arms = arm_names.in_order(judged.seeds)
    for arm in arms:
        for wanted in (arm_names.REFERENCE, arm_names.SECOND_REFERENCE):
            reference = arm_names.counterpart(wanted, arm, arms)
            if reference is None or arm_names.base_arm(arm) == wanted:
                continue
            for metric in metrics:
                found = compare(judged, arm, reference, metric, confidence, seed)
                if found is not None:
                    rows.append({"arm": arm, "reference": reference, "metric": metric, "found": found})
    return rows


def correct(rows: list[dict[str, Any]]) -> None:
    """Set Holm's corrected p-value in place; the family is: candidates, one metric, one reference, all test sets."""
    families: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        if arm_names.is_candidate(row["arm"]):
            families.setdefault((row["metric"], arm_names.base_arm(row["reference"])), []).append(row)
    for members in families.values():
        for row, value in zip(members, holm([row["found"].p_bootstrap for row in members]), strict=True):
            row["found"] = replace(row["found"], p_holm=value)


def verdicts(
    rows: list[dict[str, Any]], judged: Judged, test_set: str, metric: str, level: float
) -> list[dict[str, Any]]:
    """Return the verdict of every arm with synthetic images on one test set; `correct` must have run."""
    arms = arm_names.in_order(judged.seeds)
    classical = arm_names.counterpart(arm_names.REFERENCE, "", arms)
    main = arm_names.REFERENCE if classical else arm_names.SECOND_REFERENCE
    sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
    result = []
    for row in rows:
        if row["metric"] != metric or not arm_names.is_candidate(row["arm"]):
            continue
        if arm_names.base_arm(row["reference"]) != main:
            continue
        own = sign * judged.points[row["arm"]][metric].mean()
        rivals = [arm_names.counterpart(name, row["arm"], arms) for name in (*arm_names.CONTROLS, arm_names.HOG)]
        beaten_by = [name for name in rivals if name and sign * judged.points[name][metric].mean() >= own]
        pairs = len(set(judged.seeds[row["arm"]]) & set(judged.seeds[row["reference"]]))
        word, reason = verdict(row["found"], beaten_by, level, pairs)
        result.append(
            {
                "arm": row["arm"],
                "reference": row["reference"],
                "test_set": test_set,
                "metric": metric,
                "verdict": word,
                "reason": reason,
                "difference": row["found"].difference,
                "low": row["found"].low,
                "high": row["found"].high,
                "detectable": row["found"].detectable,
                "seeds": pairs,
            }
        )
    return result


def details(table: Table) -> dict[str, dict[str, Any]]:
    """Return per arm: class tables averaged over seeds and the confusion matrix summed over seeds."""
    result = {}
    for arm, runs in table.items():
        predictions = [runs[number] for number in sorted(runs)]
        rows = [per_class(found.probabilities, found.labels) for found in predictions]
        classes = predictions[0].classes
        averaged = {
            name: {key: _mean([row[place][key] for row in rows]) for key in rows[0][place]}
            for place, name in enumerate(classes)
        }
        matrix = np.sum([confusion(found.probabilities, found.labels) for found in predictions], axis=0)
        result[arm] = {"classes": averaged, "confusion": matrix.tolist()}
    return result


def _mean(values: list[float]) -> float:
    found = [value for value in values if np.isfinite(value)]
    return float(np.mean(found)) if found else float("nan")
