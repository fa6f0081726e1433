"""R15: two trainings of one adapter folder - exactly one works, the other says who does; the dead hold nothing."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from adapter_material import quick
from forked import start
from ignite.engine import Events

from meddap_monai import store
from meddap_monai.diffusion.train import adapt
from meddap_monai.errors import FolderInUse


class Gate:
    """Keeps a training, once it holds its folder, from going on until the gate is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def attach(self, engine: Any) -> None:
        engine.add_event_handler(Events.STARTED, self.wait)

    def wait(self) -> None:
        self.path.with_suffix(".reached").touch()
        while not self.path.exists():
            time.sleep(0.01)


@pytest.fixture(scope="module")
def run(make_records: Callable[..., Path], tiny_base: Path) -> Callable[..., Path]:
    records = make_records({"train": 2, "val": 1}, size=32)
    return lambda folder, *gates: adapt(quick(steps=2), folder, records=records, base=tiny_base, handlers=gates)


@pytest.fixture(scope="module")
def quiet(run, tmp_path_factory: pytest.TempPathFactory) -> str:
    return store.sha256_file(run(tmp_path_factory.mktemp("quiet") / "a") / "adapter.safetensors")


def timed(run, folder: Path, gate: Gate) -> None:
    started = time.monotonic()
    try:
        run(folder, gate)
    except FolderInUse as error:
        raise FolderInUse(json.dumps({"seconds": time.monotonic() - started, "message": str(error)})) from None


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("times", [2, pytest.param(50, marks=pytest.mark.slow)])
def test_r15_of_two_writers_one_works_and_the_other_says_who(times: int, run, quiet: str, tmp_path: Path) -> None:
    for number in range(times):
        folder, gate = tmp_path / str(number), Gate(tmp_path / f"{number}.open")
        logs = [tmp_path / f"{number}-{name}.log" for name in "ab"]
        pair = [start(lambda: timed(run, folder, gate), log) for log in logs]  # noqa: B023
        while all(process.is_alive() for process in pair):
            time.sleep(0.005)
        gate.path.touch()
        for process in pair:
            process.join(60)
        codes = [process.exitcode for process in pair]
        assert sorted(codes) == [0, 3], [log.read_text() for log in logs if log.exists()]
        told = json.loads(logs[codes.index(3)].read_text().rpartition("FolderInUse: ")[2])
        assert f"process {pair[codes.index(0)].pid} on" in told["message"]
        assert told["seconds"] < 2
        assert store.sha256_file(folder / "adapter.safetensors") == quiet


def test_r15_a_dead_holder_is_taken_over(run, quiet: str, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "never.open")
    holder = start(lambda: run(tmp_path / "a", gate), tmp_path / "log")
    while not gate.path.with_suffix(".reached").exists():
        assert holder.is_alive()
        time.sleep(0.005)
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    started = time.monotonic()
    with store.lock_folder(tmp_path / "a"):
        assert time.monotonic() - started < 2
    assert store.sha256_file(run(tmp_path / "a") / "adapter.safetensors") == quiet
