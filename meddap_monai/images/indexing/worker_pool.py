"""Worker processes with a deadline and a memory limit: a crash, a hang or a bomb costs one file, never the run."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from meddap_monai import errors
from meddap_monai.images.indexing.accept import Acceptance, accept


def accept_all(
    tasks: Iterable[Mapping[str, Any]], how: Acceptance, workers: int, timeout: float, memory: int
) -> Iterator[dict[str, Any]]:
    """Yield one outcome per task, in the order in which they are ready.

    Args:
        tasks: what `accept` takes.
        how: settings.
        workers: processes; 0 works in this process, without protection.
        timeout: seconds per file.
        memory: MB per file.
    """
    if workers == 0:
        for task in tasks:
            yield accept(task, how)
        return
    waiting = iter(tasks)
    team = [_Worker(how, memory) for _ in range(workers)]
    try:
        busy = [worker for worker in team if worker.take(waiting)]
        while busy:
            ready = _wait(busy, timeout)
            for worker in ready:
                yield worker.outcome(timeout)
            busy = [worker for worker in busy if worker not in ready or worker.take(waiting)]
    finally:
        for worker in team:
            worker.stop()


def _wait(busy: list[_Worker], timeout: float) -> list[_Worker]:
    """Workers that have answered, died or run out of time."""
    with selectors.DefaultSelector() as selector:
        for worker in busy:
            selector.register(worker.answers, selectors.EVENT_READ, worker)
        deadline = min(worker.started for worker in busy) + timeout
        events = selector.select(max(0.0, deadline - time.monotonic()))
    late = [worker for worker in busy if time.monotonic() - worker.started > timeout]
    return [key.data for key, _ in events] or late


class _Worker:
    """One process; started anew after a crash or a hang."""

    def __init__(self, how: Acceptance, memory: int) -> None:
        self.how = how
        self.memory = memory
        self.task: Mapping[str, Any] = {}
        self.started = 0.0
        self._start()

    def _start(self) -> None:
        here = str(Path(errors.__file__).parents[1])  # the package may be used from a checkout, from any folder
        paths = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": paths}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "meddap_monai.images.indexing.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        assert self.process.stdin and self.process.stdout
        self.answers: IO[bytes] = self.process.stdout
        self._send({"how": dataclasses.asdict(self.how), "memory": self.memory})

    def _send(self, message: Mapping[str, Any]) -> None:
        assert self.process.stdin
        with contextlib.suppress(BrokenPipeError):  # it died; `outcome` sees the end of its answers
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()

    def take(self, waiting: Iterator[Mapping[str, Any]]) -> bool:
        """Start the next task; False when there is none."""
        task = next(waiting, None)
        if task is None:
            return False
        self.task = task
        self.started = time.monotonic()
        self._send(task)
        return True

    def outcome(self, timeout: float) -> dict[str, Any]:
        """Read the answer, or say what happened to the process and replace it."""
        late = time.monotonic() - self.started > timeout
        line = b"" if late and not self._has_answer() else self.answers.readline()
        if line:
            answer: dict[str, Any] = json.loads(line)
            if "stop" in answer:
                raise getattr(errors, answer["stop"], errors.StageError)(answer["message"])
            return answer
        self.process.kill()
        code = self.process.wait()
        self.stop()
        self._start()
        reason = f"took longer than {timeout:g} s" if late else f"a decoder crashed on it (exit status {code})"
        return {"relative": self.task["relative"], "error": f"{reason}; the file was skipped"}

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
