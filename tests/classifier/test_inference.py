"""From a folder of files to a CSV: DICOM and PNG agree, bad files are listed, an ensemble averages."""

import csv
import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from meddap_monai import store
from meddap_monai.classifier.inference import infer
from meddap_monai.classifier.inference_config import InferConfig
from meddap_monai.classifier.stage import classify
from meddap_monai.errors import ConfigurationError
from meddap_monai.phantom.simulation import write_phantom_study
from tests.classifier_material import TINY


@pytest.fixture(scope="module")
def models(records: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    config = replace(TINY, steps=4, batch=4, validation_every=2)
    other = replace(config, encoder="vit_tiny", resolution=16, seed=1)
    return [classify(one, folder / name, records=records) for name, one in (("a", config), ("b", other))]


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_dicom_and_image_folders_become_a_table(models: list[Path], tmp_path: Path) -> None:
    source = tmp_path / "files"
    write_phantom_study(source / "study", patients_per_class=1, images_per_patient=1, seed=3, clips=1)
    dicoms = [path for path in source.rglob("*") if path.is_file()]
    Image.fromarray(np.full((40, 40), 90, dtype=np.uint8)).save(source / "plain.png")
    (source / "notes.txt").write_text("no image")
    (source / ".hidden.png").write_bytes(b"left out")
    output = infer(InferConfig(), models, source, tmp_path / "table.csv")
    rows = table(output)
    assert len(rows) == len(dicoms) + 1
    assert sorted({row["frames"] for row in rows}) == ["1", "8"]
    for row in rows:
        values = [float(row[f"p_{name}"]) for name in ("benign", "malignant", "normal")]
        assert sum(values) == pytest.approx(1, abs=1e-4)
        assert float(row["confidence"]) == pytest.approx(max(values), abs=1e-6)
        assert float(row["spread"]) > 0
    rejected = {row["file"]: row["reason"] for row in table(tmp_path / "table.csv.rejected.csv")}
    assert list(rejected) == ["notes.txt"]
    assert "CANARY" not in rejected["notes.txt"]
    assert stat.S_IMODE(output.stat().st_mode) == 0o600


HOSTILE = [
    b"=cmd|' C calc'!A0.png", b"@SUM(1+1).png", b"+1+2.png", b"-2+3.png", b"\t=1.png", b"\r=1.png", b"'=1.png",
    b"''-1.png", b"\xff\xfe.png", b"M\xfcller.png", b"a,b.png", b'a"b.png', b"a\nb.png", "Zyste_ä.png".encode(),
    "＝1.png".encode(), b"-5.png", b" =1.png",
]  # fmt: skip


def test_no_file_name_loses_the_run_or_becomes_a_formula(models: list[Path], tmp_path: Path) -> None:
    source = tmp_path / "files"
    source.mkdir()
    for name in HOSTILE:
        Image.fromarray(np.full((40, 40), 90, dtype=np.uint8)).save(tmp_path / "one.png")
        shutil.copy(os.fsencode(tmp_path / "one.png"), os.fsencode(source) + b"/" + name)
        Path(os.fsdecode(os.fsencode(source) + b"/" + name + b".txt")).write_text("no image")
    output = infer(InferConfig(), models[:1], source, tmp_path / "table.csv")
    shown = {os.fsdecode(name).encode("utf-8", "backslashreplace").decode() for name in HOSTILE}
    assert {cells[0] for _, cells in store.read_csv(output)} == shown | {"file"}
    rejected = {cells[0]: cells[1] for _, cells in store.read_csv(tmp_path / "table.csv.rejected.csv")}
    assert set(rejected) == {f"{name}.txt" for name in shown} | {"file"}
    strange = "\\udcff\\udcfe.png.txt"
    assert rejected[strange].startswith(f"{strange}: is neither DICOM nor a known image format")
    for path in (output, tmp_path / "table.csv.rejected.csv"):
        with path.open(newline="", encoding="utf-8") as stream:
            assert not [cell for row in csv.reader(stream) for cell in row if cell[:1] in tuple("=+-@\t\r＝")]


def test_a_folder_that_cannot_be_listed_is_a_reject(models: list[Path], tmp_path: Path) -> None:
    """Its path is longer than the system allows; root may list everything else."""
    source = tmp_path / "files"
    source.mkdir()
    Image.fromarray(np.full((40, 40), 90, dtype=np.uint8)).save(source / "one.png")
    here, place = os.getcwd(), os.open(source, os.O_RDONLY)
    try:
        os.fchdir(place)
        for _ in range(20):
            os.mkdir("x" * 250)
            os.chdir("x" * 250)
    finally:
        os.chdir(here)
        os.close(place)
    output = infer(InferConfig(), models[:1], source, tmp_path / "table.csv")
    assert [row["file"] for row in table(output)] == ["one.png"]
    (row,) = table(tmp_path / "table.csv.rejected.csv")
    assert row["file"].startswith("x" * 250)


def test_masks_and_links_out_are_rejects_unless_asked_for(models: list[Path], tmp_path: Path) -> None:
    """As in the index; a link that stays inside is followed."""
    source, elsewhere = tmp_path / "files", tmp_path / "elsewhere"
    for path in (source / "a" / "1.png", source / "a" / "1_mask.png", source / "lone_mask.png", elsewhere / "2.png"):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((40, 40), 90, dtype=np.uint8)).save(path)
    (source / "out").symlink_to(elsewhere)
    (source / "inside").symlink_to(source / "a")
    (source / "nothing.png").symlink_to(tmp_path / "nothing.png")
    output = infer(InferConfig(), models[:1], source, tmp_path / "table.csv")
    assert [row["file"] for row in table(output)] == ["a/1.png", "inside/1.png", "lone_mask.png"]
    rejected = {row["file"]: row["reason"] for row in table(tmp_path / "table.csv.rejected.csv")}
    assert set(rejected) == {"a/1_mask.png", "inside/1_mask.png", "nothing.png", "out"}
    assert "is a mask" in rejected["a/1_mask.png"] and "set follow_links" in rejected["out"]
    infer(InferConfig(masks="keep", follow_links=True), models[:1], source, output, overwrite=True)
    assert {row["file"] for row in table(output)} > {"a/1_mask.png", "out/2.png"}
    assert [row["file"] for row in table(tmp_path / "table.csv.rejected.csv")] == ["nothing.png"]


def test_an_ensemble_is_the_mean_of_its_members(models: list[Path], tmp_path: Path) -> None:
    Image.fromarray(np.arange(1600, dtype=np.uint8).reshape(40, 40)).save(tmp_path / "one.png")
    both = table(infer(InferConfig(), models, tmp_path / "one.png", tmp_path / "both.csv"))[0]
    each = [
        table(infer(InferConfig(), [model], tmp_path / "one.png", tmp_path / f"{model.name}.csv"))[0]
        for model in models
    ]
    assert [row["spread"] for row in each] == ["0.000000"] * 2
    for name in ("p_benign", "p_malignant", "p_normal"):
        assert float(both[name]) == pytest.approx(np.mean([float(row[name]) for row in each]), abs=2e-6)


def test_calibration_changes_confidence_and_not_the_class(models: list[Path], tmp_path: Path) -> None:
    Image.fromarray(np.arange(1600, dtype=np.uint8).reshape(40, 40)).save(tmp_path / "one.png")
    raw, calibrated = (
        table(infer(config, models[:1], tmp_path / "one.png", tmp_path / f"{config.calibrated}.csv"))[0]
        for config in (InferConfig(calibrated=False, answer="always"), InferConfig(answer="always"))
    )
    assert raw["class"] == calibrated["class"]
    assert raw["confidence"] != calibrated["confidence"]


@pytest.mark.parametrize(
    ("choose", "message"),
    [
        (lambda models, folder: ([], folder), "got no model"),
        (lambda models, folder: (models, folder / "nowhere"), "does not exist"),
        (lambda models, folder: (models, folder), "holds no file, expected DICOM files or images"),
    ],
)
def test_wrong_arguments_are_refused(models: list[Path], tmp_path: Path, choose: Callable, message: str) -> None:
    chosen, source = choose(models, tmp_path)
    with pytest.raises(ConfigurationError, match=message):
        infer(InferConfig(), chosen, source, tmp_path / "table.csv")


def test_models_of_other_classes_are_refused(models: list[Path], tmp_path: Path) -> None:
    import torch

    shutil.copytree(models[0], tmp_path / "other")
    document = torch.load(tmp_path / "other" / "model.pt", weights_only=True)
    torch.save(document | {"classes": ["a", "b", "c"]}, tmp_path / "other" / "model.pt")
    with pytest.raises(ConfigurationError, match="knows a, b, c, the first model benign, malignant, normal"):
        infer(InferConfig(), [models[0], tmp_path / "other"], tmp_path, tmp_path / "table.csv")
