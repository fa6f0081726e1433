"""The first hour of a stranger, walked through on small real components: the words, pages and files it meets."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from meddap_monai.classifier.config import ClassifyConfig
from meddap_monai.cli.main import main
from meddap_monai.core.ids import read_yaml
from meddap_monai.reading_form.reading import CLASS, QUESTIONS, Reading, ReadingConfig
from tests.reading_form.chromium import Chromium

SMALL = Path(__file__).with_name("small.yaml")


# -------------------------------------------------------------------------------------- a study, its report, its curves
@pytest.fixture(scope="module")
def small_study(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished study of one seed and two arms on simulated DICOM, made by the command."""
    from meddap_monai.phantom.simulation import write_phantom_study

    root = tmp_path_factory.mktemp("first_hour")
    for seed, scanner in enumerate(("own", "unseen")):
        write_phantom_study(
            root / scanner, patients_per_class=8, images_per_patient=1, seed=seed, scanner=scanner, broken=1, clips=0
        )
    words = ["study", "--output", str(root / "study"), "--config", str(SMALL), f"index#source={root / 'own'}"]
    words += [f"unseen={{source: {root / 'unseen'}, split: unseen}}", f"base={tiny_base}", "draw={train: 4, val: 2}"]
    words += ["seeds=[0]", "arms=['real_classical', 'real_synthetic_classical']", "generate#ratio=1.0"]
    words += ["select#pictures=true", "adapt#log_every=1", "classify#pictures=true", "adapt#validation_every=1"]
    done = subprocess.run(
        [sys.executable, "-m", "meddap_monai.cli", *words], capture_output=True, text=True, check=True
    )
    assert f"curves and pictures: tensorboard --logdir {root / 'study' / 'tensorboard'}" in done.stdout
    return root / "study"


def test_walk_report_speaks_to_a_clinician_first(small_study: Path) -> None:
    page = (small_study / "evaluate/report.html").read_text()
    told = ["What was asked.", "What was found.", "How sure this is.", "What it does not show.", "The arms"]
    places = [page.index(text) for text in told]
    assert places == sorted(places)
    for text in (
        "Programs that name the class of an image learnt from 12 real images (4 benign, 4 malignant, 4 normal).",
        "A computer program drew 12 artificial (synthetic) ones after them.",
        "Everything was done once only, so that luck in training cannot be told from an effect.",
        "It does not show that any patient is diagnosed better",
        "The filter cannot tell the classes apart",
        "What a copy means here",
        "De-identified: only the ultrasound regions were kept",
        "misclassified",
        "where it looked",
        "Calibration: how often an answer is right",
        "<code>real_classical</code><small>real images, classical augmentation</small>",
    ):
        assert text in page, text


@pytest.fixture
def browse(tmp_path: Path) -> Iterator[Callable[[Path], Chromium]]:
    """Open pages in Debian's chromium; skipped where there is none."""
    executable = shutil.which("chromium")
    if executable is None:
        pytest.skip("needs Debian's chromium (apt-get install chromium)")
    opened: list[Chromium] = []

    def open_page(page: Path) -> Chromium:
        opened.append(Chromium(executable, tmp_path / "profile", page.as_uri()))
        return opened[-1]

    yield open_page
    for browser in opened:
        browser.close()


def test_walk_report_fits_a_telephone_and_paper(small_study: Path, browse: Callable[[Path], Chromium]) -> None:
    browser = browse(small_study / "evaluate/report.html")
    browser.wait_for("document.readyState === 'complete' && document.querySelectorAll('table').length > 8")
    for width in (390, 1280):
        browser.send("Emulation.setDeviceMetricsOverride", width=width, height=844, deviceScaleFactor=1, mobile=True)
        assert browser.evaluate("document.documentElement.scrollWidth") == width
    paper = 703  # A4 without the margins of the page, in pixels of CSS
    browser.send("Emulation.setEmulatedMedia", media="print")
    browser.send("Emulation.setDeviceMetricsOverride", width=paper, height=1000, deviceScaleFactor=1, mobile=True)
    assert (
        browser.evaluate("Math.max(...[...document.querySelectorAll('table')].map(t => t.offsetLeft + t.offsetWidth))")
        <= paper
    )
    assert browser.evaluate("[...document.querySelectorAll('details table')].every(t => t.offsetHeight > 0)")


def boards(folder: Path) -> dict[str, EventAccumulator]:
    """Return TensorBoard's runs of a folder by name, read back from their event files."""
    found = {}
    for path in sorted({Path(part) for part, _, files in os.walk(folder, followlinks=True) if has_events(files)}):
        found[path.relative_to(folder).as_posix()] = EventAccumulator(str(path)).Reload()
    return found


def has_events(files: list[str]) -> bool:
    return any(name.startswith("events.out.tfevents") for name in files)


def test_walk_curves_have_one_name_per_quantity_and_names_that_fit(small_study: Path) -> None:
    runs = {name: board.Tags() for name, board in boards(small_study / "tensorboard").items()}
    assert max(map(len, runs)) <= 40
    scalars: dict[str, set[str]] = {}
    for name, found in runs.items():
        for tag in found["scalars"]:
            scalars.setdefault(tag, set()).add(name)
    assert {tag: scalars[tag] for tag in ("adapt/loss", "adapt/validation_loss", "classify/loss", "select/loss")} == {
        "adapt/loss": {"seed_0/adapt"},
        "adapt/validation_loss": {"seed_0/adapt"},
        "classify/loss": {"seed_0/real_classical", "seed_0/real_synthetic_classical"},
        "select/loss": {"seed_0/select/fold_0", "seed_0/select/fold_1"},
    }
    arms = {f"evaluate/{arm}" for arm in ("hog", "real_classical", "real_synthetic_classical")}
    assert {"evaluate/own_auc", "evaluate/unseen_auc", "evaluate/unseen_roc_sensitivity"} <= scalars.keys()
    assert scalars["evaluate/unseen_auc"] == arms
    stages = ("adapt", "generate", "select", "classify", "evaluate")
    for found in runs.values():
        for tag in (tag for kind in ("scalars", "images", "histograms") for tag in found[kind]):
            assert re.match(rf"({'|'.join(stages)})/", tag), tag
    for name in ("select/filter_auc", "select/kept_share", "select/copy_rate"):
        assert scalars[name] == {"seed_0/select"}
    links = [path for path in (small_study / "tensorboard").rglob("*") if path.is_symlink()]
    assert links and all(path.exists() and not path.readlink().is_absolute() for path in links)


def test_walk_curves_say_what_the_report_says(small_study: Path) -> None:
    report = json.loads((small_study / "evaluate/report.json").read_text())
    drawn = boards(small_study / "evaluate/tensorboard")
    for arm, found in report["sets"]["unseen"]["arms"].items():
        points = drawn[arm].Scalars("evaluate/unseen_auc")
        assert [(point.step, point.value) for point in points] == [
            (0, pytest.approx(found["auc"]["values"][0], abs=1e-6))
        ]
    roc = report["sets"]["unseen"]["curves"]["roc"]
    points = drawn["hog"].Scalars("evaluate/unseen_roc_sensitivity")
    assert [point.step for point in points] == list(range(0, 101, 2))
    assert [point.value for point in points] == pytest.approx(roc["arms"]["hog"]["mean"], abs=1e-6)


# ----------------------------------------------------------------------------------------------------- the reading form
def test_walk_readers_answers_reach_the_report(small_study: Path, tmp_path: Path) -> None:
    records, generated = small_study / "index/records.jsonl", small_study / "seed_0/generate/generated.jsonl"
    evaluated = tmp_path / "evaluate"
    shutil.copytree(small_study / "evaluate", evaluated)
    reading = Reading(tmp_path / "review", "one", ReadingConfig(4, 0), records, generated)
    for place, item in enumerate(reading.items):
        reading.answer(place, dict.fromkeys(QUESTIONS, "yes") | {CLASS: item["class_name"]})
    words = ["review", "--records", str(records), "--generated", str(generated), "--output", str(tmp_path / "review")]
    words += ["--reader", "one", "--images", "4", "--port", "0", "--report"]
    command = [sys.executable, "-m", "meddap_monai.cli", *words]
    refused = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True)
    assert refused.returncode and "holds no report.json; give the folder of a finished evaluate" in refused.stderr
    with subprocess.Popen([*command, str(evaluated)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "reading form: http://127.0.0.1:" in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        told = process.communicate(timeout=60)[0]
    assert process.returncode == 0
    assert "reader_class real         1.00" in told and f"report: {evaluated / 'report.html'}" in told
    page = (evaluated / "report.html").read_text()
    for text in (
        "What readers said",
        "1 reader judged real and synthetic images, mixed and blinded (one: 4 images).",
        "named the source of 50.0 % of the images rightly",
        "Did the reader name the class of the label?",
    ):
        assert text in page, text
    assert "What readers said" not in (small_study / "evaluate/report.html").read_text()


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
