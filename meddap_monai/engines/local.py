"""The engine of one machine: units in this process, or in worker processes beside it."""

from collections.abc import Generator
from typing import Any

from meddap_monai.engines.backlog import Backlog
from meddap_monai.engines.processes import Processes
from meddap_monai.engines.protocol import Answer, Engine
from meddap_monai.engines.task import Check


class LocalEngine(Engine):
    """Units on this machine; with one worker, in this process."""

    @property
    def in_process(self) -> bool:
        """Whether units are worked on in this process."""
        return self.config.workers <= 1

    def _answers(
        self,
        backlog: Backlog,
        task: str,
        settings: Any,
        gpus: bool | None,  # noqa: ARG002 - they are all here
        check: Check,
    ) -> Generator[Answer, None, None]:
        yield from Processes(task, settings, self.config.workers, cpus=self.config.cpus).run(backlog.take, check)
