"""--dry-run tells what would run, and times only by what this machine has measured."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from meddap_monai import store
from meddap_monai.classifier.config import ClassifyConfig
from meddap_monai.cli.main import main
from meddap_monai.study.config import read_study
from meddap_monai.study.dry_run import dry_study
from meddap_monai.study.rates import Work, estimate, measured, units_of
from meddap_monai.study.sections import load_sections

CLASSIFY = ClassifyConfig(encoder="resnet10_tiny", mode="scratch", resolution=16, steps=100, batch=4)


def finished(folder: Path, config: ClassifyConfig, seconds: float, machine: str | None = None) -> None:
    """A folder of `classify` as a run of so many seconds leaves it."""
    with store.open_stage(folder, "classify", config) as stage:
        store.write_atomic(folder / "model.pt", b"x" * 1000)
        stage.finish({"in": 8, "out": 1, "rejected": 0}, classes=["a", "b"], device=config.device)
    store.write_json(folder / "cost.json", {"seconds": seconds, "machine": machine or store.this_machine()})


def work(config: ClassifyConfig) -> Work:
    plain = store.plain(config)
    return Work("classify", plain, units_of("classify", plain, None))


@pytest.mark.parametrize(
    ("changed", "seconds"),
    [
        ({"steps": 300}, 30.0),
        ({"batch": 8}, 20.0),
        ({"seed": 5, "learning_rate": 0.1}, 10.0),
        ({"resolution": 32}, None),
        ({"encoder": "resnet10"}, None),
        ({"device": "cuda"}, None),
        ({"precision": "bf16"}, None),
    ],
)
def test_a_rate_counts_for_work_that_is_alike(tmp_path: Path, changed: Mapping, seconds: float | None) -> None:
    finished(tmp_path / "a" / "b", CLASSIFY, 10.0)
    found = estimate(work(replace(CLASSIFY, **changed)), measured([tmp_path]))
    assert (found and found[0]) == seconds
    assert found is None or 1000 < found[1] < 20_000


def test_the_largest_run_tells_and_another_machine_does_not(tmp_path: Path) -> None:
    finished(tmp_path / "small", replace(CLASSIFY, steps=1), 5.0)
    finished(tmp_path / "large", CLASSIFY, 10.0)
    finished(tmp_path / "moved", replace(CLASSIFY, steps=1000), 1.0, machine="another")
    found = estimate(work(CLASSIFY), measured([tmp_path, tmp_path.parent]))
    assert found is not None and found[0] == 10.0


def test_a_stage_alone(make_records: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = make_records({"train": 2, "val": 2}, size=32)
    words = ["classify", "--records", str(records), "--output", str(tmp_path / "runs" / "new"), "--dry-run"]
    words += ["encoder=resnet10_tiny", "mode=scratch", "resolution=16", "batch=4"]
    assert main([*words, "steps=400"]) == 0
    said = capsys.readouterr().out
    assert f"  classify  {tmp_path}/runs/new: 1,600 images seen; no rate measured on this machine yet\n" in said
    assert not (tmp_path / "runs").exists()
    finished(tmp_path / "runs" / "old", CLASSIFY, 60.0)
    assert main([*words, "steps=400"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("would run 1 of 1 stages; nothing is written\n")
    assert "1,600 images seen; about 4 min, " in said and "no rate" not in said
    assert "in all about 4 min and " in said and "\nfree at " in said
    assert not (tmp_path / "runs" / "new").exists()


def test_what_is_there_is_not_counted(tmp_path: Path, make_records, capsys: pytest.CaptureFixture[str]) -> None:
    records = make_records({"train": 2, "val": 2}, size=32)
    finished(tmp_path / "old", CLASSIFY, 60.0)
    assert main(["classify", "--records", str(records), "--output", str(tmp_path / "old"), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "would run 0 of 1 stages" in said and "is there, and skipped if nothing has changed" in said


def test_generate_counts_its_images(make_records, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = make_records({"train": 3, "val": 1}, size=32)
    words = ["generate", "--records", str(records), "--output", str(tmp_path / "out"), "ratio=2", "steps=5"]
    assert main([*words, "--dry-run"]) == 0
    classes = len(store.read_stage(records.parent)["classes"])
    assert f": {classes * 3 * 2 * 5} images x steps; " in capsys.readouterr().out


def test_a_study_names_every_stage_once(tmp_path: Path) -> None:
    words = ["index#source=simulated", "seeds=[0]", "arms=[real, real_synthetic]", "index#classes=[a, b]"]
    words += ["variants={one: {'generate#ratio': 1}, two: {'generate#ratio': 2}}", "draw={train: 4, val: 2}"]
    study, variants = read_study(load_sections([], words))
    said = dry_study(variants, study, tmp_path / "out")
    stages = [line.split()[0] for line in said.splitlines() if line.startswith("  ")]
    synthetic = ["generate", "select", "mix", "classify"]
    assert sorted(stages) == sorted(["index", "adapt", "mix", "classify", *synthetic, *synthetic, "evaluate"])
    assert f"generate/two: {2 * 4 * 2 * study.generate.steps_} images x steps" in said
    assert "evaluate: 3 classifiers" in said
    assert "no rate measured on this machine yet for index, adapt, generate, select, mix, classify, evaluate" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["index", "source=nowhere"], "index#source: nowhere is not a folder; give the folder with the images"),
        (["study", "index#source=nowhere"], "index#source: nowhere is not a folder"),
        (["mix", "--records", "no.jsonl"], "no.jsonl: does not exist, but mix needs it (records); run the stage"),
    ],
)
def test_what_would_stop_the_run_stops_it_dry(words: list[str], message: str, tmp_path: Path, capsys) -> None:
    assert main([*words, "--dry-run", "--output", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
