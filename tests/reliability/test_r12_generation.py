"""R12, R16 for generation: nothing partial is ever seen, and divided among processes the bytes are those of one."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from meddap_monai import store
from meddap_monai.core.records import read_records
from meddap_monai.diffusion.generation import stage as generation_stage
from meddap_monai.diffusion.generation.shards import ShardMaker
from tests.reliability.forked import finish, kill_when, read_logs, run_pair, start
from tests.reliability.resumable import Resumable, resumable


@pytest.fixture(scope="module")
def stage(make_records: Callable[..., Path], tiny_base: Path) -> Resumable:
    return resumable("generate", make_records({"train": 2, "test": 1}, size=32), tiny_base)


@pytest.fixture(scope="module")
def quiet(stage: Resumable, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    output = tmp_path_factory.mktemp("quiet") / "out"
    assert len(read_records(stage.run(output))) == len(list(output.glob("shards/*/*.png"))) == 12
    return stage.outcome(output)


def test_what_a_killed_process_left_is_swept_away(stage: Resumable, quiet: dict[str, str], tmp_path: Path) -> None:
    output = tmp_path / "out"
    process = start(lambda: stage.run(output), tmp_path / "log")
    assert kill_when(process, lambda: bool(list(output.glob("shards/.*/*.png"))))
    finish(process)
    assert list(output.glob("shards/.*"))
    stage.run(output)
    assert not list(output.glob("shards/.*")) and stage.outcome(output) == quiet


def test_no_partial_shard_is_ever_visible(stage: Resumable, tmp_path: Path) -> None:
    output, seen = tmp_path / "out", set()
    process = start(lambda: stage.run(output), tmp_path / "log")
    while process.is_alive():
        for shard in output.glob("shards/[0-9]*"):
            assert len(list(shard.iterdir())) == 3
            seen.add(shard.name)
    assert finish(process) == 0
    assert seen


def test_two_processes_give_the_bytes_of_one(stage: Resumable, quiet: dict[str, str], tmp_path: Path) -> None:
    output = tmp_path / "out"
    codes = run_pair(lambda: stage.run(output), tmp_path)
    assert codes == [0, 0], read_logs(tmp_path)
    assert stage.outcome(output) == quiet


def test_one_failing_process_ends_both_with_its_reason(
    stage: Resumable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = ShardMaker.make

    def failing(self, number, rows):
        if number == 3:
            raise ValueError("shard 3 fails on purpose")
        return make(self, number, rows)

    monkeypatch.setattr(ShardMaker, "make", failing)
    output = tmp_path / "out"
    assert run_pair(lambda: stage.run(output), tmp_path) == [3, 3]
    logs = read_logs(tmp_path)
    assert "StageError: process 1: ValueError: shard 3 fails on purpose" in logs[0]
    assert "ValueError: shard 3 fails on purpose" in logs[1]
    assert store.read_stage(output)["state"] == "running"


def test_a_process_without_its_base_does_not_leave_the_first_one_waiting(
    stage: Resumable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = generation_stage.load_base

    def failing(*arguments):
        if os.environ["RANK"] == "1":
            raise MemoryError("no room for the base")
        return load(*arguments)

    monkeypatch.setattr(generation_stage, "load_base", failing)
    output = tmp_path / "out"
    assert run_pair(lambda: stage.run(output), tmp_path) == [3, 3]
    assert "StageError: process 1: MemoryError: no room for the base" in read_logs(tmp_path)[0]


def test_ranks_learn_that_the_first_could_not_start(stage: Resumable, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "mine.txt").write_text("not of this package")
    assert run_pair(lambda: stage.run(output), tmp_path) == [3, 3]
    logs = read_logs(tmp_path)
    assert "ForeignOutput" in logs[0] and "the first process was refused: ForeignOutput" in logs[1]
