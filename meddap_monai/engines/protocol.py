"""What all engines share: units in, outcomes out; where they are worked on is what they differ in."""

import contextlib
import json
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator
from typing import Any, ClassVar

from meddap_monai.engines.backlog import Backlog, Unit
from meddap_monai.engines.config import EngineConfig
from meddap_monai.engines.task import Check, Work, never, open_task

Answer = tuple[Unit, str | bytes, str]
"""A unit, and its answer (see `task.outcome_of`) or what happened to its worker."""


class Engine(ABC):
    """Works on independent units, each known by its number.

    Args:
        config: see `EngineConfig`.
    """

    repeats: ClassVar[bool] = False
    """Whether its workers can be so unlike that a slow unit is worth a second one."""

    def __init__(self, config: EngineConfig) -> None:
        self.config = config

    @property
    def in_process(self) -> bool:
        """Whether units are worked on in this process, one after the other."""
        return False

    def map(
        self,
        task: str,
        items: Iterable[Any],
        settings: Any,
        *,
        gpus: bool | None = False,
        check: Check = never,
        twice: bool = False,
        here: Work | None = None,
    ) -> Iterator[tuple[int, Any]]:
        """Yield (place of the item, outcome) in the order in which they are ready.

        A unit whose worker is lost is tried again (`EngineConfig.attempts`); an error that a unit raises ends the map.

        Args:
            task: name of what a worker opens once; see `meddap_monai.engines.task`.
            items: what JSON holds; taken one by one, as workers are free.
            settings: what the task is opened with.
            gpus: whether workers need GPUs; None: where there are any.
            check: raises where the work has to stop; asked about each second.
            twice: the last units may be worked on by two workers; the first outcome counts.
            here: the task, opened already, for an engine that works in this process.
        """
        if self.in_process:
            with contextlib.nullcontext(here) if here else open_task(task, settings, check) as work:
                for number, item in enumerate(items):
                    check()
                    yield number, json.loads(json.dumps(work(json.loads(json.dumps(item)))))
            return
        backlog = Backlog(items, self.config.attempts, twice and self.repeats)
        with contextlib.closing(self._answers(backlog, task, settings, gpus, check)) as answers:
            for unit, line, trouble in answers:
                if trouble:
                    backlog.lose(unit, trouble)
                else:
                    yield from backlog.settle(unit, line)

    @abstractmethod
    def _answers(
        self, backlog: Backlog, task: str, settings: Any, gpus: bool | None, check: Check
    ) -> Generator[Answer, None, None]:
        """Yield the answers of the units that `backlog` hands out, as they are ready, until it is empty."""

    def close(self) -> None:  # noqa: B027 - most hold nothing
        """Give back what the engine holds."""
