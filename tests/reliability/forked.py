"""Run a piece of work in a forked process: fast, because torch is loaded already, and safe to kill."""

import multiprocessing
import os
import signal
import socket
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


def run_pair(work: Callable[[], object], folder: Path) -> list[int]:
    """Run `work` in two processes that know of each other as under `torchrun`; return their exit codes.

    What they raise stands in ``log0`` and ``log1`` of the folder, see `read_logs`.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "GLOO_SOCKET_IFNAME": "lo"}
    pair = [start(work, folder / f"log{rank}", RANK=str(rank), LOCAL_RANK=str(rank), **common) for rank in range(2)]
    return [finish(process) for process in pair]


def read_logs(folder: Path) -> list[str]:
    """Return what each of the two raised; empty for one that ended well."""
    return [path.read_text() if (path := folder / f"log{rank}").exists() else "" for rank in range(2)]


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
