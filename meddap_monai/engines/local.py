"""The engine of one machine: units in this process, or in worker processes beside it."""

import contextlib
import json
from collections.abc import Iterable, Iterator
from typing import Any

from meddap_monai.engines.backlog import Backlog
from meddap_monai.engines.config import EngineConfig
from meddap_monai.engines.processes import Processes
from meddap_monai.engines.task import Check, Work, never, open_task


class LocalEngine:
    """Units on this machine; with one worker, in this process."""

    def __init__(self, config: EngineConfig) -> None:
        self.config = config

    @property
    def in_process(self) -> bool:
        """Whether units are worked on in this process."""
        return self.config.workers <= 1

    def map(
        self,
        task: str,
        items: Iterable[Any],
        settings: Any,
        *,
        gpus: bool | None = False,  # noqa: ARG002 - they are all here
        check: Check = never,
        twice: bool = False,  # noqa: ARG002 - one machine has no slow one
        here: Work | None = None,
    ) -> Iterator[tuple[int, Any]]:
        """Yield (place of the item, outcome) as they are ready; see `Engine`."""
        if self.in_process:
            opened = contextlib.nullcontext(here) if here else open_task(task, settings, check)
            with opened as work:
                for number, item in enumerate(items):
                    check()
                    yield number, json.loads(json.dumps(work(json.loads(json.dumps(item)))))
            return
        backlog = Backlog(items, self.config.attempts)
        team = Processes(task, settings, self.config.workers, cpus=self.config.cpus)
        for unit, line, trouble in team.run(backlog.take, check):
            if trouble:
                backlog.lose(unit, trouble)
            else:
                yield from backlog.settle(unit, line)

    def close(self) -> None:
        """Nothing stays open."""
