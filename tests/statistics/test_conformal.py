"""Conformal p-values of grouped examples: right by hand, and the promised coverage over many simulated draws."""

import numpy as np
import pytest
from sklearn.covariance import ledoit_wolf

from meddap_monai.statistics.conformal import grouped_p_values, grouped_threshold
from meddap_monai.statistics.gaussians import fit_gaussians


def test_p_values_by_hand() -> None:
    """Two patients: one with a single image of score 3, one with four images of 1, 2, 4 and 5."""
    known, groups = np.array([3.0, 1, 2, 4, 5]), np.array([7, 2, 2, 2, 2])
    asked = np.array([[0.0, 1.0, 3.0], [3.5, 5.0, 6.0]])
    expected = np.array([[2, 2, 1.5], [0.5, 0.25, 0]]) + 1
    assert np.allclose(grouped_p_values(asked, known, groups), expected / 3)


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [
        (0.0, 5.0),  # nothing known exceeds it
        (0.3, 5.0),  # of three groups, the new one among them, one is a third
        (0.34, 5.0),
        (0.42, 4.0),  # 5 alone weighs 1 / 4 of a patient: (1 + 0.25) / 3 = 0.417
        (0.49, 4.0),
        (0.51, 3.0),  # (1 + 0.5) / 3
        (1.0, 1.0),
    ],
)
def test_threshold_by_hand(alpha: float, expected: float) -> None:
    known, groups = np.array([3.0, 1, 2, 4, 5]), np.array([7, 2, 2, 2, 2])
    assert grouped_threshold(known, groups, alpha) == expected


def _draw(draw: np.random.Generator, patients: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities, labels and patients of images, 1 to 12 each, whose logits share a part within the patient."""
    who = np.repeat(np.arange(patients), draw.integers(1, 13, patients))
    labels = draw.integers(0, 3, patients)[who]
    logits = draw.normal(0, 1.5, (patients, 3))[who] + draw.normal(0, 1, (len(who), 3)) + 2 * np.eye(3)[labels]
    weights = np.exp(logits)
    return weights / weights.sum(axis=1, keepdims=True), labels, who


@pytest.mark.parametrize(("patients", "coverage"), [(12, 0.9), (40, 0.9), (40, 0.8), (200, 0.95)])
def test_sets_hold_the_right_class_as_often_as_stated(patients: int, coverage: float) -> None:
    """Images of a patient are alike and their number differs, so images alone would be too sure (12, 40 patients)."""
    draw, held, sizes = np.random.default_rng(0), [], []
    for _ in range(400):
        known, labels, who = _draw(draw, patients)
        new, right, _ = _draw(draw, 1)
        scores = 1 - known[np.arange(len(labels)), labels]
        chosen = grouped_p_values(1 - new, scores, who) > 1 - coverage + 1e-9
        held.append(chosen[np.arange(len(right)), right].mean())
        sizes.append(chosen.sum(axis=1).mean())
    error = np.std(held) / np.sqrt(len(held))
    assert coverage - 2.5 * error <= np.mean(held) <= coverage + 1 / (patients + 1) + 2.5 * error
    assert np.mean(sizes) < 2.7


def test_with_few_patients_a_set_is_full() -> None:
    """With G patients no p-value is below 1 / (G + 1): eight cannot exclude anything at 90 %, nine can."""
    sure = np.array([[0.0, 0.0, 1.0]])
    for patients, kept in ((8, 3), (9, 1)):
        values = grouped_p_values(1 - sure, np.full(patients, 0.1), np.arange(patients))
        assert (values > 0.1 + 1e-9).sum() == kept


def test_at_most_the_stated_share_exceeds_the_threshold() -> None:
    draw, above = np.random.default_rng(1), []
    for _ in range(400):
        who = np.repeat(np.arange(60), draw.integers(1, 13, 60))
        known = draw.normal(0, 1, 60)[who] + draw.normal(0, 1, len(who))
        new = draw.normal(0, 1) + draw.normal(0, 1, draw.integers(1, 13))
        above.append((new > grouped_threshold(known, who, 0.1)).mean())
    error = np.std(above) / np.sqrt(len(above))
    assert 0.1 - 1 / 61 - 2.5 * error <= np.mean(above) <= 0.1 + 2.5 * error


def test_distances_are_those_of_the_gaussian() -> None:
    """Features of two classes with deviations 1 and 3: three times as far along the wide axis is equally far."""
    draw = np.random.default_rng(2)
    labels = np.arange(20_000) % 2
    features = draw.normal(0, (1, 3), (20_000, 2)) + 10 * labels[:, None]
    found = fit_gaussians(features, labels).distances(np.array([[2.0, 0], [0, 6], [10, 10]]))
    expected = np.array([[4, 64 + 100 / 9], [4, 100 + 16 / 9], [100 + 100 / 9, 0]])
    assert found == pytest.approx(expected, rel=0.05, abs=0.05)


@pytest.mark.parametrize("count", [12, 300], ids=["fewer images than features", "more"])
def test_the_gaussian_is_that_of_the_shrunk_covariance(count: int) -> None:
    draw = np.random.default_rng(3)
    features, labels = draw.normal(size=(count, 40)), np.arange(count) % 3
    asked = draw.normal(size=(5, 40))
    found = fit_gaussians(features, labels)
    covariance = ledoit_wolf(features - found.means[labels], assume_centered=True)[0]
    away = asked[:, None] - found.means
    expected = np.einsum("nkd,de,nke->nk", away, np.linalg.inv(covariance), away)
    assert found.distances(asked) == pytest.approx(expected, rel=1e-6)
    assert len(found.directions) <= min(count, 40)
