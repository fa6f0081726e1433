"""Files read in worker processes with a deadline and a memory limit: a crash, a hang or a bomb costs one file."""

import contextlib
import dataclasses
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from meddap_monai.engines.backlog import Backlog
from meddap_monai.engines.engine import current_engine
from meddap_monai.engines.processes import Processes
from meddap_monai.engines.task import Check, Work, never, outcome_of
from meddap_monai.images.indexing.accept import Acceptance, accept

TOGETHER = 64
"""Files of one unit of an engine."""
_FILE, _FILES = (f"meddap_monai.images.indexing.worker_pool:{name}" for name in ("open_file", "open_files"))


def accept_all(
    tasks: Iterable[Mapping[str, Any]], how: Acceptance, workers: int, timeout: float, memory: int, check: Check = never
) -> Iterator[dict[str, Any]]:
    """Yield one outcome per task, in the order in which they are ready.

    Args:
        tasks: what `accept` takes.
        how: settings.
        workers: processes; 0 works in this process, without protection.
        timeout: seconds per file.
        memory: MB per file.
        check: raises where the work has to stop.
    """
    if workers == 0:
        for task in tasks:
            check()
            yield accept(task, how)
        return
    backlog = Backlog(tasks)
    team = Processes(_FILE, dataclasses.asdict(how), workers, timeout, memory)
    for unit, line, trouble in team.run(backlog.take, check):
        backlog.finish(unit)
        if trouble:
            relative = json.loads(unit.item)["relative"]
            yield {"relative": relative, "error": f"a decoder {trouble}; the file was skipped"}
        else:
            yield outcome_of(line)


def accept_everywhere(
    tasks: Iterable[Mapping[str, Any]], how: Acceptance, workers: int, timeout: float, memory: int, check: Check = never
) -> Iterator[dict[str, Any]]:
    """Yield what `accept_all` does, by the engine in use: its units are files by the dozen, guarded where they lie."""
    engine = current_engine()
    if engine.in_process:
        yield from accept_all(tasks, how, workers, timeout, memory, check)
        return
    given = {"how": dataclasses.asdict(how), "workers": workers, "timeout": timeout, "memory": memory}
    coming = iter(tasks)
    units = iter(lambda: list(itertools.islice(coming, TOGETHER)), [])
    for _, found in engine.map(_FILES, units, given, check=check, twice=True):
        yield from found


@contextlib.contextmanager
def open_file(how: Mapping[str, Any], _check: Check) -> Iterator[Work]:
    """Open what reads one file."""
    settings = Acceptance(**how)
    yield lambda task: accept(task, settings)


@contextlib.contextmanager
def open_files(given: Mapping[str, Any], check: Check) -> Iterator[Callable[[Any], Any]]:
    """Open what reads a list of files, each guarded."""
    settings = dict(given) | {"how": Acceptance(**given["how"])}
    yield lambda tasks: list(accept_all(tasks, **settings, check=check))
