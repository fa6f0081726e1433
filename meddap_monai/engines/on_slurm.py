"""The engine of SLURM: array tasks by submitit, which are requeued and go on.

submitit itself stores its jobs with pickle, in the folder ``.submitit`` below the working directory, readable by the
owner only; this package gives it names of tasks and lines of JSON. Whoever can write there can run code.
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

from meddap_monai.core.extras import install
from meddap_monai.engines.backlog import Backlog, Unit
from meddap_monai.engines.config import EngineConfig
from meddap_monai.engines.protocol import Answer, Engine
from meddap_monai.engines.task import Check, answering, head_of
from meddap_monai.errors import ConfigurationError, MissingPackage

_AT_ONCE = 100
_MOST = 1000
"""Array tasks of one array: SLURM's own limit (MaxArraySize) is 1001 where nobody has raised it."""
_LOOK = 0.5


class UnitRun:
    """One unit as submitit's jobs take it; one that is requeued begins the unit again, which goes on from its files."""

    def __call__(self, head: str, item: str) -> str:
        """Return the answer of a unit."""
        with answering(head) as answer:
            return answer(item)

    def checkpoint(self, *arguments: Any) -> Any:
        """Return what submitit requeues when the time is over or the machine is taken away."""
        import submitit

        return submitit.helpers.DelayedSubmission(self, *arguments)


class SubmititEngine(Engine):
    """Units as array tasks, one each; those that wait in the queue are not slow ones."""

    def __init__(self, config: EngineConfig) -> None:
        super().__init__(config)
        try:
            import submitit
        except ImportError as error:
            raise MissingPackage(f"engine#name is submitit, which is not installed; {install('slurm')}") from error
        self._submitit: Any = submitit

    def _executor(self, gpus: bool | None) -> Any:
        folder = Path(".submitit")
        folder.mkdir(mode=0o700, exist_ok=True)
        os.chmod(folder, 0o700)
        config = self.config
        try:
            executor = self._submitit.AutoExecutor(folder=folder / "%j", cluster=config.cluster)
        except RuntimeError as error:  # no srun
            raise ConfigurationError(
                f"engine#cluster is {config.cluster}, which is not here ({error}); start the command on a node of the "
                "cluster, or set engine#cluster=local"
            ) from error
        asked: dict[str, Any] = {"cpus_per_task": config.cpus, "timeout_min": config.minutes, "name": "meddap"}
        asked |= {"mem_gb": config.memory / 1000} if config.memory else {}
        asked |= {"gpus_per_node": max(1, round(config.gpus))} if gpus else {}
        if config.cluster == "slurm":
            asked |= {"slurm_array_parallelism": config.workers or _AT_ONCE}
        try:
            executor.update_parameters(**asked | dict(config.slurm))
        except (NameError, TypeError) as error:
            raise ConfigurationError(
                f"engine#slurm: {error}; expected parameters of submitit's AutoExecutor"
            ) from error
        return executor

    def _answers(
        self, backlog: Backlog, task: str, settings: Any, gpus: bool | None, check: Check
    ) -> Generator[Answer, None, None]:
        executor = self._executor(gpus)
        most = self.config.workers if self.config.cluster == "local" and self.config.workers else _MOST
        head = head_of(task, settings, self.config.cpus)
        jobs: dict[Any, Unit] = {}
        try:
            while self._submit(executor, backlog, head, jobs, most) or jobs:
                check()
                for job in [job for job in jobs if job.done()]:
                    unit = jobs.pop(job)
                    error = job.exception()
                    if error is None:
                        yield unit, job.result(), ""
                    else:
                        yield unit, "", f"ended without an answer ({type(error).__name__}, job {job.job_id})"
                time.sleep(_LOOK if jobs else 0)
        finally:
            for job in jobs:
                job.cancel()

    def _submit(self, executor: Any, backlog: Backlog, head: str, jobs: dict[Any, Unit], most: int) -> bool:
        """Submit an array of what waits, once half of the last one is done; return whether there was something."""
        if len(jobs) > most // 2:
            return False
        units: list[Unit] = []
        while len(units) + len(jobs) < most and (unit := backlog.take()) is not None:
            units.append(unit)
        if units:
            made = executor.map_array(UnitRun(), [head] * len(units), [unit.item for unit in units])
            jobs.update(zip(made, units, strict=True))
        return bool(units)
