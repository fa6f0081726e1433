"""The first hour at the command line: help, configurations, dry runs, misspelled words, counts."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from meddap_monai.classifier.config import ClassifyConfig
from meddap_monai.cli.main import main
from meddap_monai.core.ids import read_yaml


# ---------------------------------------------------------------------------------------------------- the command line
@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as it comes: four patients per class, a copy, two files that are no images, a DICOM without pixels."""
    root, draw = tmp_path_factory.mktemp("hospital"), np.random.default_rng(0)
    for class_name in ("benign", "malignant"):
        for patient in range(4):
            folder = root / "source" / class_name / f"p{patient}"
            folder.mkdir(parents=True)
            Image.fromarray(draw.integers(0, 255, (40, 40), dtype=np.uint8)).save(folder / "a.png")
    first = root / "source" / "benign"
    (first / "p0" / "b.png").write_bytes(b"nonsense")
    (first / "p1" / "c.png").write_bytes(b"something else")
    (first / "p2" / "t.dcm").write_bytes(b"\0" * 128 + b"DICM")
    shutil.copy(first / "p0" / "a.png", first / "p0" / "z.png")
    return root


def test_the_command_line_of_the_first_hour(
    hospital: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a question about keys to answers for a folder: each command, and what it says."""
    monkeypatch.chdir(hospital)

    def say(words: str, code: int = 0) -> str:
        assert main(words.split()) == code
        out, error = capsys.readouterr()
        return error if code else out

    Path("mine.yaml").write_text(say("config classify"))
    assert read_yaml("mine.yaml")["classify#steps"] == ClassifyConfig().steps
    assert "index#source: wherever is not a folder" in say("index source=wherever --dry-run", 2)
    said = say("index source=source --output runs/index --dry-run")
    assert "  index     runs/index: 12 files; no rate measured on this machine yet\n" in said
    said = say("index source=source --output runs/index")
    assert re.sub(r"(duplicate of) [0-9a-f]{20}", r"\1 ...", said).splitlines() == [
        "read 12 items: 8 accepted, 4 rejected; 8 taken whole, so not de-identified",
        "  2 x is not an image (DICOM, PNG, JPEG, TIFF, BMP or NIfTI)",
        "  1 x exact duplicate of ...",
        "  1 x has no PixelData (7FE0,0010); expected an image",
        "  each of them: runs/index/rejects.csv",
        "runs/index/records.jsonl",
    ]
    said = say("index source=source --output runs/again --dry-run")
    assert "12 files; about " in said and "no rate measured" not in said
    train = "classify --records runs/index/records.jsonl --output runs/mine/first --config mine.yaml"
    train += " encoder=resnet10_tiny mode=scratch resolution=16 steps=2 batch=4 validation_every=1 pictures=false"
    assert say(train).splitlines()[-1] == "runs/mine/first"
    said = say("infer --models runs/mine --source source --output answers.csv", 2)
    assert said.endswith(
        "meddap: StageError: runs/mine/model.pt: does not exist; classifiers below it: runs/mine/first; give one or "
        "several\n"
    )
    said = say("infer --models runs/mine/first/model.pt --source source", 2)
    assert "runs/mine/first/model.pt/model.pt: does not exist; give its folder, runs/mine/first" in said
    assert say("infer --source source --output answers.csv --models runs/mine/first frames=first").splitlines() == [
        "read 12 files: 9 accepted, 3 rejected",
        "  2 x is neither DICOM nor a known image format",
        "  1 x has no PixelData (7FE0,0010); expected an image",
        "  each of them: answers.csv.rejected.csv",
        "9 files: 0 answered, 9 no answer; 1 flagged as out of distribution",
        "answers.csv",
    ]


@pytest.mark.parametrize(
    ("patients", "words", "message"),
    [
        (4, "draw={train: 30, val: 2}", "class 'benign': 4 images in separate groups for train, expected 30"),
        (2, "seed=0", "class 'benign': 2 patient(s) or group(s), expected at least 3 to fill train, val, test"),
    ],
)
def test_an_index_that_stops_says_why_and_keeps_its_list(
    hospital: Path, tmp_path: Path, patients: int, words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    fewer = [f"p{number}" for number in range(patients, 4)]
    shutil.copytree(hospital / "source", source, ignore=shutil.ignore_patterns(*fewer))
    assert main(["index", f"source={source}", "--output", str(out), words]) == 2
    error = capsys.readouterr().err
    rejected = 4 if patients == 4 else 3
    assert message in error
    assert (
        f". {2 * patients} images were accepted, {rejected} items rejected; the reasons are in {out / 'rejects.csv'}\n"
    ) in error
    assert (out / "rejects.csv").read_text().count("\n") == 1 + rejected


def test_a_log_of_the_first_hour_holds_plain_lines(hospital: Path, tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        words = ["index", f"source={hospital / 'source'}", "--output", str(tmp_path / "out")]
        subprocess.run([sys.executable, "-m", "meddap_monai.cli", *words], stdout=log, stderr=log, check=True)
    text = (tmp_path / "log").read_text()
    assert "\r" not in text and "\x1b" not in text
    assert text.startswith("index: 12 of 12 files, 100 % [")
