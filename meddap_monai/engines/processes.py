"""Worker processes of this machine, with a deadline and a memory limit: a crash or a hang costs one unit.

No results pass but lines of JSON, and nothing is sent but the name of a task.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from meddap_monai import errors
from meddap_monai.engines.backlog import Unit
from meddap_monai.engines.task import Check, head_of, never

_CHECK_EVERY = 0.5
"""Seconds between two questions whether to stop."""


class Processes:
    """So many workers of one task.

    Attributes:
        task: its name.
        settings: its settings.
        timeout: seconds for one unit; infinite by default.
        memory: MB for one unit beyond what the open task has; 0 sets no limit.
        cpus: threads of one worker.
    """

    def __init__(
        self, task: str, settings: Any, workers: int, timeout: float = float("inf"), memory: int = 0, cpus: int = 1
    ) -> None:
        self.head = head_of(task, settings, cpus, memory)
        self.timeout = timeout
        self.workers = workers

    def run(self, take: Callable[[], Unit | None], check: Check = never) -> Iterator[tuple[Unit, bytes, str]]:
        """Yield each unit with its answer, or with no answer and what happened to its worker, as they are ready.

        Args:
            take: returns the next unit, or None.
            check: raises where the work has to stop; asked twice a second.
        """
        team = [_Worker(self, number) for number in range(self.workers)]
        try:
            busy = [worker for worker in team if worker.take(take)]
            while busy:
                ready = _wait(busy, self.timeout, check)
                for worker in ready:
                    yield worker.answer(self.timeout)
                busy = [worker for worker in busy if worker not in ready or worker.take(take)]
        finally:
            for worker in team:
                worker.stop()


def _wait(busy: list[_Worker], timeout: float, check: Check) -> list[_Worker]:
    """Workers that have answered, died or run out of time."""
    with selectors.DefaultSelector() as selector:
        for worker in busy:
            selector.register(worker.answers, selectors.EVENT_READ, worker)
        while True:
            check()
            left = min(worker.since for worker in busy) + timeout - time.monotonic()
            if events := selector.select(min(_CHECK_EVERY, max(0.0, left))):
                return [key.data for key, _ in events]
            if late := [worker for worker in busy if time.monotonic() - worker.since > timeout]:
                return late


class _Worker:
    """One process; started anew after a crash or a hang."""

    def __init__(self, given: Processes, place: int) -> None:
        self.given = given
        self.place = place
        self.unit = Unit(-1, "")
        self.since = 0.0
        self._start()

    def _start(self) -> None:
        here = str(Path(errors.__file__).parents[1])  # the package may be used from a checkout, from any folder
        paths = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
        places = {"PYTHONPATH": paths, "LOCAL_RANK": os.environ.get("LOCAL_RANK", str(self.place))}  # its GPU
        self.process = subprocess.Popen(
            [sys.executable, "-m", "meddap_monai.engines.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | places,
        )
        assert self.process.stdin and self.process.stdout
        self.answers: IO[bytes] = self.process.stdout
        self._send(self.given.head)

    def _send(self, line: str) -> None:
        assert self.process.stdin
        with contextlib.suppress(BrokenPipeError):  # it died; `answer` sees the end of its answers
            self.process.stdin.write(line.encode() + b"\n")
            self.process.stdin.flush()

    def take(self, take: Callable[[], Unit | None]) -> bool:
        """Start the next unit; False when there is none."""
        unit = take()
        if unit is None:
            return False
        self.unit = unit
        self.since = time.monotonic()
        self._send(unit.item)
        return True

    def answer(self, timeout: float) -> tuple[Unit, bytes, str]:
        """Read the answer, or say what happened to the process and replace it."""
        late = time.monotonic() - self.since > timeout
        line = b"" if late and not self._has_answer() else self.answers.readline()
        if line:
            return self.unit, line, ""
        self.process.kill()
        code = self.process.wait()
        self.stop()
        self._start()
        return (
            self.unit,
            b"",
            f"took longer than {timeout:g} s for it" if late else f"crashed on it (exit status {code})",
        )

    def _has_answer(self) -> bool:
        with selectors.DefaultSelector() as selector:
            selector.register(self.answers, selectors.EVENT_READ)
            return bool(selector.select(0))

    def stop(self) -> None:
        """End the process."""
        assert self.process.stdin and self.process.stdout
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
