"""MONAI transforms of this package, array and dictionary versions; each module is loaded when first used."""

import importlib
from typing import Any

_ARRAY = {
    "LoadUltrasound": "ultrasound",
    "CropToUltrasoundRegion": "ultrasound",
    "MaskBurnedIn": "ultrasound",
    "RandSpeckle": "physics",
    "RandTimeGain": "physics",
    "RandAcousticShadow": "physics",
    "RandHaze": "physics",
    "RandUltrasoundAugment": "policy",
    "RandDynamicRange": "policy",
    "RandConvexProbe": "policy",
    "RandMarks": "policy",
    "RandDiffusionAugment": "diffusion",
    "RandDiffusionSamples": "diffusion",
}
_PHYSICS = [name for name, module in _ARRAY.items() if module in ("physics", "policy")]
_DICTIONARY = _ARRAY | dict.fromkeys(_PHYSICS, "physics_dictionary")
_PUBLIC = _ARRAY | {name + ending: module for name, module in _DICTIONARY.items() for ending in ("d", "D", "Dict")}
_PUBLIC |= {"DiffusionPrepareBatch": "online", "OnlineGenerator": "online"}
__all__ = sorted(_PUBLIC)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    """Import a transform from its module on first use (PEP 562)."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
