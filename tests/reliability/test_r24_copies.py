"""R24: copies of training images are found, and honest images of other patients are left alone."""

import importlib
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest

from meddap_monai.phantom.simulation import simulate_image
from meddap_monai.selection.copies import neighbours
from meddap_monai.selection.copies.config import CopyConfig
from meddap_monai.selection.copies.detection import Images, Thresholds, calibrate, find_nearest, flag
from meddap_monai.statistics.shares import wilson
from tests.selection.copying import KINDS, plant, thumbnail

CLASSES = ("benign", "malignant", "normal")
CONFIG = CopyConfig(distances=("correlation", "tiles"))
TRAINING, HELD_OUT, PLANTED = 300, 510, 200


def simulated(count: int, first: int) -> list[np.ndarray]:
    return [simulate_image(CLASSES[number % 3], first + number, size=(96, 96)) for number in range(count)]


def images(pixels: list[np.ndarray], group: str = "") -> Images:
    groups = [f"{group}{number}" if group else "" for number in range(len(pixels))]
    return Images(np.stack([thumbnail(one) for one in pixels]), None, groups)


@pytest.fixture(scope="module")
def training() -> list[np.ndarray]:
    return simulated(TRAINING, 0)


@pytest.fixture(scope="module")
def calibrated(training: list[np.ndarray]) -> tuple[Images, Thresholds]:
    known = images(training, "patient")
    return known, calibrate(known, CONFIG)


@pytest.mark.parametrize("exact", [20_000, 100], ids=["every image", "inverted lists"])
def test_98_percent_of_200_planted_copies_are_found(
    training: list[np.ndarray],
    calibrated: tuple[Images, Thresholds],
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
    exact: int,
) -> None:
    monkeypatch.setattr(neighbours, "EXACT", exact)
    known, thresholds = images(training, "patient"), calibrated[1]
    rng = np.random.default_rng(24)
    sources = rng.choice(TRAINING, PLANTED)
    kinds = [KINDS[number % len(KINDS)] for number in range(PLANTED)]
    copies = [plant(training[source], kind, rng) for source, kind in zip(sources, kinds, strict=True)]
    nearest = find_nearest(images(copies), known, CONFIG)
    caught = flag(nearest.distances, thresholds.values)
    record_property("share of planted copies caught", float(caught.mean()))
    missed = [kind for kind, hit in zip(kinds, caught, strict=True) if not hit]
    assert hasattr(known.pictures.index, "nprobe") == (exact < TRAINING)
    assert caught.mean() >= 0.98, f"missed {missed}"
    assert (nearest.index[caught] == sources[caught]).mean() >= 0.98


def test_held_out_images_of_other_patients_are_rarely_flagged(
    calibrated: tuple[Images, Thresholds], record_property: Callable[[str, object], None]
) -> None:
    known, thresholds = calibrated
    nearest = find_nearest(images(simulated(HELD_OUT, 50_000)), known, CONFIG)
    flagged = int(flag(nearest.distances, thresholds.values).sum())
    record_property("share of other patients' images flagged", flagged / HELD_OUT)
    low, _ = wilson(flagged, HELD_OUT)
    assert HELD_OUT >= 500 and low <= 0.02, f"{flagged} of {HELD_OUT} flagged"


def test_thresholds_flag_the_configured_share_of_real_images(calibrated: tuple[Images, Thresholds]) -> None:
    assert calibrated[1].share <= 0.01 + 1 / TRAINING


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_100_000_against_100_000_within_4_gb_and_no_planted_copy_is_missed() -> None:
    found = importlib.import_module("selection_speed").speed(SimpleNamespace(count=100_000, threads=2))
    assert found["planted copies that come as near as in an exhaustive search"] == "500 of 500"
    assert int(found["peak memory, MB"].split()[0]) < 4096
