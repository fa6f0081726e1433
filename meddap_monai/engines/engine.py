"""The engines by name, and the one in use."""

import contextlib
import os
from collections.abc import Iterator
from contextvars import ContextVar

from meddap_monai.engines.config import EngineConfig
from meddap_monai.engines.local import LocalEngine
from meddap_monai.engines.on_ray import RayEngine
from meddap_monai.engines.on_slurm import SubmititEngine
from meddap_monai.engines.protocol import Engine
from meddap_monai.errors import ConfigurationError

ENGINES: dict[str, type[Engine]] = {
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
