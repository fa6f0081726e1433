"""Where units of work run, and what one worker of them is given: the section `engine`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from meddap_monai.core.constraints import Choice, Range, settings

NAMES = ("local", "ray", "submitit")


@dataclass(frozen=True)
@settings("engine")
class EngineConfig:
    """Where shards, files, folds, cells and seeds are worked on; results do not depend on it.

    Attributes:
        name: ``local`` (this machine), ``ray`` (a cluster, or this machine) or ``submitit`` (array tasks of SLURM).
        workers: units at work at a time; 0: local 1, ray what the cluster holds, submitit 100.
        cpus: CPUs and threads of one worker. Results on CPUs depend on the number of threads, wherever they are made.
        gpus: GPUs of one worker of a stage that runs on GPUs; 0.5 lets two workers share one.
        memory: MB of one worker that are set aside for it; 0 asks for none.
        attempts: workers that a unit may lose, by a crash or with its machine, before the run ends.
        dashboard: start Ray's dashboard.
        cluster: of submitit: ``slurm``, or ``local`` for processes of this machine.
        minutes: that an array task of submitit may take; a requeued one goes on.
        slurm: further parameters of submitit, such as ``{slurm_partition: gpu}``.
    """

    name: Annotated[str, Choice(NAMES)] = "local"
    workers: Annotated[int, Range(0, 100_000)] = 0
    cpus: Annotated[int, Range(1, 1024)] = 1
    gpus: Annotated[float, Range(0.01, 64)] = 1.0
    memory: Annotated[int, Range(0, 10_000_000)] = 0
    attempts: Annotated[int, Range(1, 100)] = 3
    dashboard: bool = False
    cluster: Annotated[str, Choice(("slurm", "local"))] = "slurm"
    minutes: Annotated[int, Range(1, 100_000)] = 1440
    slurm: Mapping[str, Any] = field(default_factory=dict)
