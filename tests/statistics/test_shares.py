"""Intervals of shares, and agreement between readers."""

import math
import warnings

import numpy as np
import pytest

from meddap_monai.statistics.shares import beyond_guessing, cohens_kappa, wilson


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),
    [
        (0, 0, 0.0, 1.0),
        (0, 20, 0.0, 0.1611),
        (0, 100, 0, 0.0370),
        (5, 100, 0.0215, 0.1118),
        (10, 20, 0.2993, 0.7007),
        (20, 20, 0.8389, 1.0),
        (50, 100, 0.4038, 0.5962),
    ],
)
def test_wilson_interval(hits: int, count: int, low: float, high: float) -> None:
    assert wilson(hits, count) == pytest.approx((low, high), abs=1e-4)


def test_kappa_by_hand() -> None:
    first, second = ["y"] * 25 + ["n"] * 25, ["y"] * 20 + ["n"] * 5 + ["y"] * 10 + ["n"] * 15
    assert cohens_kappa(first, second) == pytest.approx(0.4)
    assert cohens_kappa(["y", "n"], ["y", "y"]) == pytest.approx(0)


@pytest.mark.parametrize("answers", [["y", "y"], []])
def test_kappa_of_one_answer_only_is_not_defined(answers: list[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert math.isnan(cohens_kappa(answers, answers))


@pytest.mark.parametrize(
    ("confusion", "accuracy", "guessed", "balanced", "better"),
    [
        ([[3, 4, 3], [4, 2, 4], [3, 4, 3]], 8 / 30, 1 / 3, 8 / 30, False),
        ([[9, 1, 0], [1, 8, 1], [0, 2, 8]], 25 / 30, 1 / 3, 25 / 30, True),
        ([[80, 0], [20, 0]], 0.8, 0.8, 0.5, False),  # always the commonest class: right often, and blind
        ([[70, 10], [5, 15]], 0.85, 0.8, (7 / 8 + 3 / 4) / 2, True),
        ([[0, 0, 0], [0, 9, 1], [0, 1, 9]], 0.9, 0.5, 0.9, True),  # a class without images
    ],
)
def test_a_classifier_beside_one_that_guesses(
    confusion: list[list[int]], accuracy: float, guessed: float, balanced: float, better: bool
) -> None:
    found = beyond_guessing(np.array(confusion))
    assert (found.accuracy, found.guessed, found.balanced_accuracy) == pytest.approx((accuracy, guessed, balanced))
    assert (found.low > found.chance) is found.better is better


@pytest.mark.parametrize(("classes", "images"), [(2, 10), (3, 16), (8, 4)])
def test_one_that_guesses_is_seldom_called_better(classes: int, images: int) -> None:
    rng = np.random.default_rng(0)
    drawn = [rng.multinomial(images, [1 / classes] * classes, size=classes) for _ in range(1000)]
    assert np.mean([beyond_guessing(confusion).better for confusion in drawn]) <= 0.05
