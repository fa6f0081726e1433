"""Classification metrics under the project's rules, by hand and by scikit-learn."""

import math

import numpy as np
import pytest
from scipy.special import softmax

from meddap_monai.classifier.scoring import fit_temperature
from meddap_monai.statistics.metrics import (
    all_metrics,
    brier,
    calibration_error,
    confusion,
    macro_auc,
    masked,
    per_class,
    sensitivity_at,
)

PERFECT = np.eye(3)[[0, 1, 2, 0, 1, 2]]
LABELS = np.array([0, 1, 2, 0, 1, 2])


def test_perfect_predictions() -> None:
    found = all_metrics(PERFECT, LABELS)
    ones = {"accuracy", "balanced_accuracy", "macro_f1", "sensitivity", "specificity", "precision", "auc"}
    assert {name for name, value in found.items() if value == 1} == ones | {"average_precision", "sensitivity_at_90"}
    assert found["brier"] == 0
    assert found["ece"] == 0


def test_a_class_without_images_stays_in_the_arg_max_and_out_of_the_averages() -> None:
    """Contracts: choosing the absent class is an error; averages and AUC go over the classes present."""
    probabilities = np.array([[0.3, 0.1, 0.6], [0.8, 0.1, 0.1], [0.1, 0.7, 0.2], [0.1, 0.8, 0.1]])
    labels = np.array([0, 0, 1, 1])
    found = all_metrics(probabilities, labels)
    assert found["accuracy"] == 0.75
    assert found["balanced_accuracy"] == 0.75
    assert found["auc"] == 1.0
    assert math.isnan(per_class(probabilities, labels)[2]["sensitivity"])
    without = masked(probabilities, labels)
    assert np.allclose(without[0], [0.75, 0.25, 0])
    assert all_metrics(without, labels)["accuracy"] == 1.0
    assert confusion(probabilities, labels).tolist() == [[1, 0, 1], [0, 2, 0], [0, 0, 0]]


def test_masking_where_nothing_is_left_spreads_evenly() -> None:
    assert np.allclose(masked(np.array([[0.0, 0.0, 1.0]]), np.array([0])), [[1, 0, 0]])
    assert np.allclose(masked(np.array([[0, 0, 1.0], [0, 1, 0]]), np.array([0, 1]))[0], [0.5, 0.5, 0])


def test_one_class_only_has_no_auc() -> None:
    assert math.isnan(macro_auc(PERFECT[:1], LABELS[:1]))


@pytest.mark.parametrize(
    ("probabilities", "labels", "score"), [([[1, 0]], [0], 0.0), ([[1, 0]], [1], 2.0), ([[0.5, 0.5]], [0], 0.5)]
)
def test_brier_goes_from_zero_to_two(probabilities: list, labels: list, score: float) -> None:
    assert brier(np.array(probabilities, float), np.array(labels)) == score


def test_calibration_error_is_the_gap_between_confidence_and_truth() -> None:
    probabilities = np.array([[0.85, 0.15]] * 10)
    labels = np.array([0] * 5 + [1] * 5)
    assert calibration_error(probabilities, labels) == pytest.approx(0.35)


def test_sensitivity_at_fixed_specificity() -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.6] + [0.75] + [0.1] * 9)
    truth = np.array([True] * 4 + [False] * 10)
    assert sensitivity_at(scores, truth, 0.9) == 1.0
    assert sensitivity_at(scores, truth, 0.95) == 0.5


@pytest.mark.parametrize("factor", [0.5, 1.0, 4.0])
def test_temperature_recovers_the_factor_by_which_logits_are_too_sure(factor: float) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4000, 3)) * 2
    labels = np.array([rng.choice(3, p=row) for row in softmax(logits, axis=1)])
    assert fit_temperature(logits * factor, labels) == pytest.approx(factor, rel=0.1)
