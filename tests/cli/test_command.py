"""Words of a command line: what is a key, what is an option, and how soon a misspelled key is told."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from meddap_monai.cli.command import Command, is_pair
from meddap_monai.cli.main import _parser, main

INPUTS = {
    "index": [],
    "cluster": ["--records", "r.jsonl"],
    "pretrain": ["--records", "r.jsonl"],
    "adapt": ["--records", "r.jsonl"],
    "generate": ["--records", "r.jsonl"],
    "select": ["--records", "r.jsonl", "--generated", "g.jsonl"],
    "mix": ["--records", "r.jsonl"],
    "classify": ["--records", "r.jsonl"],
    "evaluate": ["--runs", "real:0:model:r.jsonl"],
    "study": [],
    "demo": [],
    "infer": ["--models", "model", "--source", "."],
    "grid": ["--draws", "0:r.jsonl"],
    "synthesize": ["--source", "."],
}


@pytest.mark.parametrize("command", INPUTS)
def test_a_misspelled_key_is_told_before_anything_heavy_is_loaded(command: str, tmp_path: Path) -> None:
    code = (
        "import sys; from meddap_monai.cli.main import main; code = main(sys.argv[1:]); "
        "heavy = {'torch', 'monai', 'diffusers', 'transformers', 'sklearn', 'scipy', 'ignite', 'matplotlib'}; "
        "print(code, sorted(heavy & set(sys.modules)))"
    )
    words = [command, *INPUTS[command], "stepss=1"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=tmp_path)
    assert "unknown key 'stepss'" in done.stderr
    assert done.stdout.strip() == "2 []"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("adapt --records nowhere.jsonl", "nowhere.jsonl: does not exist, but adapt needs it (records)"),
        ("select --records {0} --generated no.jsonl", "no.jsonl: does not exist, but select needs it (generated)"),
        ("generate --records {0} --base ./nowhere", "base nowhere: model_index.json"),
        ("evaluate --runs real:0:model:{0} --unseen no.jsonl", "no.jsonl: does not exist, but evaluate needs it"),
    ],
)
def test_a_missing_input_is_told_before_torch_is_loaded(words: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").write_text("")
    code = "import sys; from meddap_monai.cli.main import main; print(main(sys.argv[1:]), 'torch' in sys.modules)"
    given = words.format(tmp_path / "records.jsonl").split()
    done = subprocess.run([sys.executable, "-c", code, *given], capture_output=True, text=True, cwd=tmp_path)
    assert said in done.stderr
    assert done.stdout.strip() == "2 False"
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("words", ["--help", "classify --help", "config", "--version"])
def test_help_and_config_load_nothing_heavy(words: str) -> None:
    code = (
        "import sys; from meddap_monai.cli.main import main\n"
        "try: main(sys.argv[1:])\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'monai', 'diffusers', 'transformers', 'sklearn', 'scipy'} & set(sys.modules)))"
    )
    said = subprocess.check_output([sys.executable, "-c", code, *words.split()], text=True)
    assert said.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("classify --steps 10", "unrecognized argument --steps: keys have no dashes; write steps=10"),
        ("classify --records r --steps=10", "unrecognized argument --steps=10: keys have no dashes; write steps=10"),
        ("classify --learning-rate 0.1", "--learning-rate: keys have no dashes; write learning_rate=0.1"),
        ("classify --stepz 10", "--stepz: keys have no dashes; write steps=10"),
        ("classify --steps", "write steps=..."),
        ("classify --steps --records r", "write steps=..."),
        ("select --filter#folds 3", "write filter#folds=3"),
        ("study --classify#steps 10", "write classify#steps=10"),
        ("study --classify::steps 10", "write classify#steps=10"),
        ("infer --models m --source . --frames all", "write frames=all"),
        ("grid --draws 0:r --encoders [a]", "write encoders=[a]"),
        ("synthesize --source . --ratio 2", "write ratio=2"),
        ("classify --nothing-like-it 3 --records r", "unrecognized arguments: --nothing-like-it"),
        ("join a --output b --steps 3", "unrecognized arguments: --steps"),
    ],
)
def test_a_key_written_as_an_option_says_how_it_is_written(
    words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(words.split())
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def commands() -> dict[str, Command]:
    (found,) = (item for item in _parser()._actions if isinstance(item, argparse._SubParsersAction))
    return dict(found.choices)


MANY = [
    (name, action.option_strings[0])
    for name, command in commands().items()
    for action in command._actions
    if action.nargs in ("*", "+") and action.option_strings and any(one.dest == "overrides" for one in command._actions)
]


def test_these_are_all_options_of_many_values() -> None:
    assert MANY == [
        ("generate", "--adapters"),
        ("evaluate", "--runs"),
        ("synthesize", "--adapters"),
        ("infer", "--models"),
        ("grid", "--draws"),
    ]


@pytest.mark.parametrize(("name", "option"), MANY)
def test_a_key_behind_an_option_of_many_values_is_a_key(name: str, option: str, tmp_path: Path) -> None:
    (there := tmp_path / "lr=0.1").mkdir()
    needed = [word for word in INPUTS[name] if not word.startswith(("real:", "model", "0:")) and word != option]
    options = commands()[name].parse_args([*needed, option, "A", "x=1", str(there), "b#c=[1, 2]", "d="])
    assert getattr(options, option[2:]) == ["A", str(there)]
    assert options.overrides == ["x=1", "b#c=[1, 2]", "d="]


def test_a_folder_that_looks_like_a_key_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_pair("lr=0.1")
    (tmp_path / "lr=0.1").mkdir()
    assert not is_pair("lr=0.1")
    assert [is_pair(word) for word in ("0:r.jsonl", "real:0:a=b:c", "runs/a=b", "=1", "a b=1", 3)] == [False] * 6


def test_evaluate_takes_a_metric_behind_its_runs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["evaluate", "--runs", "A", "metric=x", "--output", str(tmp_path / "out")]
    assert main(words) == 2
    assert "evaluate#metric: unknown value 'x'; expected one of accuracy, auc" in capsys.readouterr().err
