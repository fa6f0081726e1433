"""Curves of the report: equal to scikit-learn's, with intervals that hold what they should."""

import numpy as np
import pytest
from sklearn import metrics as sk

from meddap_monai.evaluation.predictions import Predictions
from meddap_monai.evaluation.report.curves import GRID, counts, curves_of_arms, precision_recall, roc


def predictions(images: int, ties: bool, seed: int = 0) -> Predictions:
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=images)
    scores = rng.dirichlet([1, 1, 1], images) + 0.3 * np.eye(3)[labels]
    scores = scores / scores.sum(axis=1, keepdims=True)
    rows = [{"patient": str(number // 2)} for number in range(images)]
    return Predictions(rows, labels, scores.round(1) if ties else scores, ["a", "b", "c"])


@pytest.mark.parametrize("ties", [False, True])
def test_curves_are_those_of_scikit_learn(ties: bool) -> None:
    found = predictions(120, ties)
    truth, scores = found.labels == 1, found.probabilities[:, 1]
    drawn = counts(scores, truth, np.ones((1, 120)))
    false_positive, true_positive, _ = sk.roc_curve(truth, scores, drop_intermediate=False)
    assert roc(*drawn)[0] == pytest.approx(np.interp(GRID, false_positive, true_positive))
    precision, recall, _ = sk.precision_recall_curve(truth, scores)
    assert precision_recall(*drawn)[0] == pytest.approx([precision[recall >= x - 1e-12].max() for x in GRID])


def test_a_weight_of_two_is_an_image_twice() -> None:
    found = predictions(40, ties=True)
    weights = np.random.default_rng(1).integers(3, size=40)
    truth, scores = found.labels == 1, found.probabilities[:, 1]
    weighted = counts(scores, truth, weights[None].astype(float))
    repeated = counts(np.repeat(scores, weights), np.repeat(truth, weights), np.ones((1, weights.sum())))
    for curve in (roc, precision_recall):
        assert curve(*weighted)[0] == pytest.approx(curve(*repeated)[0])


def test_bands_hold_the_mean_and_shrink_with_more_patients() -> None:
    widths = []
    for images in (60, 600):
        runs = {seed: predictions(images, ties=False, seed=seed) for seed in range(3)}
        for lines in (kind["arms"]["x"] for kind in curves_of_arms({"x": runs}, 200, 0, 0.95).values()):
            low, mean, high = (np.array(lines[name]) for name in ("low", "mean", "high"))
            assert (low <= high).all()
            inside = (low[5:45] - 0.02 <= mean[5:45]) & (mean[5:45] <= high[5:45] + 0.02)
            assert inside.mean() > 0.9
            widths.append((high - low).mean())
    assert widths[2] < widths[0] / 2 and widths[3] < widths[1] / 2


def test_a_class_that_a_replicate_lacks_is_left_out_of_it() -> None:
    found = predictions(12, ties=False)
    none = (found.labels != 1).astype(float)[None]
    drawn = counts(found.probabilities[:, 1], found.labels == 1, none)
    assert np.isnan(roc(*drawn)).all() and np.isnan(precision_recall(*drawn)).all()
