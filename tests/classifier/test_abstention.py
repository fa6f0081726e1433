"""What a classifier remembers to tell when it has no answer: right values, plain tensors, damage is refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from meddap_monai.classifier.abstention import Abstention, extractor_of, restore_abstention, unit
from meddap_monai.classifier.calibration import MOST, fitted_rows
from meddap_monai.classifier.material import Material
from meddap_monai.classifier.scoring import load_classifier
from meddap_monai.classifier.stage import classify
from meddap_monai.core.records import read_records
from meddap_monai.errors import StageError
from tests.classifier_material import TINY


def made(**changes: np.ndarray) -> Abstention:
    """Two classes on a plane, three patients with two, one and one image."""
    found = Abstention(
        means=np.array([[1, 0], [0, 1]], np.float32),
        scale=np.array(4, np.float32),
        directions=np.array([[0, 3**0.5]], np.float32),
        distances=np.array([1.0, 2, 3, 4]),
        scores=np.array([0.1, 0.3, 0.25, 0.6]),
        patients=np.array([0, 0, 1, 2]),
    )
    return replace(found, **changes)


def test_distance_is_that_to_the_nearest_class() -> None:
    assert made().distance(np.array([[1.0, 0.5], [0.5, 1.0], [3.0, 0.0]])) == pytest.approx([0.25, 1.0, 16.0])


def test_patients_are_compared_with_means_of_patients() -> None:
    """Images weigh half where a patient has two: 0.22 beside 0.1, 0.3 | 0.25 | 0.6, or beside 0.2 | 0.25 | 0.6."""
    asked = np.array([0.78, 0.05])
    assert made().p_values(asked) == pytest.approx([(1 + 0.5 + 2) / 4, 1 / 4])
    assert made().p_values(asked, whole_patients=True) == pytest.approx([(1 + 2) / 4, 1 / 4])


def test_what_is_stored_is_what_comes_back() -> None:
    again = restore_abstention(made().parts(), 2)
    for name in Abstention.__dataclass_fields__:
        assert np.array_equal(getattr(again, name), getattr(made(), name)), name


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"means": np.zeros((3, 2), np.float32)}, "means"),
        ({"directions": np.full((1, 2), np.nan, np.float32)}, "directions"),
        ({"scores": np.zeros(3)}, "scores"),
        ({"distances": np.array([1.0, np.inf, 1, 1])}, "distances"),
        (dict.fromkeys(("distances", "scores", "patients"), np.zeros(0, np.int64)), "no validation image"),
    ],
)
def test_damage_is_named(change: dict[str, np.ndarray], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        restore_abstention(made(**change).parts(), 2)


@pytest.fixture(scope="module")
def folder(simulated_records: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return classify(replace(TINY, steps=8), tmp_path_factory.mktemp("model") / "m", records=simulated_records)


def test_a_trained_model_knows_its_validation_patients(folder: Path, simulated_records: Path) -> None:
    model, rows = load_classifier(folder), read_records(simulated_records, split="val", full=True)
    found = model.abstention
    assert found is not None and found.known_patients == len({row["patient"] for row in rows}) == 6
    right = model.probabilities(rows, calibrated=True)[np.arange(len(rows)), [row["label"] for row in rows]]
    assert found.scores == pytest.approx(1 - right)
    with torch.inference_mode():
        images = model.pixels(rows).float() / 255
        features = extractor_of(model.network.eval())(images).numpy()
    assert found.distance(unit(features)) == pytest.approx(found.distances, rel=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda parts: parts | {"means": parts["means"][:2]}, "means"),
        (lambda parts: {name: value for name, value in parts.items() if name != "scores"}, "scores"),
    ],
)
def test_a_damaged_model_is_refused_where_it_is_opened(
    folder: Path, tmp_path: Path, change: Callable, message: str
) -> None:
    document = torch.load(folder / "model.pt", weights_only=True)
    torch.save(document | {"abstention": change(document["abstention"])}, tmp_path / "model.pt")
    with pytest.raises(StageError, match=f"no classifier of this package.*{message}.*run classify again"):
        load_classifier(tmp_path)


def row(number: int, label: int, source: str = "real") -> dict:
    return {"id": str(number), "label": label, "source": source}


def test_synthetic_images_count_only_where_a_class_has_no_real_one() -> None:
    real, made_up = [row(0, 0), row(1, 1)], [row(2, 0, "synthetic"), row(3, 1, "synthetic")]
    assert fitted_rows(Material([*real, *made_up], [], ["a", "b"]), 0) == real
    assert fitted_rows(Material([real[0], *made_up], [], ["a", "b"]), 0) == [real[0], *made_up]


def test_of_many_images_some_are_drawn_and_of_each_class() -> None:
    rows = [row(number, int(number == 4_000)) for number in range(5_000)]
    drawn = fitted_rows(Material(rows, [], ["a", "b"]), 0)
    assert MOST - 2 <= len(drawn) <= MOST
    assert {one["label"] for one in drawn} == {0, 1}
    assert drawn == fitted_rows(Material(rows, [], ["a", "b"]), 0)
