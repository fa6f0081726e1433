"""The console command: thin, and clear about what is wrong."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from meddap_monai.cli import load_sections, main
from meddap_monai.errors import ConfigurationError
from meddap_monai.study import read_study
from meddap_monai.study.command import command_of


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["study", "generat#steps=2"], "unknown key 'generat'; did you mean 'generate'?"),
        (["study", "generate#stepps=2"], "study#generate: unknown key 'stepps'; did you mean 'steps'?"),
        (["study", "adapt=3"], "study#adapt: got 3, expected a mapping"),
        (["study", "arms=[reel]"], "study#arms: unknown value 'reel'; did you mean 'real'?"),
        (["study", "seeds=[]"], "study#seeds: got none"),
        (["study", "steps"], "'steps': expected ID=VALUE"),
        (["study", "--config", "demmo.yaml"], "configs/demmo.yaml: not in the installed package"),
        (["study", "index#source=/nowhere/at/all"], "/nowhere/at/all"),
        (["generate", "--records", "r.jsonl", "stepps=2"], "generate: unknown key 'stepps'; did you mean 'steps'?"),
        (["evaluate", "--runs", "real:0"], "runs: got 'real:0', expected ARM:SEED:MODEL_FOLDER:RECORDS_FILE"),
        (["select", "--records", "none.jsonl", "--generated", "g.jsonl"], "none.jsonl"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main([*words, "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_ctrl_c_in_a_stage_without_steps_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meddap_monai.study.run_stage", lambda *_: signal.raise_signal(signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts without it
    try:
        assert main(["select", "--records", "r.jsonl", "--generated", "g.jsonl", "--output", str(tmp_path)]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert "interrupted" in capsys.readouterr().err


def test_an_overlay_must_name_full_ids(tmp_path: Path) -> None:
    overlay = tmp_path / "mine.yaml"
    overlay.write_text("draw: {train: 3}\n")
    with pytest.raises(ConfigurationError, match="draw"):
        load_sections([overlay])
    overlay.write_text("generate#steps: 3\nunseen: {source: x}\n")
    sections = load_sections([overlay], ["generate#steps=4", "seeds=[5]"])
    assert sections["generate"]["steps"] == 4
    assert sections["unseen"] == {"source": "x"}
    assert read_study(sections)[0].seeds == (5,)


def test_variants_override_single_ids() -> None:
    sections = load_sections([], ["variants={half: {'generate#ratio': 0.5}, none: {adapt: null}}"])
    _, variants = read_study(sections)
    assert variants["half"].config.generate.ratio == 0.5
    assert variants["none"].config.adapt is None
    with pytest.raises(ConfigurationError, match=r"variants#half#generate: unknown key 'rattio'"):
        read_study(load_sections([], ["variants={half: {'generate#rattio': 0.5}}"]))


@pytest.mark.parametrize("stage", ["index", "adapt", "study", "demo"])
def test_every_command_explains_itself(stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([stage, "--help"])
    assert stop.value.code == 0
    assert "--output" in capsys.readouterr().out


def test_the_command_of_a_report_repeats_the_study_without_naming_sources() -> None:
    words = ["index#source=/data/hospital", "unseen={source: /data/other, split: unseen}", "seeds=[0, 1]"]
    command = command_of("study", ["demo.yaml"], words)
    assert command == (
        "meddap study --config demo.yaml 'index#source=...' 'unseen={source: ..., split: unseen}' 'seeds=[0, 1]'"
    )
