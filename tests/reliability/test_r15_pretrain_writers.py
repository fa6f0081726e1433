"""R15: two pre-trainings of one folder - exactly one works, the other says who does; the dead hold nothing."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from forked import finish, start
from test_r11_pretrain_kill import CONFIG, hashes

from meddap_monai import store
from meddap_monai.diffusion.pretrain import PretrainJob, pretrain
from meddap_monai.errors import FolderInUse


@pytest.fixture(scope="module")
def records(make_records: Callable[..., Path]) -> Path:
    return make_records({"train": 2, "val": 1}, size=32)


@pytest.fixture(scope="module")
def quiet(records: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Hashes of the base that one undisturbed process writes."""
    return hashes(pretrain(CONFIG, tmp_path_factory.mktemp("quiet") / "p", records=records).parent)


def gated(folder: Path, records: Path, gate: Path) -> None:
    """Pre-train in this (forked) process, but wait for `gate` once the folder is held; a refusal tells its seconds."""
    train = PretrainJob.train

    def wait_and_train(job: PretrainJob) -> None:
        gate.with_suffix(".reached").touch()
        while not gate.exists():
            time.sleep(0.005)
        train(job)

    PretrainJob.train = wait_and_train  # type: ignore[method-assign]
    started = time.monotonic()
    try:
        pretrain(CONFIG, folder, records=records)
    except FolderInUse as error:
        seconds = time.monotonic() - started
        raise FolderInUse(json.dumps({"message": str(error), "seconds": seconds})) from error


@pytest.mark.parametrize("times", [1, pytest.param(50, marks=pytest.mark.slow)])
def test_r15_of_two_writers_one_works_and_the_other_says_who(
    times: int, records: Path, quiet: list[str], tmp_path: Path
) -> None:
    for number in range(times):
        folder, gate = tmp_path / str(number), tmp_path / f"{number}.open"
        logs = [tmp_path / f"{number}-{name}.log" for name in "ab"]
        pair = [start(lambda folder=folder, gate=gate: gated(folder, records, gate), log) for log in logs]
        while all(process.is_alive() for process in pair):
            time.sleep(0.005)
        gate.touch()
        codes = [finish(process) for process in pair]
        assert sorted(codes) == [0, 3], [log.read_text() for log in logs if log.exists()]
        told = json.loads(logs[codes.index(3)].read_text().rpartition("FolderInUse: ")[2])
        assert f"process {pair[codes.index(0)].pid} on" in told["message"]
        assert told["seconds"] < 2
        assert hashes(folder) == quiet


def test_r15_a_dead_holder_is_taken_over(records: Path, quiet: list[str], tmp_path: Path) -> None:
    gate = tmp_path / "never.open"
    holder = start(lambda: gated(tmp_path / "p", records, gate), tmp_path / "log")
    while not gate.with_suffix(".reached").exists():
        assert holder.is_alive()
        time.sleep(0.005)
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    started = time.monotonic()
    with store.lock_folder(tmp_path / "p"):
        assert time.monotonic() - started < 2
    pretrain(CONFIG, tmp_path / "p", records=records)
    assert hashes(tmp_path / "p") == quiet
