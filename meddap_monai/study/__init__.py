"""The only room that knows all stages: a folder of ultrasound in, a judged classifier out.

One draw of the small data set per seed; per draw an adapter, generated images, the filter, the mixtures and one
classifier per arm; at the end one evaluation over all seeds on the own test set and on the unseen set. Every stage has
its own folder and decides itself whether it is done, so a killed study goes on where it stopped.
"""

import importlib
from typing import Any

_PUBLIC = {
    "DrawConfig": "config",
    "StudyConfig": "config",
    "draw": "seed",
    "override": "config",
    "read_study": "config",
    "run_stage": "stages",
    "run_study": "run",
}
__all__ = sorted(_PUBLIC)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use (PEP 562): keys are checked before a stage is loaded."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
