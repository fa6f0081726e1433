"""From predictions to numbers: every arm on one test set, with intervals, and every arm against its references."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from meddap_monai.evaluation import arms as arm_names
from meddap_monai.evaluation.predictions import Predictions
from meddap_monai.statistics.comparisons import Comparison, holm, permutation_p, verdict, wilcoxon_p
from meddap_monai.statistics.intervals import PatientDraws, over_seeds
from meddap_monai.statistics.metrics import confusion, masked, per_class
from meddap_monai.statistics.weighted import METRICS, weighted_metrics

Table = Mapping[str, Mapping[int, Predictions]]
"""Arm -> seed -> predictions on one test set."""


@dataclass
class BootstrapResults:
    """Values of all runs on one test set, as they are and in the replicates of one bootstrap of patients.

    Attributes:
        values: arm -> metric -> ``(S, 1 + B)`` over its seeds; column 0 as they are.
        seeds: arm -> its seeds in order.
        patients: different ones in all runs.
    """

    values: dict[str, dict[str, np.ndarray]]
    seeds: dict[str, list[int]]
    patients: int

    def mean(self, arm: str, metric: str) -> float:
        """Return the mean over an arm's seeds."""
        return float(self.values[arm][metric][:, 0].mean())


def patient_draws(table: Table, samples: int, seed: int) -> PatientDraws:
    """Return one draw of patients per replicate for all runs on a test set."""
    patients = (name for runs in table.values() for run in runs.values() for name in run.groups)
    return PatientDraws(patients, samples, seed)


def bootstrap_metrics(table: Table, samples: int, seed: int, mask: bool = False) -> BootstrapResults:
    """Compute point values and replicates of all runs.

    Args:
        table: predictions.
        samples: bootstrap replicates.
        seed: of the evaluation.
        mask: renormalise over the classes present first.
    """
    draws = patient_draws(table, samples, seed)
    results = BootstrapResults({}, {}, len(draws.names))
    for arm, runs in table.items():
        results.seeds[arm] = sorted(runs)
        found = [_values(runs[number], draws, mask) for number in results.seeds[arm]]
        results.values[arm] = {name: np.stack([row[name] for row in found]) for name in METRICS}
    return results


def _values(found: Predictions, draws: PatientDraws, mask: bool) -> dict[str, np.ndarray]:
    probabilities = masked(found.probabilities, found.labels) if mask else found.probabilities
    return weighted_metrics(probabilities, found.labels, draws.weights(found.groups))


def summarise(results: BootstrapResults, confidence: float) -> dict[str, dict[str, dict[str, Any]]]:
    """Return arm -> metric -> mean, interval, standard error, standard deviation over seeds and the seeds' values."""
    result: dict[str, dict[str, dict[str, Any]]] = {}
    for arm, metrics in results.values.items():
        result[arm] = {}
        for name, table in metrics.items():
            found, values = over_seeds(table, results.patients), table[:, 0]
            low, high = found.interval(confidence, METRICS[name].range)
            spread = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
            shown = {"mean": found.mean, "low": low, "high": high, "error": found.error, "sd": spread}
            result[arm][name] = {key: float(value) for key, value in shown.items()} | {"values": values.tolist()}
    return result


def compare(results: BootstrapResults, arm: str, reference: str, metric: str, confidence: float) -> Comparison | None:
    """Compare two arms over the seeds they share; None when they share none."""
    common = [number for number in results.seeds[arm] if number in results.seeds[reference]]
    if not common:
        return None

    def pick(name: str) -> np.ndarray:
        return results.values[name][metric][[results.seeds[name].index(number) for number in common]]

    sign = -1.0 if METRICS[metric].lower_is_better else 1.0
    differences = sign * (pick(arm) - pick(reference))
    found = over_seeds(differences, results.patients)
    low, high = found.interval(confidence)
    return Comparison(
        difference=float(found.mean),
        low=float(low),
        high=float(high),
        error=float(found.error),
        freedom=float(found.freedom),
        detectable=float(found.detectable(1 - confidence)),
        p_value=float(found.p_value()),
        p_permutation=permutation_p(differences[:, 0]),
        p_wilcoxon=wilcoxon_p(differences[:, 0]),
    )


def compare_all(results: BootstrapResults, metrics: tuple[str, ...], confidence: float) -> list[dict[str, Any]]:
    """Compare every arm with its references; Holm's correction is added by `correct`.

    A row's role is ``floor`` (against the best arm of real images alone, by its mean on this test set) or ``like``
    (against real images alone with the same augmentation, where that is another arm).
    """
    rows = []
    arms = arm_names.in_order(results.seeds)
    for arm, metric in itertools.product(arms, metrics):
        best = floor(results, arm, metric)
        same = arm_names.like(arm, arms)
        for role, reference in (("floor", best), ("like", same if same != best else None)):
            if reference is not None and reference != arm:
                found = compare(results, arm, reference, metric, confidence)
                if found is not None:
                    rows.append({"arm": arm, "reference": reference, "role": role, "metric": metric, "found": found})
    return rows


def floor(results: BootstrapResults, arm: str, metric: str) -> str | None:
    """Return the best other arm of real images alone that belongs to `arm`, by its mean; None without any."""
    sign = -1.0 if METRICS[metric].lower_is_better else 1.0
    wanted = (arm_names.counterpart(name, arm, results.seeds) for name in arm_names.REAL_ONLY)
    return max((name for name in wanted if name), key=lambda name: sign * results.mean(name, metric), default=None)


def correct(rows: list[dict[str, Any]]) -> None:
    """Set Holm's corrected p-value in place; the family is: candidates, one metric, one role, all test sets."""
    families: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        if arm_names.is_candidate(row["arm"]):
            families.setdefault((row["metric"], row["role"]), []).append(row)
    for members in families.values():
        for row, value in zip(members, holm([row["found"].p_value for row in members]), strict=True):
            row["found"] = replace(row["found"], p_holm=value)


def verdicts(
    rows: list[dict[str, Any]], results: BootstrapResults, test_set: str, metric: str, level: float
) -> list[dict[str, Any]]:
    """Return the verdict of every arm with synthetic images on one test set; `correct` must have run."""
    arms = arm_names.in_order(results.seeds)
    alike = {row["arm"]: row["found"] for row in rows if row["metric"] == metric and row["role"] == "like"}
    sign = -1.0 if METRICS[metric].lower_is_better else 1.0
    result = []
    for row in rows:
        if row["metric"] != metric or row["role"] != "floor" or not arm_names.is_candidate(row["arm"]):
            continue
        own = sign * results.mean(row["arm"], metric)
        controls = [arm_names.counterpart(name, row["arm"], arms) for name in (*arm_names.CONTROLS, arm_names.HOG)]
        beaten_by = [name for name in controls if name and sign * results.mean(name, metric) >= own]
        pairs = len(set(results.seeds[row["arm"]]) & set(results.seeds[row["reference"]]))
        word, reason = verdict(row["found"], beaten_by, level, pairs, alike.get(row["arm"]))
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
