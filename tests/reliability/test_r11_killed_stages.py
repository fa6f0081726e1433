"""R11, R12, R14, R15, R26, R27 for every stage that trains or generates: the bytes are those of one quiet run."""

import errno
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from meddap_monai import store
from meddap_monai.errors import DiskFull, ForeignOutput
from meddap_monai.training.checkpoint import NAME
from tests.reliability.forked import finish, kill_when, start
from tests.reliability.resumable import ADAPT, STAGES, Resumable, resumable
from tests.reliability.writers import outlive, race


@pytest.fixture(scope="module", params=STAGES)
def stage(request: pytest.FixtureRequest, make_records: Callable[..., Path], tiny_base: Path) -> Resumable:
    return resumable(request.param, make_records({"train": 3, "val": 1, "test": 1}, size=32), tiny_base)


@pytest.fixture(scope="module")
def quiet(stage: Resumable, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What one undisturbed run ends in."""
    folder = tmp_path_factory.mktemp("quiet") / "out"
    stage.run(folder)
    assert not (folder / NAME).exists(), "a checkpoint is of no use after the end"
    return stage.outcome(folder)


class _Later:
    """True some seconds after a condition first held."""

    def __init__(self, condition: Callable[[], bool], wait: float) -> None:
        self._condition, self._wait, self._begun = condition, wait, 0.0

    def __call__(self) -> bool:
        if not self._begun and self._condition():
            self._begun = time.monotonic()
        return bool(self._begun) and time.monotonic() - self._begun > self._wait


def saved_step(folder: Path) -> int:
    """Open every file of weights that lies in a folder; return the step of its checkpoint, 0 without one."""
    for file in folder.rglob("[!.]*.safetensors"):
        load_file(file)
    saved = {file.name: torch.load(file, weights_only=True) for file in folder.rglob("[!.]*.pt")}
    return saved[NAME]["step"] if NAME in saved else 0


def killed(stage: Resumable, folder: Path, draw: random.Random) -> bool:
    """Run the stage and kill it a random moment after it got further; False when it came to its end before."""
    done, seen, log = saved_step(folder), stage.progress(folder), folder.with_name("log")
    process = start(lambda: stage.run(folder), log)
    hit = kill_when(process, _Later(lambda: stage.progress(folder) != seen, draw.uniform(0.0, 0.08)))
    code = finish(process)
    assert code in ((0, -signal.SIGKILL) if hit else (0,)), log.read_text()
    step = saved_step(folder)
    if code and stage.interval:
        assert step % stage.interval == 0
        assert step > done, "work was lost beyond one checkpoint interval"
    return bool(code)


@pytest.mark.parametrize(
    ("kills", "seed"), [(4, 1), pytest.param(20, 2, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]
)
def test_kills_change_nothing(
    stage: Resumable,
    quiet: dict[str, str],
    kills: int,
    seed: int,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    """A run that came to its end before is looked at, and another one begun."""
    record_property("kills", kills)
    draw, hits, runs = random.Random(seed), 0, 0
    while hits < kills:
        assert runs <= kills, "few kills hit"
        folder = tmp_path / str(runs)
        if killed(stage, folder, draw):
            hits += 1
        else:
            assert stage.outcome(folder) == quiet
            runs += 1
    stage.run(folder)
    assert stage.outcome(folder) == quiet
    assert [path.name for path in folder.rglob(".*")] == [".lock"]


@pytest.mark.parametrize("stage", ["adapt", "classify", "generate"], indirect=True)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_step_and_the_run_goes_on(
    stage: Resumable, quiet: dict[str, str], number: int, tmp_path: Path
) -> None:
    folder, log = tmp_path / "out", tmp_path / "log"
    process = start(lambda: stage.run(folder), log)
    assert kill_when(process, lambda: bool(stage.progress(folder)), number)
    sent = time.monotonic()
    assert finish(process) == 3
    assert time.monotonic() - sent < 10
    assert "meddap_monai.errors.Interrupted: interrupted" in log.read_text()
    assert "run the same command again to go on" in log.read_text()
    assert store.read_stage(folder)["state"] == "running"
    assert (saved_step(folder) > 0) == (stage.interval > 0)
    stage.run(folder)
    assert stage.outcome(folder) == quiet


@pytest.mark.parametrize(
    ("stage", "file", "time_", "kept"),
    [("adapt", NAME, 3, 4), ("classify", NAME, 4, 15), ("pretrain", "phases/", 9, 0)],
    indirect=["stage"],
)
def test_a_full_disk_keeps_the_old_checkpoint(
    stage: Resumable, quiet: dict[str, str], file: str, time_: int, kept: int, tmp_path: Path, monkeypatch
) -> None:
    """Generation stands in test_r17_out_of_memory.py, selection in test_r13_selection_kill.py."""
    replace, folder, seen = os.replace, tmp_path / "out", []

    def full(source, target) -> None:
        seen.extend([target] if file in str(target) else [])
        if len(seen) == time_ and target == seen[-1]:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        with pytest.raises(DiskFull, match=rf"{file}.*: the disk is full: [\d,]+ bytes needed"):
            stage.run(folder)
    assert saved_step(folder) == kept
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == [".lock"]
    stage.run(folder)
    assert stage.outcome(folder) == quiet


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("times", [2, pytest.param(50, marks=pytest.mark.slow)])
def test_of_two_writers_one_works_and_the_other_says_who(
    stage: Resumable, quiet: dict[str, str], times: int, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    record_property("races of two writers", times)
    for number in range(times):
        assert stage.outcome(race(stage.write, tmp_path / str(number))) == quiet


def test_a_dead_holder_is_taken_over(stage: Resumable, quiet: dict[str, str], tmp_path: Path) -> None:
    folder = outlive(stage.write, tmp_path / "out")
    stage.run(folder)
    assert stage.outcome(folder) == quiet


@pytest.mark.parametrize("stage", ["adapt"], indirect=True)
def test_a_curve_holds_no_step_that_was_never_saved(stage: Resumable, quiet: dict[str, str], tmp_path: Path) -> None:
    folder, board = tmp_path / "out", str(tmp_path / "out" / "tensorboard")
    process = start(lambda: stage.run(folder), tmp_path / "log")
    assert kill_when(process, (folder / NAME).exists)
    finish(process)
    with SummaryWriter(board) as writer:
        writer.add_scalar("adapt/loss", 99.0, ADAPT.steps - 1)  # as if the killed run had drawn it
    stage.run(folder)
    assert 99.0 not in [event.value for event in EventAccumulator(board).Reload().Scalars("adapt/loss")]
    assert stage.outcome(folder) == quiet


@pytest.mark.parametrize("stage", ["adapt"], indirect=True)
def test_the_same_configuration_gives_the_same_bytes(stage: Resumable, quiet: dict[str, str], tmp_path: Path) -> None:
    assert stage.outcome(stage.run(tmp_path / "out")) == quiet


def test_a_folder_of_something_else_is_refused(stage: Resumable, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ForeignOutput, match=r"thesis\.tex"):
        stage.run(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "mine"
