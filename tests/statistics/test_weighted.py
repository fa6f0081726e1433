"""The vectorised metrics of the bootstrap equal scikit-learn's on the resampled images, one by one."""

from __future__ import annotations

import numpy as np
import pytest

from meddap_monai.statistics.intervals import group_weights, interval, over_seeds, seed_draws
from meddap_monai.statistics.metrics import all_metrics
from meddap_monai.statistics.shares import wilson
from meddap_monai.statistics.weighted import METRICS, NAMES, weighted_metrics


def predictions(count: int, classes: int, seed: int, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=count)
    labels[:classes] = np.arange(classes)
    logits = rng.normal(size=(count, classes)) + np.eye(classes)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return (probabilities.round(1) if ties else probabilities), labels


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("metric", METRICS)
def test_equal_weights_give_the_plain_metric(metric: str, ties: bool) -> None:
    probabilities, labels = predictions(60, 3, 1, ties)
    found = weighted_metrics(probabilities, labels, np.ones((1, 60)))[metric]
    assert found[0] == pytest.approx(all_metrics(probabilities, labels)[metric], abs=1e-12)


@pytest.mark.parametrize("metric", METRICS)
def test_weights_count_like_repeated_images(metric: str) -> None:
    probabilities, labels = predictions(40, 4, 2, ties=True)
    weights = np.random.default_rng(3).integers(1, 4, size=(5, 40)).astype(float)
    found = weighted_metrics(probabilities, labels, weights)[metric]
    for row, value in zip(weights.astype(int), found, strict=True):
        repeated = np.repeat(np.arange(40), row)
        assert value == pytest.approx(all_metrics(probabilities[repeated], labels[repeated])[metric], abs=1e-12)


def test_a_class_without_weight_is_left_out_of_that_replicate() -> None:
    probabilities, labels = predictions(30, 3, 4, ties=False)
    weights = np.ones((1, 30))
    weights[0, labels == 2] = 0
    found = weighted_metrics(probabilities, labels, weights)
    kept = labels != 2
    expected = all_metrics(probabilities[kept], labels[kept])
    assert found["auc"][0] == pytest.approx(expected["auc"])
    assert found["balanced_accuracy"][0] == pytest.approx(expected["balanced_accuracy"])
    assert np.isfinite([values[0] for values in found.values()]).all()


def test_every_metric_has_a_name_for_people() -> None:
    assert set(NAMES) == set(METRICS)


def test_whole_groups_are_drawn() -> None:
    groups = ["a", "a", "a", "b", "c", "c"]
    weights = group_weights(groups, 200, 0, "own 1")
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 4] == weights[:, 5]).all()
    assert (weights[:, 0] + weights[:, 3] + weights[:, 4] == 3).all()
    assert np.array_equal(weights, group_weights(groups, 200, 0, "own 1"))
    assert not np.array_equal(weights, group_weights(groups, 200, 0, "own 2"))


def test_grouped_images_widen_the_interval() -> None:
    """Ten patients with ten equal images each know as little as ten images."""
    rng = np.random.default_rng(0)
    right = rng.random(10) < 0.6
    labels = np.zeros(100, dtype=int)
    probabilities = np.where(np.repeat(right, 10)[:, None], [1.0, 0.0], [0.0, 1.0])
    by_patient = [f"p{place // 10}" for place in range(100)]
    by_image = [f"i{place}" for place in range(100)]
    width = {}
    for name, groups in (("patient", by_patient), ("image", by_image)):
        drawn = weighted_metrics(probabilities, labels, group_weights(groups, 2000, 0, "x"))["accuracy"]
        found = interval(0.0, drawn)
        width[name] = found.high - found.low
    assert width["patient"] > 2.2 * width["image"]


@pytest.mark.slow
def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    """Coverage of the 95 % interval of a share over patients, 300 simulated studies of 60 patients."""
    rng = np.random.default_rng(1)
    held = 0
    for study in range(300):
        chance = rng.beta(6, 4, size=60)
        right = rng.random((60, 3)) < chance[:, None]
        probabilities = np.where(right.reshape(-1, 1), [1.0, 0.0], [0.0, 1.0])
        groups = [f"p{place // 3}" for place in range(180)]
        drawn = weighted_metrics(probabilities, np.zeros(180, int), group_weights(groups, 400, study, "x"))["accuracy"]
        found = interval(0.0, drawn)
        held += found.low <= 0.6 <= found.high
    assert 0.90 <= held / 300 <= 0.98


def test_seeds_are_resampled_in_pairs() -> None:
    table = np.arange(12.0).reshape(3, 4)
    draws = np.array([[0, 0, 0], [0, 1, 2], [2, 2, 2], [1, 1, 0]])
    assert over_seeds(table, draws).tolist() == [0.0, 5.0, 10.0, pytest.approx((7 + 7 + 3) / 3)]
    assert seed_draws(3, 5, 0).shape == (5, 3)


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),
    [(0, 0, 0, 1), (0, 100, 0, 0.0370), (5, 100, 0.0215, 0.1118), (50, 100, 0.4038, 0.5962)],
)
def test_wilson_interval(hits: int, count: int, low: float, high: float) -> None:
    assert wilson(hits, count) == pytest.approx((low, high), abs=1e-4)
