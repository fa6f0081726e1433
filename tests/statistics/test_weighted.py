"""The vectorised metrics of the bootstrap equal scikit-learn's on the resampled images, one by one."""

import numpy as np
import pytest

from meddap_monai.statistics.metrics import all_metrics
from meddap_monai.statistics.weighted import BLOCK, METRICS, weighted_metrics


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
    weights = np.random.default_rng(3).integers(1, 4, size=(BLOCK // 40 + 3, 40)).astype(float)
    found = weighted_metrics(probabilities, labels, weights)[metric]
    for row, value in list(zip(weights.astype(int), found, strict=True))[-6:]:
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
