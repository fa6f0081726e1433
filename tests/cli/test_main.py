"""The console command: thin, and clear about what is wrong."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from meddap_monai.cli.main import main
from meddap_monai.errors import ConfigurationError
from meddap_monai.study import read_study
from meddap_monai.study.sections import load_sections


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["study", "generat#steps=2"], "unknown key 'generat'; did you mean 'generate'?"),
        (["study", "generate#stepps=2"], "study#generate: unknown key 'stepps'; did you mean 'steps'?"),
        (["study", "adapt=3"], "study#adapt: got 3, expected a mapping"),
        (["study", "arms=[reel]"], "study#arms#0: unknown value 'reel'; did you mean 'real'?"),
        (["study", "seeds=[]"], "study#seeds: got none"),
        (["study", "steps"], "'steps': expected ID=VALUE"),
        (["study", "--config", "demmo.yaml"], "configs/demmo.yaml: not in the installed package"),
        (["study", "index#source=/nowhere/at/all"], "/nowhere/at/all"),
        (["generate", "--records", "r.jsonl", "stepps=2"], "generate: unknown key 'stepps'; did you mean 'steps'?"),
        (["evaluate", "--runs", "real:0"], "runs: got 'real:0', expected ARM:SEED:MODEL_FOLDER:RECORDS_FILE"),
        (["evaluate", "--runs", "../../x:0:m:r"], "runs: got the arm '../../x', expected letters"),
        (["select", "--records", "none.jsonl", "--generated", "g.jsonl"], "none.jsonl"),
        (["classify", "--records", "r.jsonl", "evaluate=3"], "evaluate: is no key of classify, which runs alone here"),
        (["classify", "--records", "r.jsonl", "generate#steps=2"], "generate#steps: is no key of classify"),
        (["adapt", "--records", "r.jsonl", "base=other"], "base: is no key of adapt, which runs alone here; leave it"),
        (["index", "seeds=[1]"], "seeds: is no key of index"),
        (["infer", "--models", "none", "--source", ".", "frams=all"], "infer: unknown key 'frams'; did you mean"),
        (["infer", "--models", "none", "--source", "."], "no classifier of this package"),
        (["grid", "--draws", "zero:r.jsonl"], "draws: got 'zero:r.jsonl', expected SEED:RECORDS_FILE"),
        (["grid", "classify#stepps=3", "--draws", "0:none.jsonl"], "grid#classify: unknown key 'stepps'; did you mean"),
        (["grid", "steps", "--draws", "0:none.jsonl"], "'steps': expected ID=VALUE"),
        (["grid", "arms=[real_synthetic]", "--draws", "0:none.jsonl"], "needs synthetic images, seed 0 has none"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main([*words, "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


STAGE_INPUTS = {
    "cluster": ["--records"],
    "pretrain": ["--records"],
    "adapt": ["--records"],
    "generate": ["--records"],
    "select": ["--records", "--generated"],
    "mix": ["--records", "--kept"],
    "classify": ["--records"],
    "review": ["--reader=me", "--records", "--generated"],
}


@pytest.mark.parametrize("stage", STAGE_INPUTS)
def test_missing_records_are_one_sentence_and_leave_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], stage: str
) -> None:
    words = [word for name in STAGE_INPUTS[stage] for word in (name, str(tmp_path / "none.jsonl"))[: 2 - ("=" in name)]]
    assert main([stage, *words, "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(("meddap: StageError: ", "meddap: RecordsError: ")) and "none.jsonl: " in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("word", ["adapt#method=$print(1)", "seeds=@x", "generat#steps=2"])
def test_a_demo_checks_its_configuration_before_it_simulates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], word: str
) -> None:
    assert main(["demo", word, "--output", str(tmp_path / "out")]) == 2
    assert word.partition("#")[0].partition("=")[0] in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


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


@pytest.mark.parametrize(
    ("where", "words", "unbuffered"),
    [
        ("full device", "--version", ""),
        ("closed pipe", "join --help", ""),
        ("full device", "join part --output out", "1"),
    ],
)
def test_standard_output_that_cannot_be_written_is_one_sentence(
    tmp_path: Path, where: str, words: str, unbuffered: str
) -> None:
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "generated.jsonl").write_text("")
    (tmp_path / "part" / "stage.json").write_text('{"stage": "generate", "classes": ["a"], "state": "done"}')
    if where == "full device":
        out = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, out = os.pipe()
        os.close(reader)
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "meddap_monai.cli", *words.split()],
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONUNBUFFERED": unbuffered},
        )
    finally:
        os.close(out)
    assert ended.returncode == 2
    assert ended.stderr.startswith("meddap: standard output cannot be written (") and ended.stderr.count("\n") == 1
    assert (tmp_path / "out" / "generated.jsonl").exists() == ("part" in words)


def test_a_locale_that_lacks_a_letter_loses_no_class_name(tmp_path: Path) -> None:
    """Python's UTF-8 mode off and an ASCII locale: what `open` without an encoding would use."""
    (tmp_path / "records.jsonl").write_text("")
    document = {"stage": "index", "classes": ["Zyste_ä"], "state": "done"}
    (tmp_path / "stage.json").write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    code = """
from meddap_monai import store
from meddap_monai.cli.main import _say
from meddap_monai.core import records
names = records.class_names("records.jsonl")
store.write_json("again.json", names)
_say(names[0])
"""
    ascii_only = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    ended = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **ascii_only},
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "Zyste_\\xe4\n"
    assert json.loads((tmp_path / "again.json").read_text(encoding="utf-8")) == ["Zyste_ä"]


@pytest.mark.parametrize(
    "words",
    [
        ["frames=first", "--source", "{s}", "device=cpu", "--models", "{m}", "--output", "{o}", "region=full"],
        ["--models", "{m}", "--source", "{s}", "--output", "{o}", "frames=first", "region=full"],
    ],
)
def test_overrides_may_stand_before_between_and_after_options(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"s": str(tmp_path), "m": str(tmp_path / "none"), "o": str(tmp_path / "o.csv")}
    assert main(["infer", *(word.format(**places) for word in words)]) == 2
    assert "no classifier of this package" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (
            ["index", "seed=1", "--sede", "2", "frames=all"],
            "unrecognized argument --sede: keys have no dashes; write seed=2",
        ),
        (["join", "a", "--output", "b", "c"], "unrecognized arguments: c"),
        (["index", "--output", os.fsdecode(b"M\xfcller")], "is no text in UTF-8"),
    ],
)
def test_unknown_options_are_refused(words: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    assert text in capsys.readouterr().err


def test_stray_words_between_options_are_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["index", "seed=1", "--output", str(tmp_path), "stray"]) == 2
    assert "'stray': expected ID=VALUE" in capsys.readouterr().err


def test_code_on_the_command_line_runs_only_when_trusted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "$x").mkdir()
    code = f"source=$str(__import__('pathlib').Path('{tmp_path}/ran').touch())"
    assert main(["index", "--output", str(tmp_path / "out"), code]) == 2
    assert "command line: index#source: " in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()
    assert main(["index", "--output", str(tmp_path / "out"), "--trust-config", code]) == 2
    assert "index#source: None is not a folder" in capsys.readouterr().err
    assert (tmp_path / "ran").exists()
