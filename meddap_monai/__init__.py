"""Make small ultrasound data sets big enough to train classifiers that hold on machines they have never seen.

Public names are loaded when first used, so that ``import meddap_monai`` stays cheap. Every stage is a function with a
configuration: ``from meddap_monai import IndexConfig, index``. All stages in one go are ``run_study``, because a
function called ``study`` would hide the folder ``meddap_monai.study``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for editors and type checkers; nothing of it is loaded
    from meddap_monai.classifier.config import ClassifyConfig as ClassifyConfig
    from meddap_monai.classifier.stage import classify as classify
    from meddap_monai.core.records import read_records as read_records
    from meddap_monai.core.records import write_records as write_records
    from meddap_monai.core.seeded import SeededDataset as SeededDataset
    from meddap_monai.diffusion.adapters.adapter import load_adapter as load_adapter
    from meddap_monai.diffusion.adapting.config import AdaptConfig as AdaptConfig
    from meddap_monai.diffusion.adapting.stage import adapt as adapt
    from meddap_monai.diffusion.bases.base import load_base as load_base
    from meddap_monai.diffusion.generation.config import GenerateConfig as GenerateConfig
    from meddap_monai.diffusion.generation.stage import generate as generate
    from meddap_monai.diffusion.pretraining.config import PretrainConfig as PretrainConfig
    from meddap_monai.diffusion.pretraining.stage import pretrain as pretrain
    from meddap_monai.evaluation.config import EvaluateConfig as EvaluateConfig
    from meddap_monai.evaluation.stage import evaluate as evaluate
    from meddap_monai.images.indexing.config import IndexConfig as IndexConfig
    from meddap_monai.images.indexing.stage import index as index
    from meddap_monai.images.reading.dicom import read_ultrasound as read_ultrasound
    from meddap_monai.images.reading.reader import UltrasoundReader as UltrasoundReader
    from meddap_monai.images.writing.write import export_dicom as export_dicom
    from meddap_monai.images.writing.writer import SyntheticDicomWriter as SyntheticDicomWriter
    from meddap_monai.selection.clustering.config import ClusterConfig as ClusterConfig
    from meddap_monai.selection.clustering.stage import cluster as cluster
    from meddap_monai.selection.filtering.config import SelectConfig as SelectConfig
    from meddap_monai.selection.filtering.stage import select as select
    from meddap_monai.selection.mixing.config import MixConfig as MixConfig
    from meddap_monai.selection.mixing.stage import mix as mix
    from meddap_monai.study.config import StudyConfig as StudyConfig
    from meddap_monai.study.run import run_study as run_study
    from meddap_monai.transforms.diffusion import RandDiffusionAugment as RandDiffusionAugment
    from meddap_monai.transforms.diffusion import RandDiffusionAugmentd as RandDiffusionAugmentd
    from meddap_monai.transforms.ultrasound import CropToUltrasoundRegion as CropToUltrasoundRegion
    from meddap_monai.transforms.ultrasound import CropToUltrasoundRegiond as CropToUltrasoundRegiond
    from meddap_monai.transforms.ultrasound import LoadUltrasound as LoadUltrasound
    from meddap_monai.transforms.ultrasound import LoadUltrasoundd as LoadUltrasoundd
    from meddap_monai.transforms.ultrasound import MaskBurnedIn as MaskBurnedIn
    from meddap_monai.transforms.ultrasound import MaskBurnedInd as MaskBurnedInd

__version__ = "0.1.0"  # the one place; pyproject.toml reads it, a release is tagged v0.1.0

_STAGES = {
    "index": "images.indexing",
    "cluster": "selection.clustering",
    "pretrain": "diffusion.pretraining",
    "adapt": "diffusion.adapting",
    "generate": "diffusion.generation",
    "select": "selection.filtering",
    "mix": "selection.mixing",
    "classify": "classifier",
    "evaluate": "evaluation",
}
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
    "StudyConfig": "study.config",
    "run_study": "study.run",
}
_PUBLIC |= {stage: f"{folder}.stage" for stage, folder in _STAGES.items()}
_PUBLIC |= {f"{stage.capitalize()}Config": f"{folder}.config" for stage, folder in _STAGES.items()}
__all__ = ["__version__", *sorted(_PUBLIC)]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use (PEP 562)."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
