"""The one protocol of all engines, and the engine in use."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any, Protocol

from meddap_monai.engines.config import EngineConfig
from meddap_monai.engines.local import LocalEngine
from meddap_monai.engines.on_ray import RayEngine
from meddap_monai.engines.on_slurm import SubmititEngine
from meddap_monai.engines.task import Check, Work, never
from meddap_monai.errors import ConfigurationError


class Engine(Protocol):
    """Works on independent units, each known by its number."""

    @property
    def in_process(self) -> bool:
        """Whether units are worked on in this process, one after the other."""

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

    def close(self) -> None:
        """Give back what the engine holds."""


ENGINES: dict[str, Callable[[EngineConfig], Engine]] = {
    "local": LocalEngine,
    "ray": RayEngine,
    "submitit": SubmititEngine,
}
"""Value of ``engine#name`` -> engine."""

_CURRENT: ContextVar[Engine | None] = ContextVar("engine", default=None)


def current_engine() -> Engine:
    """Return the engine in use; this process where none was chosen."""
    return _CURRENT.get() or LocalEngine(EngineConfig())


@contextlib.contextmanager
def use_engine(config: EngineConfig) -> Iterator[Engine]:
    """Let the stages inside hand their units to an engine; one that is in use already stays for the default.

    Raises:
        ConfigurationError: an engine under ``torchrun``, whose processes divide the work already.
        MissingPackage: the engine's package is not installed; the message names what to install.
    """
    if config == EngineConfig() and _CURRENT.get() is not None:
        yield current_engine()
        return
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched > 1 and config != EngineConfig():
        raise ConfigurationError(
            f"engine#name is {config.name}, but torchrun has started {launched} processes, which divide the work among "
            "themselves; leave one of the two out"
        )
    engine = ENGINES[config.name](config)
    token = _CURRENT.set(engine)
    try:
        yield engine
    finally:
        _CURRENT.reset(token)
        engine.close()


def needs_gpus(device: str) -> bool | None:
    """Return what `Engine.map` is told for a stage's setting `device`."""
    return None if device == "auto" else device.startswith("cuda")
