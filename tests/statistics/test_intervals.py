"""Intervals over seeds that share patients: equal to the textbook where there is one, and honest where there is not."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from meddap_monai.statistics.intervals import Estimate, PatientDraws, over_seeds
from meddap_monai.statistics.weighted import weighted_metrics

GROUPS = ["a", "a", "a", "b", "c", "c"]


def table(seeds: list[float], replicates: np.ndarray) -> np.ndarray:
    """Values of each seed as they are, then the replicates ``(S, B)``."""
    return np.column_stack([seeds, replicates])


def test_whole_patients_are_drawn() -> None:
    weights = PatientDraws(GROUPS, 200, 0).weights(GROUPS)
    assert weights.shape == (201, 6) and (weights[0] == 1).all()
    assert (weights[:, 0] == weights[:, 1]).all() and (weights[:, 4] == weights[:, 5]).all()
    assert (weights[:, 0] + weights[:, 3] + weights[:, 4] == 3).all()
    assert weights[:, 3].std() > 0.5
    assert np.array_equal(weights, PatientDraws(GROUPS[::-1], 200, 0).weights(GROUPS))
    assert not np.array_equal(weights, PatientDraws(GROUPS, 200, 1).weights(GROUPS))


def test_a_patient_counts_alike_in_every_test_set() -> None:
    draws = PatientDraws(["a", "b", "c", "d"], 50, 0)
    first, second = draws.weights(["a", "b"]), draws.weights(["d", "b", "b"])
    assert np.array_equal(first[:, 1], second[:, 1]) and np.array_equal(first[:, 1], second[:, 2])


@pytest.mark.parametrize("seeds", [2, 5, 20])
def test_without_common_patients_it_is_students_t(seeds: int) -> None:
    values = np.random.default_rng(0).normal(0.02, 0.1, seeds)
    found = over_seeds(table(list(values), np.broadcast_to(values[:, None], (seeds, 10))), 50)
    expected = stats.ttest_1samp(values, 0)
    assert found.p_value() == pytest.approx(expected.pvalue)
    assert found.interval(0.9) == pytest.approx(expected.confidence_interval(0.9))


def test_with_equal_seeds_it_is_the_bootstrap_of_patients() -> None:
    replicates = np.random.default_rng(0).normal(0.3, 0.1, 400)
    found = over_seeds(table([0.3] * 5, np.broadcast_to(replicates, (5, 400))), 31)
    assert found.error == pytest.approx(replicates.std(ddof=1))
    assert found.freedom == pytest.approx(30)


def test_what_seeds_share_and_what_they_do_not_is_counted_once() -> None:
    """A linear statistic with known variances: common patients, own chance and training."""
    rng = np.random.default_rng(0)
    seeds, patients, common, own, training = 6, 400, 1.0, 2.0, 0.1
    errors, draws = [], PatientDraws(map(str, range(patients)), 300, 0)
    weights = draws.weights([str(number) for number in range(patients)])
    for _ in range(200):
        answers = rng.normal(0, common, patients) + rng.normal(0, own, (seeds, patients))
        values = answers @ weights.T / patients + rng.normal(0, training, (seeds, 1))
        errors.append(over_seeds(values, patients).error ** 2)
    expected = common**2 / patients + own**2 / (seeds * patients) + training**2 / seeds
    assert np.mean(errors) == pytest.approx(expected, rel=0.06)


def test_satterthwaite_lies_between_seeds_and_patients() -> None:
    replicates = np.random.default_rng(0).normal(0, 0.1, 1000)
    values = [0.1, -0.2, 0.3, 0.0]
    found = over_seeds(table(values, np.broadcast_to(replicates, (4, 1000))), 101)
    seed, patient = np.var(values, ddof=1) / 4, replicates.var(ddof=1)
    assert found.error**2 == pytest.approx(seed + patient)
    assert found.freedom == pytest.approx((seed + patient) ** 2 / (seed**2 / 3 + patient**2 / 100))


def test_one_seed_knows_patients_only() -> None:
    replicates = np.random.default_rng(0).normal(0.7, 0.05, (1, 500))
    found = over_seeds(table([0.7], replicates), 40)
    low, high = found.interval()
    assert found.error == pytest.approx(replicates.std(ddof=1))
    assert high - low == pytest.approx(2 * stats.t.ppf(0.975, 39) * replicates.std(ddof=1))


def test_arms_that_never_differ_are_no_evidence() -> None:
    found = over_seeds(np.zeros((5, 21)), 10)
    assert found.interval().tolist() == [0, 0] and found.p_value() == 1


def test_nan_replicates_are_left_out_and_a_nan_seed_has_no_interval() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(0.7, 0.1, (3, 101))
    some = values.copy()
    some[1, 50:60] = np.nan
    kept = np.delete(values, np.arange(50, 60), axis=1)
    assert over_seeds(some, 20).error == pytest.approx(over_seeds(kept, 20).error)
    values[0, 0] = np.nan
    found = over_seeds(values, 20)
    assert np.isnan([found.mean, found.error, *found.interval(), found.p_value()]).all()
    assert np.isnan(over_seeds(np.full((3, 9), np.nan), 4).interval()).all()


def test_curves_are_estimated_point_by_point() -> None:
    values = np.random.default_rng(0).normal(0.5, 0.1, (3, 51, 4))
    found = over_seeds(values, 20).interval()
    assert found.shape == (2, 4)
    assert found[:, 2] == pytest.approx(over_seeds(values[:, :, 2], 20).interval())


def test_ends_stay_where_the_metric_can_go() -> None:
    found = Estimate(np.array(0.98), np.array(0.05), np.array(4.0))
    assert found.interval(0.95, (0.0, 1.0)).tolist() == [pytest.approx(0.98 - 2.776 * 0.05, abs=1e-3), 1.0]


def test_the_detectable_difference_is_found_four_times_of_five() -> None:
    rng, error, freedom = np.random.default_rng(0), 0.02, 8
    estimate = Estimate(np.array(0.0), np.array(error), np.array(float(freedom)))
    true = estimate.detectable(0.05)
    means = rng.normal(true, error, 20_000)
    errors = error * np.sqrt(rng.chisquare(freedom, 20_000) / freedom)
    found = Estimate(means, errors, np.full(20_000, float(freedom))).p_value() < 0.05
    assert found.mean() == pytest.approx(0.8, abs=0.03)


def test_grouped_images_widen_the_interval() -> None:
    """Ten patients with ten equal images each know as little as ten images."""
    right = np.random.default_rng(0).random(10) < 0.6
    probabilities = np.where(np.repeat(right, 10)[:, None], [1.0, 0.0], [0.0, 1.0])
    errors = []
    for groups in ([f"p{place // 10}" for place in range(100)], [f"i{place}" for place in range(100)]):
        weights = PatientDraws(groups, 2000, 0).weights(groups)
        drawn = weighted_metrics(probabilities, np.zeros(100, dtype=int), weights)["accuracy"]
        errors.append(over_seeds(drawn[None], len(set(groups))).error)
    assert errors[0] > 2.2 * errors[1]


@pytest.mark.slow
def test_intervals_hold_the_truth_about_as_often_as_they_say(record_property: Callable[[str, object], None]) -> None:
    """Coverage of the 95 % interval of a share over patients, 300 simulated studies of 60 patients, one seed."""
    rng = np.random.default_rng(1)
    held = 0
    groups = [f"p{place // 3}" for place in range(180)]
    for study in range(300):
        right = rng.random((60, 3)) < rng.beta(6, 4, size=60)[:, None]
        probabilities = np.where(right.reshape(-1, 1), [1.0, 0.0], [0.0, 1.0])
        weights = PatientDraws(groups, 400, study).weights(groups)
        drawn = weighted_metrics(probabilities, np.zeros(180, int), weights)["accuracy"]
        low, high = over_seeds(drawn[None], 60).interval()
        held += low <= 0.6 <= high
    record_property("coverage of one share", held / 300)
    assert 0.92 <= held / 300 <= 0.98
