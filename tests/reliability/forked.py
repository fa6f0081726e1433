"""Run a piece of work in a forked process: fast, because torch is loaded already, and safe to kill."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

FORK = multiprocessing.get_context("fork")


def start(work: Callable[[], object], log: Path, **environment: str) -> multiprocessing.Process:
    """Start `work` in a process of its own; what it raises stands in `log`, exit code 3."""

    def run() -> None:
        os.environ.update(environment)
        tqdm.set_lock(threading.RLock())  # the inherited one is shared with the parent: killed inside, it stays taken
        try:
            work()
        except BaseException:
            log.write_text(traceback.format_exc())
            os._exit(3)
        os._exit(0)

    process = FORK.Process(target=run, daemon=True)
    process.start()
    return process


def kill_when(process: multiprocessing.Process, condition: Callable[[], bool], number: int = signal.SIGKILL) -> bool:
    """Send a signal once `condition` holds; False when the process ended before."""
    while process.is_alive():
        if condition():
            os.kill(process.pid, number)
            return True
        time.sleep(0.002)
    return False


def finish(process: multiprocessing.Process, seconds: float = 120) -> int:
    """Wait for the end of a process; return its exit code, -9 after a kill."""
    process.join(seconds)
    assert process.exitcode is not None, f"the process still runs after {seconds} s"
    return process.exitcode
