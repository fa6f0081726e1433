"""The copy check: exact on small sets, calibrated by patients, blind to what it is told to skip."""

import numpy as np
import pytest

from meddap_monai.errors import ConfigurationError
from meddap_monai.phantom.simulation import simulate_image
from meddap_monai.selection.copies import neighbours
from meddap_monai.selection.copies.alignment import align, windows
from meddap_monai.selection.copies.config import CopyConfig
from meddap_monai.selection.copies.detection import (
    Images,
    Nearest,
    Thresholds,
    _joint_thresholds,
    _nearest_features,
    calibrate,
    find_nearest,
    flag,
)
from meddap_monai.selection.copies.neighbours import Bank, Candidates, of_one_group, resampling
from meddap_monai.selection.filtering.decisions import check_copies
from meddap_monai.selection.filtering.outcome import closest_pairs
from tests.selection.copying import KINDS, plant, thumbnail

TWO = CopyConfig(distances=("correlation", "tiles"))


@pytest.fixture(scope="module")
def pixels() -> list[np.ndarray]:
    return [simulate_image(("benign", "malignant", "normal")[n % 3], n, size=(96, 96)) for n in range(60)]


@pytest.fixture(scope="module")
def known(pixels: list[np.ndarray]) -> Images:
    return Images(np.stack([thumbnail(one) for one in pixels]), None, [f"p{n // 2}" for n in range(60)])


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_copy_finds_its_source(pixels: list[np.ndarray], known: Images, kind: str) -> None:
    rng = np.random.default_rng(3)
    copies = np.stack([thumbnail(plant(one, kind, rng)) for one in pixels])
    nearest = find_nearest(Images(copies, None, [""] * 60), known, TWO)
    assert (nearest.index == np.arange(60)).mean() >= 0.95
    assert np.median(nearest.distances["correlation"]) < 0.06


def test_without_views_a_flip_is_no_copy(pixels: list[np.ndarray], known: Images) -> None:
    flipped = Images(np.stack([thumbnail(one[:, ::-1]) for one in pixels]), None, [""] * 60)
    plain = CopyConfig(distances=("correlation",), views=False)
    assert find_nearest(flipped, known, plain).distances["correlation"].mean() > 0.1
    assert find_nearest(flipped, known, TWO).distances["correlation"].max() < 1e-3


def test_images_of_one_patient_are_not_compared(known: Images) -> None:
    nearest = find_nearest(known, known, TWO)
    assert all(known.groups[int(found)] != known.groups[row] for row, found in enumerate(nearest.index))


def test_the_same_picture_under_two_patients_is_listed_and_does_not_lower_the_threshold(known: Images) -> None:
    twice = Images(
        np.concatenate([known.thumbnails, known.thumbnails[:3, :, ::-1]]), None, [*known.groups, "x", "y", "z"]
    )
    clean, mixed = calibrate(known, TWO), calibrate(twice, TWO)
    assert {frozenset(pair) for pair in mixed.same_pictures} == {frozenset((n, 60 + n)) for n in range(3)}
    assert mixed.values["correlation"] > 0.5 * clean.values["correlation"]


def test_several_distances_together_flag_no_more_than_one() -> None:
    rng = np.random.default_rng(0)
    distances = {name: rng.random(1000).astype(np.float32) for name in ("correlation", "tiles", "features")}
    values = _joint_thresholds(distances, 0.01)
    assert 0.007 <= flag(distances, values).mean() <= 0.01


def test_features_are_measured_and_decide_beside_the_pixels_or_alone(known: Images) -> None:
    values = np.random.default_rng(0).standard_normal((60, 8)).astype(np.float32)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    with_features = Images(known.thumbnails, values, known.groups)
    assert set(calibrate(with_features, CopyConfig()).values) == {"correlation", "tiles", "features"}
    asked = CopyConfig(distances=("features",))
    thresholds = calibrate(with_features, asked)
    assert set(thresholds.values) == {"features"} and set(thresholds.real_distances) > {"features"}
    same = find_nearest(Images(known.thumbnails[::-1].copy(), values, [""] * 60), with_features, asked)
    assert flag(same.distances, thresholds.values).all()


def test_the_closest_pairs_come_nearest_first_by_the_distances_that_decide() -> None:
    """A distance without a threshold (features, here the other way round) has no say."""
    names = ("correlation", "tiles", "features")
    distances = dict(zip(names, np.array([[0.4, 0.1, 0.3], [2.0, 2.0, 0.3], [0.0, 0.9, 0.5]], np.float32), strict=True))
    thresholds = Thresholds({"correlation": 0.05, "tiles": 0.1}, {}, 0.0, [])
    assert closest_pairs(check_copies(Nearest(np.zeros(3, int), distances), thresholds, [])) == [1, 2, 0]


def unit(count: int, seed: int, width: int = 16) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


@pytest.mark.parametrize("block", [1024, 7])
def test_the_search_is_exact_over_views_ways_and_groups(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    """Half of the queries share their group with 20 images each, so that the first answers are all left out."""
    monkeypatch.setattr(neighbours, "QUERY_BLOCK", block)
    views, ways = [unit(60, 1), unit(60, 2)], [unit(30, 3), unit(30, 4)]
    asked, known = [f"g{n % 3}" if n % 2 else "" for n in range(30)], [f"g{n // 20}" for n in range(60)]
    every = np.stack([[way @ view.T for view in views] for way in ways]).max(axis=1)
    every[:, np.array([[one == two for two in known] for one in asked])] = -2
    value, image, way = Bank(views).search(ways, 5, of_one_group(asked, known))
    wanted = np.argsort(-every.max(axis=0), axis=1)[:, :5]
    assert (image == wanted).all()
    assert (way == np.take_along_axis(every.argmax(axis=0), wanted, axis=1)).all()
    assert value == pytest.approx(np.take_along_axis(every.max(axis=0), wanted, axis=1), abs=1e-6)


def test_where_all_is_left_out_nothing_is_found() -> None:
    value, image, _ = Bank([unit(4, 1)]).search([unit(2, 2)], 3, of_one_group(["a", ""], ["a"] * 4))
    assert image[0].tolist() == [-1] * 3 and (value[0] == -2).all() and sorted(image[1]) != [-1] * 3


def test_inverted_lists_find_what_the_exact_search_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of edited copies all, of the nearest of unrelated images, which have no neighbourhood, most."""
    known = unit(3000, 5)
    copies = known + 0.02 * unit(3000, 6)
    others = unit(500, 7)
    exact = Bank([known]).search([others], 1, of_one_group([""] * 500, [""] * 3000))[1][:, 0]
    monkeypatch.setattr(neighbours, "EXACT", 1000)
    bank = Bank([known])
    assert type(bank.index).__name__ == "IndexIVFFlat"
    nothing = of_one_group([""] * 3000, [""] * 3000)
    assert (bank.search([copies], 1, nothing)[1][:, 0] == np.arange(3000)).all()
    assert (bank.search([others], 1, nothing)[1][:, 0] == exact).mean() > 0.5
    assert (bank.search([copies], 1, nothing)[1] == Bank([known]).search([copies], 1, nothing)[1]).all()


def test_faiss_takes_as_many_threads_as_torch() -> None:
    import faiss
    import torch

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        Bank([unit(4, 1)]).search([unit(2, 2)], 1, of_one_group(["", ""], [""] * 4))
        assert faiss.omp_get_max_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_fewer_training_images_than_candidates(known: Images) -> None:
    few = Images(known.thumbnails[:2], None, ["a", "b"])
    nearest = find_nearest(Images(known.thumbnails[:5], None, [""] * 5), few, TWO)
    assert set(nearest.index) <= {0, 1} and np.isfinite(nearest.distances["tiles"]).all()


def test_features_by_hand() -> None:
    blank = np.zeros((3, 64, 64), np.float32)
    training = Images(blank, np.array([[1, 0, 0], [0.6, 0.8, 0], [0, 0, 1]], np.float32), ["a", "b", "c"])
    features = np.eye(3, dtype=np.float32)[:2]
    none = np.array([], int), np.array([], int)
    for groups, skip, wanted in [
        (["", ""], none, [1.0, 0.8]),
        (["a", ""], none, [0.6, 0.8]),
        (["", ""], (np.array([1]), np.array([1])), [1.0, 0.0]),
    ]:
        assert _nearest_features(Images(blank[:2], features, groups), training, skip) == pytest.approx(wanted)


def test_correlation_by_hand() -> None:
    rng = np.random.default_rng(1)
    one, two = rng.random((1, 64, 64)).astype(np.float32), rng.random((1, 64, 64)).astype(np.float32)
    found = align(one, two, Candidates(np.zeros((1, 1), int), np.zeros((1, 1), bool)), views=False)
    assert found.correlation[0, 0] == pytest.approx(np.corrcoef(one.ravel(), two.ravel())[0, 1], abs=1e-5)
    standard = [(image - image.mean()) / image.std() for image in (one[0], two[0])]
    squares = ((standard[0] - standard[1]) ** 2).reshape(4, 16, 4, 16).mean(axis=(1, 3))
    assert found.tiles[0, 0] == pytest.approx(np.sqrt(squares.max()), abs=1e-4)


def test_resampling_enlarges_a_part() -> None:
    line = np.linspace(0, 1, 64, dtype=np.float32)
    assert resampling(64, 1.0, 0.5) @ line == pytest.approx(line)
    cut = resampling(64, 0.5, 1.0) @ line
    assert cut[0] == pytest.approx(0.5, abs=0.02) and cut[-1] == pytest.approx(1.0, abs=0.02)
    assert windows(True)[0] == (1.0, 0.0, 0.0) and len(windows(False)) == 1


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"distances": ("corelation",)}, "did you mean 'correlation'"),
        ({"distances": ()}, "select#copies#distances: got none, expected at least one"),
        ({"action": "delete"}, "select#copies#action"),
        ({"percentile": 0.0}, "expected a number from 0.01 to 50"),
    ],
)
def test_configuration(changes: dict, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        CopyConfig(**changes)
