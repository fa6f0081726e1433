"""R12, R15, R16, R27 for generation: killed, interrupted, raced or divided, the bytes are those of one quiet run."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from meddap_monai import store
from meddap_monai.core.records import read_records
from meddap_monai.diffusion.generation.config import GenerateConfig
from meddap_monai.diffusion.generation.shards import ShardMaker
from meddap_monai.diffusion.generation.stage import generate
from tests.reliability.forked import finish, kill_when, read_logs, run_pair, start
from tests.reliability.writers import before, outlive, race

CONFIG = GenerateConfig(counts=4, steps=3, scheduler="euler_ancestral", shard_size=2, batch=2, sheet_columns=2)


@pytest.fixture(scope="module")
def records(make_records: Callable[..., Path]) -> Path:
    return make_records({"train": 2, "test": 1}, size=32)


@pytest.fixture(scope="module")
def quiet(records: Path, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    output = tmp_path_factory.mktemp("quiet") / "out"
    generate(CONFIG, output, records=records, base=tiny_base)
    return contents(output)


def contents(output: Path) -> dict[str, str]:
    """Return the hash of every file that promises to be equal: plan, shards, joined records, sheets."""
    chosen = [output / "plan.csv", output / "generated.jsonl", *output.glob("sheets/*"), *output.glob("shards/**/*")]
    return {
        str(path.relative_to(output)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in chosen
        if path.is_file()
    }


def shards_made(output: Path) -> int:
    return len(list(output.glob("shards/[0-9]*")))


class _Later:
    """True some seconds after a condition first held."""

    def __init__(self, condition: Callable[[], bool], wait: float) -> None:
        self._condition, self._wait, self._begun = condition, wait, 0.0

    def __call__(self) -> bool:
        if not self._begun and self._condition():
            self._begun = time.monotonic()
        return bool(self._begun) and time.monotonic() - self._begun > self._wait


def run_killed(work: Callable[[], object], output: Path, log: Path, kills: int, seed: int) -> int:
    """Run `work` again and again, killed at random times; return how many kills hit."""
    draw, hits = random.Random(seed), 0
    for _ in range(kills):
        wanted, wait = shards_made(output) + draw.randint(0, 1), draw.random() * 0.15
        process = start(work, log)

        hits += kill_when(process, _Later(lambda wanted=wanted: shards_made(output) >= wanted, wait))
        assert finish(process) in (0, -signal.SIGKILL), log.read_text()
    return hits


@pytest.mark.parametrize(("kills", "seed"), [(3, 0), pytest.param(20, 1, marks=pytest.mark.slow)])
def test_killed_runs_give_the_bytes_of_a_quiet_one(
    kills: int, seed: int, records: Path, tiny_base: Path, quiet: dict[str, str], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    hits = run_killed(
        lambda: generate(CONFIG, output, records=records, base=tiny_base), output, tmp_path / "log", kills, seed
    )
    assert hits > 0
    path = generate(CONFIG, output, records=records, base=tiny_base)
    assert contents(output) == quiet
    assert len(read_records(path)) == len(list(output.glob("shards/*/*.png"))) == 12


def test_what_a_killed_process_left_is_swept_away(
    records: Path, tiny_base: Path, quiet: dict[str, str], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    process = start(lambda: generate(CONFIG, output, records=records, base=tiny_base), tmp_path / "log")
    assert kill_when(process, lambda: bool(list(output.glob("shards/.*/*.png"))))
    finish(process)
    assert list(output.glob("shards/.*"))
    generate(CONFIG, output, records=records, base=tiny_base)
    assert not list(output.glob("shards/.*")) and contents(output) == quiet


def test_no_partial_shard_is_ever_visible(records: Path, tiny_base: Path, tmp_path: Path) -> None:
    output, seen = tmp_path / "out", set()
    process = start(lambda: generate(CONFIG, output, records=records, base=tiny_base), tmp_path / "log")
    while process.is_alive():
        for shard in output.glob("shards/[0-9]*"):
            assert len(list(shard.iterdir())) == 3
            seen.add(shard.name)
    assert finish(process) == 0
    assert seen


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_step_and_the_run_goes_on(
    number: int, records: Path, tiny_base: Path, quiet: dict[str, str], tmp_path: Path
) -> None:
    output, log = tmp_path / "out", tmp_path / "log"
    process = start(lambda: generate(CONFIG, output, records=records, base=tiny_base), log)
    assert kill_when(process, lambda: shards_made(output) >= 1, number)
    sent = time.monotonic()
    assert finish(process) == 3
    assert time.monotonic() - sent < 10
    assert "Interrupted" in log.read_text() and "run the same command again" in log.read_text()
    assert store.read_stage(output)["state"] == "running"
    generate(CONFIG, output, records=records, base=tiny_base)
    assert contents(output) == quiet


def run_after(wait: Callable[[], None], output: Path, records: Path, base: Path) -> None:
    """Generate in this (forked) process; `wait` is called before the first shard."""
    before(ShardMaker, "run", wait)
    generate(CONFIG, output, records=records, base=base)


@pytest.mark.parametrize("times", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_of_two_writers_one_works_and_the_other_says_who(
    times: int, records: Path, tiny_base: Path, quiet: dict[str, str], tmp_path: Path
) -> None:
    for number in range(times):
        output = race(lambda folder, wait: run_after(wait, folder, records, tiny_base), tmp_path / str(number))
        assert contents(output) == quiet


def test_a_dead_holders_lock_is_taken_over(
    records: Path, tiny_base: Path, quiet: dict[str, str], tmp_path: Path
) -> None:
    output = outlive(lambda folder, wait: run_after(wait, folder, records, tiny_base), tmp_path / "killed")
    generate(CONFIG, output, records=records, base=tiny_base)
    assert contents(output) == quiet


def test_two_processes_give_the_bytes_of_one(
    records: Path, tiny_base: Path, quiet: dict[str, str], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    codes = run_pair(lambda: generate(CONFIG, output, records=records, base=tiny_base), tmp_path)
    assert codes == [0, 0], read_logs(tmp_path)
    assert contents(output) == quiet


def test_one_failing_process_ends_both_with_its_reason(
    records: Path, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = ShardMaker.make

    def failing(self, number, rows):
        if number == 3:
            raise ValueError("shard 3 fails on purpose")
        return make(self, number, rows)

    monkeypatch.setattr(ShardMaker, "make", failing)
    output = tmp_path / "out"
    assert run_pair(lambda: generate(CONFIG, output, records=records, base=tiny_base), tmp_path) == [3, 3]
    logs = read_logs(tmp_path)
    assert "StageError: process 1: ValueError: shard 3 fails on purpose" in logs[0]
    assert "ValueError: shard 3 fails on purpose" in logs[1]
    assert store.read_stage(output)["state"] == "running"


def test_a_process_without_its_base_does_not_leave_the_first_one_waiting(
    records: Path, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from meddap_monai.diffusion.generation import stage as generation_stage

    load = generation_stage.load_base

    def failing(*arguments):
        if os.environ["RANK"] == "1":
            raise MemoryError("no room for the base")
        return load(*arguments)

    monkeypatch.setattr(generation_stage, "load_base", failing)
    output = tmp_path / "out"
    assert run_pair(lambda: generate(CONFIG, output, records=records, base=tiny_base), tmp_path) == [3, 3]
    assert "StageError: process 1: MemoryError: no room for the base" in read_logs(tmp_path)[0]


def test_ranks_learn_that_the_first_could_not_start(records: Path, tiny_base: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "mine.txt").write_text("not of this package")
    assert run_pair(lambda: generate(CONFIG, output, records=records, base=tiny_base), tmp_path) == [3, 3]
    logs = read_logs(tmp_path)
    assert "ForeignOutput" in logs[0] and "the first process was refused: ForeignOutput" in logs[1]
