"""The first hour with `infer`: what is no ultrasound, is marked as synthetic or unlike the rest gets no answer."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from meddap_monai.cli.main import main
from meddap_monai.phantom.simulation import write_phantom_study


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of 36 simulated patients and a folder of new files, some of which are not what was trained on."""
    root = tmp_path_factory.mktemp("clinic")
    write_phantom_study(root / "known", patients_per_class=12, images_per_patient=1, seed=1)
    words = ["index", f"source={root / 'known'}", "draw={train: 6, val: 5}", "workers=0"]
    assert main([*words, "--output", str(root / "index")]) == 0
    words = ["classify", "--records", str(root / "index/records.jsonl"), "--output", str(root / "model")]
    assert main([*words, "mode=probe", "head=ridge", "resolution=64", "pictures=false"]) == 0
    new = root / "new"
    write_phantom_study(new, patients_per_class=2, images_per_patient=2, seed=5, clips=1)
    dataset = pydicom.dcmread(next(path for path in sorted(new.rglob("*")) if path.is_file()))
    dataset.Modality = "MR"
    dataset.save_as(new / "brain.dcm")
    dataset.Modality, dataset.SyntheticData = "US", "YES"
    dataset.save_as(new / "made_up.dcm")
    mark = PngInfo()
    mark.add_text("SyntheticData", "YES")
    noise = np.random.default_rng(0).integers(0, 255, (96, 96), dtype=np.uint8)
    Image.fromarray(noise).save(new / "made_up.png", pnginfo=mark)
    Image.fromarray(noise).save(new / "noise.png")
    (new / "letter.txt").write_text("Dear colleague")
    return root


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture
def say(clinic: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):  # noqa: ANN201
    monkeypatch.chdir(clinic)

    def run(words: str, code: int = 0) -> str:
        capsys.readouterr()
        assert main(["infer", "--models", "model", "--source", "new", *words.split()]) == code
        out, error = capsys.readouterr()
        return error if code else out

    return run


def test_what_is_no_ultrasound_gets_no_answer(clinic: Path, say) -> None:  # noqa: ANN001
    said = say("--output answers.csv").splitlines()
    rows = {row["file"]: row for row in rows_of(clinic / "answers.csv")}
    answered = [row for row in rows.values() if row["class"] != "no answer"]
    flagged = [row for row in rows.values() if row["flagged"] == "yes"]
    assert said == [
        "read 18 files: 14 accepted, 4 rejected",
        "  1 x Modality (0008,0060) is not US; set modality to any to read it",
        "  1 x is marked as synthetic (0008,001C); set synthetic to keep to take it as an image",
        "  1 x is marked as synthetic; set synthetic to keep to take it as an image",
        "  1 x is neither DICOM nor a known image format",
        "  each of them: answers.csv.rejected.csv",
        f"14 files: {len(answered)} answered, {14 - len(answered)} no answer; {len(flagged)} flagged as out of "
        "distribution",
        "answers.csv",
    ]
    assert answered, "a weak classifier is seldom sure, but it is"
    assert all(row["set"] == row["class"] and row["flagged"] == "no" for row in answered)
    right = [Path(row["file"]).parts[0] for row in rows.values() if row["file"] != "noise.png"]
    sets = [row["set"].split("|") for row in rows.values() if row["file"] != "noise.png"]
    assert sum(name in chosen for name, chosen in zip(right, sets, strict=True)) >= 11, "of 13 at 90 %"
    assert rows["noise.png"]["class"] == "no answer" and rows["noise.png"]["flagged"] == "yes"
    assert float(rows["noise.png"]["out_of_distribution"]) > 1 >= float(answered[0]["out_of_distribution"])


def test_a_table_that_is_there_is_kept(clinic: Path, say) -> None:  # noqa: ANN001
    (clinic / "mine.csv").write_text("mine")
    said = say("--output mine.csv", 2)
    assert "ForeignOutput: infer: mine.csv exists already; give another output, or --overwrite to replace it" in said
    assert (clinic / "mine.csv").read_text() == "mine"
    (clinic / "other.csv.rejected.csv").write_text("mine")
    assert "infer: other.csv.rejected.csv exists already" in say("--output other.csv", 2)
    assert not (clinic / "other.csv").exists()
    assert say("--output mine.csv --overwrite frames=first").splitlines()[-1] == "mine.csv"
    assert len(rows_of(clinic / "mine.csv")) == 14


def test_what_is_asked_for_is_taken(clinic: Path, say) -> None:  # noqa: ANN001
    said = say("--output all.csv modality=any synthetic=keep answer=always frames=first")
    assert said.startswith("read 18 files: 17 accepted, 1 rejected\n")
    assert "17 files: 17 answered, 0 no answer; " in said
    rows = {row["file"]: row for row in rows_of(clinic / "all.csv")}
    same = ("brain.dcm", "made_up.dcm")
    assert rows[same[0]]["confidence"] == rows[same[1]]["confidence"], "the pixels are those of one image"
    assert rows["noise.png"]["flagged"] == "yes" and rows["noise.png"]["class"] in ("benign", "malignant", "normal")


def test_rows_of_frames_files_and_patients_agree(clinic: Path, say) -> None:  # noqa: ANN001
    """A file is the mean of its frames, a patient that of the files that are not flagged."""
    tables = {}
    for rows in ("frame", "file", "patient"):
        said = say(f"--output {rows}.csv rows={rows}")
        tables[rows] = rows_of(clinic / f"{rows}.csv")
        assert f"\n{len(tables[rows])} {rows}s: " in said and said.startswith("read 18 files: 14 accepted")
    clip = next(row for row in tables["file"] if row["frames"] == "8")
    frames = [row for row in tables["frame"] if row["file"] == clip["file"]]
    assert [row["frame"] for row in frames] == [str(number) for number in range(8)]
    assert len(tables["frame"]) == 13 + 8
    for name in ("p_benign", "p_malignant", "p_normal", "out_of_distribution"):
        assert float(clip[name]) == pytest.approx(np.mean([float(row[name]) for row in frames]), abs=1e-4)
    folders: dict[str, list[dict[str, str]]] = {}
    for row in tables["file"]:
        folders.setdefault(str(Path(row["file"]).parent) if "/" in row["file"] else row["file"], []).append(row)
    assert len(tables["patient"]) == len(folders) == 7
    expected = []
    for files in folders.values():
        kept = [row for row in files if row["flagged"] == "no"] or files
        expected.append((str(len(files)), np.mean([float(row["p_benign"]) for row in kept])))
    found = [(row["files"], float(row["p_benign"])) for row in tables["patient"]]
    for one, other in zip(sorted(found), sorted(expected), strict=True):
        assert one[0] == other[0] and one[1] == pytest.approx(other[1], abs=1e-5)
    text = (clinic / "patient.csv").read_text()
    assert "CANARY" not in text
    assert sum(row["patient"].startswith("file-") for row in tables["patient"]) == 1


def test_few_validation_patients_and_old_models_say_so(clinic: Path, say) -> None:  # noqa: ANN001
    import torch

    with pytest.warns(UserWarning, match="calibrated on 15 validation patient.*a coverage of 0.95 needs at least 19"):
        said = say("--output few.csv coverage=0.95 frames=first")
    assert "14 files: 0 answered, 14 no answer; " in said
    assert {row["set"] for row in rows_of(clinic / "few.csv")} == {"benign|malignant|normal"}
    shutil.copytree(clinic / "model", clinic / "old", dirs_exist_ok=True)
    document = torch.load(clinic / "old/model.pt", weights_only=True)
    torch.save({name: part for name, part in document.items() if name != "abstention"}, clinic / "old/model.pt")
    assert (
        "StageError: old: the classifier was made by an earlier version, which did not measure when it has no answer; "
        "run classify again"
    ) in say("--output old.csv --models old", 2)
