"""The first hour of a stranger, walked through on small real components: the words, pages and files it meets."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from meddap_monai.reading_form.reading import CLASS, QUESTIONS, Reading, ReadingConfig
from tests.reading_form.chromium import Chromium

SMALL = Path(__file__).parents[1] / "small.yaml"


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
