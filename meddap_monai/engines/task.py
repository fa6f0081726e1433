"""What a worker of any engine does: open a task once by its name, then answer units; all of it plain JSON.

A task is a function ``open(settings, check)`` that returns a context manager over ``work(item) -> outcome``. It is
named ``"package.module:open"``, so that no engine sends code. Settings, items and outcomes are what JSON holds;
`check` raises where the work has to stop.
"""

import contextlib
import importlib
import json
import os
import resource
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from meddap_monai import errors

Check = Callable[[], None]
Work = Callable[[Any], Any]


def never() -> None:
    """Stop nothing."""


@contextlib.contextmanager
def open_task(name: str, settings: Any, check: Check = never) -> Iterator[Work]:
    """Open the task of that name."""
    module, _, function = name.partition(":")
    with getattr(importlib.import_module(module), function)(settings, check) as work:
        yield work


def head_of(task: str, settings: Any, cpus: int, memory: int = 0) -> str:
    """Return all that a worker is told before its first unit, as one line of JSON.

    Args:
        task: its name.
        settings: its settings.
        cpus: threads of the worker.
        memory: MB that a unit may take beyond what the open task has; 0 sets no limit.
    """
    folder = os.getcwd()  # what relative paths are relative to
    return json.dumps({"task": task, "settings": settings, "cpus": cpus, "memory": memory, "folder": folder})


def _limit_threads(cpus: int) -> None:
    """Let this process calculate with so many threads."""
    os.environ |= {name: str(cpus) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(cpus)


def _limit_memory(megabytes: int) -> None:
    """Let this process take so much address space beyond what it has; more is a ``MemoryError``, or ends a codec.

    Systems that do not tell their address space (no ``/proc``) or cannot limit it are left as they are.
    """
    with contextlib.suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        most = pages * resource.getpagesize() + megabytes * 10**6
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


@contextlib.contextmanager
def answering(head: str) -> Iterator[Callable[[str], str]]:
    """Yield what turns a unit into its answer, both one line of JSON; the task is opened for the first unit.

    Args:
        head: see `head_of`.
    """
    given = json.loads(head)
    _limit_threads(given["cpus"])
    with contextlib.ExitStack() as stack:
        work: Work | None = None

        def answer(item: str) -> str:
            nonlocal work
            try:
                if work is None:
                    os.chdir(given["folder"])
                    work = stack.enter_context(open_task(given["task"], given["settings"]))
                    if given["memory"]:
                        _limit_memory(given["memory"])
                return json.dumps({"outcome": work(json.loads(item))})
            except Exception as error:
                named = isinstance(error, errors.MeddapError)
                text = str(error) if named else f"{type(error).__name__}: {error}"
                kind = type(error).__name__ if named else "StageError"
                return json.dumps({"stop": kind, "message": text, "trace": "" if named else traceback.format_exc()})

        yield answer


def outcome_of(line: str | bytes) -> Any:
    """Return the outcome that a line of `answering` holds.

    Raises:
        MeddapError: what the unit raised, under its own name; errors without a name are a `StageError`.
    """
    found = json.loads(line)
    if "stop" not in found:
        return found["outcome"]
    error = getattr(errors, found["stop"], errors.StageError)(found["message"])
    if found.get("trace"):
        error.add_note(found["trace"])
    raise error
