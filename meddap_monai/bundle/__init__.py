"""What the MONAI bundles need beside their YAML: checked overrides, a process's GPU.

MONAI accepts a misspelled override in silence, which costs a researcher days; so it is an error here.
"""

import importlib
from typing import Any

_PUBLIC = {
    "CheckedWorkflow": "bundle.overrides",
    "check_overrides": "bundle.overrides",
    "output_root": "bundle.places",
    "take_gpu": "core.devices",
    "trained_base": "bundle.places",
}
__all__ = sorted(_PUBLIC)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use (PEP 562); `known_ids` needs none of them."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"meddap_monai.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
