"""A model that cannot answer is refused by name when it is opened; it never predicts."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meddap_monai.classifier.config import ClassifyConfig
from meddap_monai.classifier.scoring import load_classifier, softmax, write_model
from meddap_monai.classifier.stage import classify
from meddap_monai.core.records import read_records, write_records
from meddap_monai.encoders.registry import build_network
from meddap_monai.errors import RecordsError, StageError
from meddap_monai.store import write_json

CONFIG = ClassifyConfig(encoder="resnet10_tiny", mode="scratch", resolution=16, steps=1)


def written(folder: Path, weight: float = 0.0, classes: Any = ("a", "b"), temperature: Any = 1.0) -> Path:
    state = build_network(CONFIG.encoder, 2, CONFIG.channels, CONFIG.resolution).state_dict()
    first = next(name for name, tensor in state.items() if tensor.ndim == 4)
    state[first].view(-1)[0] = weight
    write_model(folder, CONFIG, classes, temperature, network=state)
    return folder


def test_a_sound_model_opens(tmp_path: Path) -> None:
    model = load_classifier(written(tmp_path, classes=["a", "b"], temperature=2.0))
    assert (model.classes, model.temperature) == (["a", "b"], 2.0)


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, weight: float) -> None:
    with pytest.raises(StageError, match=r"model\.pt: .*weight holds NaN or infinite values"):
        load_classifier(written(tmp_path, weight, ["a", "b"]))


@pytest.mark.parametrize("temperature", [-1.0, 0.0, float("nan"), float("inf"), "hot", None])
def test_a_temperature_is_above_zero(tmp_path: Path, temperature: Any) -> None:
    with pytest.raises(StageError, match=r"model\.pt: no classifier of this package"):
        load_classifier(written(tmp_path, classes=["a", "b"], temperature=temperature))


@pytest.mark.parametrize("classes", ["ab", [1, 2], ["a", "a"], [], {"a": 0}])
def test_classes_are_names_each_once(tmp_path: Path, classes: Any) -> None:
    with pytest.raises(StageError, match=r"classes is .*, expected"):
        load_classifier(written(tmp_path, classes=classes))


def test_outputs_that_are_not_finite_are_no_answer() -> None:
    with pytest.raises(StageError, match="NaN or infinite"):
        softmax(np.array([[0.0, np.nan]]))
    assert np.allclose(softmax(np.array([[0.0, 0.0], [1000.0, 0.0]])), [[0.5, 0.5], [1.0, 0.0]])


def test_one_class_is_nothing_to_tell_apart(tmp_path: Path, simulated_records: Path) -> None:
    rows = [row for row in read_records(simulated_records, full=True) if row["class_name"] == "benign"]
    write_records(tmp_path / "records.jsonl", [row | {"label": 0} for row in rows])
    write_json(tmp_path / "stage.json", {"classes": ["benign"]})
    with pytest.raises(RecordsError, match=r"holds one class \(benign\), expected at least two"):
        classify(CONFIG, tmp_path / "out", records=tmp_path / "records.jsonl")
