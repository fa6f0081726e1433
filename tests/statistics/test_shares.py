"""Intervals of shares, and agreement between readers."""

from __future__ import annotations

import math
import warnings

import pytest

from meddap_monai.statistics.shares import cohens_kappa, wilson


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
