"""Make small ultrasound data sets big enough to train classifiers that hold on machines they have never seen.

Public names are loaded when first used, so that ``import meddap_monai`` stays cheap.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "LoadUltrasound": "transforms",
    "LoadUltrasoundd": "transforms",
    "CropToUltrasoundRegion": "transforms",
    "CropToUltrasoundRegiond": "transforms",
    "MaskBurnedIn": "transforms",
    "MaskBurnedInd": "transforms",
    "RandDiffusionAugment": "transforms",
    "RandDiffusionAugmentd": "transforms",
    "UltrasoundReader": "images.reading.reader",
    "SyntheticDicomWriter": "images.writing.writer",
    "read_ultrasound": "images.reading.dicom",
    "export_dicom": "images.writing.write",
    "SeededDataset": "core.seeded",
    "read_records": "core.records",
    "write_records": "core.records",
    "load_base": "diffusion.bases.base",
    "load_adapter": "diffusion.adapters.adapter",
    "run_study": "study",
}
__all__ = ["__version__", *sorted(_PUBLIC)]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use (PEP 562)."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
