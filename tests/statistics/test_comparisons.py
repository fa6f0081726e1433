"""Paired tests, Holm's correction and the verdict by the stated rule."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from meddap_monai.evaluation import arms
from meddap_monai.evaluation.report.plain_words import headline
from meddap_monai.statistics.comparisons import (
    HARMS,
    HELPS,
    NOTHING,
    Comparison,
    holm,
    permutation_p,
    verdict,
    wilcoxon_p,
)

CLEAR = Comparison(0.05, 0.02, 0.08, 0.015, 20.0, 0.042, 0.001, 0.002, 0.002, 0.003)


@pytest.mark.parametrize(
    ("values", "corrected"),
    [
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),
        ([0.2], [0.2]),
        ([0.9, 0.8], [1.0, 1.0]),
        ([0.01, math.nan, 0.02], [0.02, math.nan, 0.02]),
        ([], []),
    ],
)
def test_holm(values: list[float], corrected: list[float]) -> None:
    assert np.allclose(holm(values), corrected, equal_nan=True)


def test_permutation_is_exact_for_few_seeds_and_agrees_with_scipy() -> None:
    values = [0.03, 0.01, 0.05, -0.01, 0.02, 0.04]
    expected = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=np.inf, alternative="two-sided"
    ).pvalue
    assert permutation_p(values) == pytest.approx(expected)
    assert permutation_p([0.1] * 5) == pytest.approx(2 / 32)
    assert math.isnan(permutation_p([0.1]))


def test_permutation_of_many_seeds_is_sampled() -> None:
    values = np.random.default_rng(0).normal(0.5, 1, size=20)
    expected = stats.ttest_1samp(values, 0).pvalue
    assert permutation_p(list(values)) == pytest.approx(expected, abs=0.02)


def test_wilcoxon_of_nothing_is_one() -> None:
    assert wilcoxon_p([0.0, 0.0, 0.0]) == 1.0
    assert wilcoxon_p([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]) == pytest.approx(0.03125)


@pytest.mark.parametrize(
    ("change", "beaten_by", "word", "reason"),
    [
        ({}, [], HELPS, "corrected p 0.003"),
        ({}, ["shuffled", "hog"], NOTHING, "not above shuffled and hog, so no claim"),
        ({"p_holm": 0.06}, [], NOTHING, "differences below 0.042 would be missed"),
        ({"low": -0.001}, [], NOTHING, "would be missed"),
        ({"difference": -0.05, "low": -0.08, "high": -0.02}, ["shuffled"], HARMS, "-0.050"),
        ({"difference": -0.05, "low": -0.08, "high": -0.02, "p_holm": 0.2}, [], NOTHING, "-0.050"),
        ({"low": math.nan, "high": math.nan}, [], NOTHING, "no interval"),
    ],
)
def test_verdict_follows_the_rule(change: dict, beaten_by: list[str], word: str, reason: str) -> None:
    found = verdict(replace(CLEAR, **change), beaten_by)
    assert found[0] == word
    assert reason in found[1]


def test_few_seeds_get_no_verdict() -> None:
    assert verdict(CLEAR, [], seeds=5)[0] == HELPS
    word, reason = verdict(CLEAR, [], seeds=3)
    assert word == NOTHING
    assert "3 paired seed(s), a verdict needs 5" in reason


@pytest.mark.parametrize(
    ("wanted", "arm", "expected"),
    [
        ("real_classical", "real_synthetic@r2", "real_classical@r2"),
        ("real_classical", "real_synthetic@r9", "real_classical@r2"),
        ("real", "real_synthetic", "real"),
        ("hog", "real", None),
        ("real", "real", None),
    ],
)
def test_the_counterpart_of_a_variant_is_of_that_variant(wanted: str, arm: str, expected: str | None) -> None:
    known = ["real", "real_classical@r2", "real_synthetic", "real_synthetic@r2", "real_synthetic@r9"]
    assert arms.counterpart(wanted, arm, known) == expected


@pytest.mark.parametrize(
    ("arm", "candidate"),
    [("real_synthetic@x", True), ("shuffled", False), ("duplicated", False), ("real_classical", False)],
)
def test_only_arms_with_synthetic_images_ask_for_a_verdict(arm: str, candidate: bool) -> None:
    assert arms.is_candidate(arm) is candidate
    assert arms.meaning(arm)


@pytest.mark.parametrize(
    ("words", "seeds", "sentence"),
    [
        ([], 5, "Nothing to decide"),
        ([HELPS, HELPS], 5, "Yes, in every comparison"),
        ([NOTHING, NOTHING], 5, "No evidence that they do, and none that they harm"),
        ([HELPS, HARMS, NOTHING], 5, "helps in 1, harms in 1, no evidence in 1 of 3"),
        ([NOTHING, NOTHING], 2, "Too few seeds for a verdict: it needs 5"),
    ],
)
def test_the_headline_says_no_more_than_the_verdicts(words: list[str], seeds: int, sentence: str) -> None:
    assert sentence in headline([{"verdict": word, "seeds": seeds} for word in words])


def test_like_is_compared_with_like_and_controls_take_the_strongest_augmentation() -> None:
    known = ["real", "real_ultrasound", "real_synthetic", "real_synthetic_ultrasound", "shuffled"]
    assert arms.like("real_synthetic", known) == "real"
    assert arms.like("real_synthetic_ultrasound", known) == arms.like("shuffled", known) == "real_ultrasound"
    assert arms.augmentation_of("shuffled", ["real", "real_classical", "shuffled"]) == "classical"
    assert arms.augmentation_of("shuffled", ["real", "shuffled"]) == "none"


def test_harm_is_judged_against_real_images_with_the_same_augmentation() -> None:
    even = Comparison(-0.001, -0.02, 0.01, 0.01, 9.0, 0.03, 0.8, 0.8, 0.8, p_holm=0.8)
    worse = Comparison(-0.05, -0.07, -0.03, 0.01, 9.0, 0.03, 0.001, 0.01, 0.01, p_holm=0.002)
    assert verdict(worse, [], seeds=9, like=even)[0] == NOTHING
    word, reason = verdict(even, [], seeds=9, like=worse)
    assert word == HARMS and "with the same augmentation" in reason
