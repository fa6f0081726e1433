"""FID, KID, precision and recall, diversity: on sets where the answer is known."""

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.metrics import FIDMetric

from meddap_monai.classifier.config import ClassifyConfig
from meddap_monai.classifier.scoring import load_classifier
from meddap_monai.classifier.stage import classify
from meddap_monai.core.records import read_records
from meddap_monai.evaluation.embedding import tsne
from meddap_monai.evaluation.generative import diversity, half_by_group, measure
from meddap_monai.evaluation.likeness import (
    density_coverage,
    frechet_distance,
    frechet_limit,
    kernel_distance,
    kernel_interval,
    precision_recall,
)

RNG = np.random.default_rng(0)
HERE, SAME, FAR = (RNG.normal(size=(150, 6)) + shift for shift in (0.0, 0.0, 4.0))


def test_equal_distributions_are_near_and_others_far() -> None:
    assert frechet_distance(SAME, HERE) < 0.5
    assert frechet_distance(FAR, HERE) == pytest.approx(6 * 16, rel=0.15)
    assert kernel_distance(FAR, HERE) > 10 * abs(kernel_distance(SAME, HERE))
    each = [str(number) for number in range(150)]
    low, high = kernel_interval(SAME, HERE, each, each, seed=0)
    assert low < 0 < high


def test_kid_of_patients_with_many_images_is_unbiased_and_its_interval_holds_zero() -> None:
    """Ten near images of each of 12 patients: with their pairs two equal populations are 1.6 apart."""
    units = [str(number // 10) for number in range(120)]
    values, held = [], []
    for study in range(40):
        rng = np.random.default_rng(study)
        one, other = (np.repeat(rng.normal(size=(12, 3)), 10, axis=0) + rng.normal(0, 0.1, (120, 3)) for _ in "ab")
        low, high = kernel_interval(one, other, units, units, study)
        values.append(kernel_distance(one, other, units, units))
        held.append(low <= 0 <= high)
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(40)
    assert np.mean(held) >= 0.9
    assert np.isnan(kernel_distance(one, other, ["a"] * 120, units))


def test_kid_is_unbiased_where_the_biased_one_is_not() -> None:
    """The mean over many small samples of one distribution is zero, not positive."""
    rng = np.random.default_rng(1)
    values = [kernel_distance(rng.normal(size=(12, 4)), rng.normal(size=(12, 4))) for _ in range(400)]
    assert abs(np.mean(values)) < 3 * np.std(values) / 20


def test_precision_and_recall_tell_missing_variety_from_missing_quality() -> None:
    narrow = RNG.normal(size=(150, 6)) * 0.2
    precision, recall = precision_recall(narrow, HERE)
    assert precision > 0.9
    assert recall < 0.3
    wide_precision, wide_recall = precision_recall(HERE, narrow)
    assert wide_precision == pytest.approx(recall)
    assert wide_recall == pytest.approx(precision)
    assert np.isnan(precision_recall(HERE[:3], HERE)[0])


def test_frechet_distance_is_that_of_monai() -> None:
    rng = np.random.default_rng(5)
    one, other = rng.normal(size=(80, 5)), rng.normal(0.4, 1.5, size=(60, 5))
    expected = float(FIDMetric()(torch.from_numpy(one), torch.from_numpy(other)))
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("width", [6, 40], ids=["more images than features", "as many"])
def test_the_limit_of_the_frechet_distance_takes_away_what_small_sets_add(width: int) -> None:
    rng = np.random.default_rng(6)
    each = [str(number) for number in range(60)]
    biased, limits = [], []
    for study in range(20):
        one, other = rng.normal(size=(60, width)), rng.normal(size=(60, width))
        biased.append(frechet_distance(one, other))
        limits.append(frechet_limit(one, other, each, each, study))
    assert abs(np.mean(limits)) < 0.3 * np.mean(biased)
    assert np.isnan(frechet_limit(one[:7], other, each[:7], each, 0))


def test_density_and_coverage_of_equal_narrow_and_far_sets() -> None:
    """Equal sets: density 1 and the expected coverage; one place: dense, no coverage (Naeem et al. 2020)."""
    rng = np.random.default_rng(7)
    found = np.mean([density_coverage(rng.normal(size=(100, 3)), rng.normal(size=(80, 3))) for _ in range(30)], axis=0)
    assert found[0] == pytest.approx(1, abs=0.05)
    assert found[1] == pytest.approx(found[2], abs=0.02)
    density, coverage, expected = density_coverage(np.zeros((150, 6)) + HERE.mean(axis=0), HERE)
    assert density > 1 and coverage < 0.5 * expected
    assert density_coverage(FAR, HERE)[:2] == pytest.approx((0, 0), abs=0.02)
    assert np.isnan(density_coverage(HERE[:5], HERE)).all()


def test_diversity_is_one_for_copies_and_lower_for_noise() -> None:
    image = torch.rand(1, 1, 64, 64)
    assert diversity(image.expand(5, -1, -1, -1), seed=0) == pytest.approx(1, abs=1e-5)
    assert diversity(torch.rand(5, 1, 64, 64), seed=0) < 0.5


def test_a_map_keeps_apart_what_lies_apart_and_is_equal_when_drawn_again() -> None:
    together = np.concatenate([HERE[:40], FAR[:40]])
    places = tsne(together, seed=3)
    assert np.array_equal(places, tsne(together, seed=3))
    far = np.linalg.norm(places[:40].mean(axis=0) - places[40:].mean(axis=0))
    assert far > 2 * max(places[:40].std(), places[40:].std())


def test_halves_share_no_patient() -> None:
    rows = [{"patient": f"p{place // 2}", "id": place} for place in range(14)]
    first, second = half_by_group(rows)
    assert not {row["patient"] for row in first} & {row["patient"] for row in second}
    assert len(first) + len(second) == 14


def test_a_report_row_names_its_extractor(simulated_records: Path, tmp_path: Path) -> None:
    config = ClassifyConfig(
        encoder="resnet10_tiny", mode="scratch", resolution=64, steps=4, validation_every=2, pictures=False
    )
    model = load_classifier(classify(config, tmp_path / "model", records=simulated_records))
    test = read_records(simulated_records, split="test", full=True)
    train = read_records(simulated_records, split="train", full=True)
    found = measure(model, "efficientnet_lite0", test, {"made": train}, seed=0)
    assert found is not None
    assert found["extractor"] == "efficientnet_lite0 (weights 579344248a93), 64 px"
    assert [row["name"] for row in found["rows"]] == ["real images of other patients", "made"]
    assert all(np.isfinite(row["fid"]) for row in found["rows"])
