"""R15 for every stage: two processes that write one folder, and one that dies holding it."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from meddap_monai import store
from meddap_monai.errors import FolderInUse
from tests.reliability.forked import FORK, finish, kill_when, start

Write = Callable[[Path, Callable[[], None]], Any]
"""Writes an output folder, calling the second argument once it holds it."""


def race(write: Write, folder: Path) -> Path:
    """Let two processes write ``folder/out``: one works, the other soon says who does. Return ``folder/out``."""
    folder.mkdir()
    logs = [folder / f"log{name}" for name in "ab"]
    pair = [_writer(write, folder, log) for log in logs]
    while all(process.is_alive() for process in pair):
        time.sleep(0.005)
    (folder / "open").touch()
    codes = [finish(process) for process in pair]
    assert sorted(codes) == [0, 3], [log.read_text() for log in logs if log.exists()]
    told = json.loads(logs[codes.index(3)].read_text().rpartition("FolderInUse: ")[2])
    assert f"process {pair[codes.index(0)].pid} on" in told["message"]
    assert told["seconds"] < 2
    return folder / "out"


def outlive(write: Write, folder: Path) -> Path:
    """Kill a process that holds ``folder/out``: its lock is free at once. Return ``folder/out``."""
    folder.mkdir()
    holder = _writer(write, folder, folder / "log")
    assert kill_when(holder, (folder / "held").exists)
    finish(holder)
    started = time.monotonic()
    with store.lock_folder(folder / "out"):
        assert time.monotonic() - started < 2
    return folder / "out"


def before(owner: Any, name: str, wait: Callable[[], None]) -> None:
    """Call `wait` before the function `name` of a class or module, for the rest of this (forked) process."""
    whole = getattr(owner, name)

    def waiting(*arguments: Any, **named: Any) -> Any:
        wait()
        return whole(*arguments, **named)

    setattr(owner, name, waiting)


def _writer(write: Write, folder: Path, log: Path) -> FORK.Process:
    """Start a writer that keeps ``folder/out`` until ``folder/open`` is there; a refusal tells its seconds."""

    def wait() -> None:
        (folder / "held").touch()
        while not (folder / "open").exists():
            time.sleep(0.005)

    def work() -> None:
        started = time.monotonic()
        try:
            write(folder / "out", wait)
        except FolderInUse as error:
            told = {"seconds": time.monotonic() - started, "message": str(error)}
            raise FolderInUse(json.dumps(told)) from None

    return start(work, log)
