"""The classifier bundle trains, evaluates and infers; what all bundles promise stands in tests/test_bundles.py."""

import csv
import re
from pathlib import Path
from typing import Any

import pydicom
import pytest
import torch
from monai.bundle import ConfigWorkflow
from PIL import Image

from meddap_monai.bundle.classifier import split_records
from meddap_monai.core import resources
from meddap_monai.errors import NonFiniteLoss
from meddap_monai.phantom.simulation import write_phantom_study

BUNDLE = resources.find("bundles/ultrasound_classifier")
CONFIGS = BUNDLE / "configs"
SMALL: dict[str, Any] = {
    "network_def#name": "resnet10_tiny",
    "network_def#pretrained": False,
    "resolution": 32,
    "batch": 4,
    "epochs": 2,
}


def workflow(kind: str, files: list[str], **values: Any) -> ConfigWorkflow:
    return ConfigWorkflow(
        config_file=[str(CONFIGS / name) for name in files],
        meta_file=str(CONFIGS / "metadata.json"),
        logging_file=str(CONFIGS / "logging.conf"),
        workflow_type=kind,
        **values,
    )


def run(flow: ConfigWorkflow) -> None:
    flow.initialize()
    assert flow.check_properties() == []
    flow.run()
    flow.finalize()


@pytest.fixture(scope="module")
def trained(records: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    places = {"dataset_dir": str(records.parent), "output_dir": str(folder / "out"), "ckpt_dir": str(folder / "models")}
    run(workflow("train", ["train.yaml"], **places, **SMALL))
    run(workflow("train", ["train.yaml", "evaluate.yaml"], **places, **SMALL))
    return folder


def test_train_and_evaluate_write_a_model_and_a_table(trained: Path) -> None:
    state = torch.load(trained / "models" / "model.pt", weights_only=True)
    assert all(name.startswith("network.") for name in state)
    with (trained / "out" / "predictions.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 6
    assert all(
        sum(float(row[f"p_{n}"]) for n in ("benign", "malignant", "normal")) == pytest.approx(1, abs=1e-4)
        for row in rows
    )


def test_inference_reads_a_folder_and_says_what_it_leaves_out(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    for number in range(3):
        Image.new("L", (50, 40), 60 * number).save(tmp_path / "files" / f"{number}.png")
    (tmp_path / "files" / "notes.txt").write_text("no image")
    write_phantom_study(tmp_path / "study", patients_per_class=1, images_per_patient=1, seed=3)
    dataset = pydicom.dcmread(next((tmp_path / "study").rglob("IM*")))
    for name, modality, synthetic in (("a", "US", "NO"), ("b", "MR", "NO"), ("c", "US", "YES")):
        dataset.Modality, dataset.SyntheticData = modality, synthetic
        dataset.save_as(tmp_path / "files" / f"{name}.dcm")
    values = {key: value for key, value in SMALL.items() if key not in ("batch", "epochs")}
    places = {"dataset_dir": str(tmp_path / "files"), "output_dir": str(tmp_path), "ckpt_dir": str(trained / "models")}
    with pytest.warns(UserWarning, match="3 of 7 files are left out, such as .*not US; set modality"):
        run(workflow("infer", ["inference.yaml"], **places, **values))
    _, *lines = (tmp_path / "predictions.csv").read_text().splitlines()
    assert [Path(line.split(",")[0]).name for line in lines] == ["0.png", "1.png", "2.png", "a.dcm"]


def test_processes_of_torchrun_get_equal_shares(records: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shares = []
    monkeypatch.setenv("WORLD_SIZE", "5")
    for rank in range(5):
        monkeypatch.setenv("RANK", str(rank))
        shares.append([row["id"] for row in split_records(records.parent, "train", shared=True)])
    assert {len(share) for share in shares} == {3}
    assert len({name for share in shares for name in share}) == 12


def test_a_nan_stops_the_bundle_and_names_step_and_images(records: Path, tmp_path: Path) -> None:
    """R18; MONAI wraps what an expression raises."""
    places = {"dataset_dir": str(records.parent), "output_dir": str(tmp_path), "ckpt_dir": str(tmp_path / "models")}
    flow = workflow("train", ["train.yaml"], **places, **(SMALL | {"learning_rate": 1e30}))
    flow.initialize()
    with pytest.raises(RuntimeError) as caught:
        flow.run()
    assert isinstance(caught.value.__cause__, NonFiniteLoss)
    assert re.search(r"the loss is (nan|inf) at step \d+, .*images train-", str(caught.value.__cause__))
