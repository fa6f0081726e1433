"""One stage alone, as the commands and the bundles run it."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from meddap_monai.classifier.config import ClassifyConfig
from meddap_monai.classifier.stage import classify
from meddap_monai.core.configuration import build
from meddap_monai.core.ids import split_places
from meddap_monai.diffusion.adapting.config import AdaptConfig
from meddap_monai.diffusion.adapting.stage import adapt
from meddap_monai.diffusion.generation.config import GenerateConfig
from meddap_monai.diffusion.generation.stage import generate
from meddap_monai.diffusion.pretraining.config import PretrainConfig
from meddap_monai.diffusion.pretraining.stage import pretrain
from meddap_monai.errors import ConfigurationError
from meddap_monai.evaluation.config import EvaluateConfig
from meddap_monai.evaluation.predictions import ClassifierRun
from meddap_monai.evaluation.stage import evaluate
from meddap_monai.images.indexing.config import IndexConfig
from meddap_monai.images.indexing.stage import index
from meddap_monai.selection.clustering.config import ClusterConfig
from meddap_monai.selection.clustering.stage import cluster
from meddap_monai.selection.filtering.config import SelectConfig
from meddap_monai.selection.filtering.stage import select
from meddap_monai.selection.mixing.config import MixConfig
from meddap_monai.selection.mixing.stage import mix


def run_stage(
    stage: str, keys: Mapping[str, Any] | Any, output: Path, inputs: Mapping[str, Any], overwrite: bool = False
) -> Path:
    """Run one stage alone, as the commands and the bundles do.

    Args:
        stage: its name.
        keys: its configuration, as keys or as an instance of its class.
        output: its folder.
        inputs: its inputs as text: ``records``, ``base``, ``adapters``, ``generated``, ``kept``, ``runs``, ``unseen``.
        overwrite: see `run_study`.
    """
    function, cls = _STAGES[stage]
    arguments: dict[str, Any] = {}
    for name, value in inputs.items():
        if name == "runs":
            arguments[name] = [_run(text) for text in value]
        elif name == "adapters":
            arguments[name] = [Path(item) for item in value]
        else:
            arguments[name] = value if name == "base" else Path(value)
    result: Path = function(build(cls, keys, stage), output, overwrite=overwrite, **arguments)
    return result


def _run(text: str) -> ClassifierRun:
    arm, _, rest = text.partition(":")
    seed, _, places = rest.partition(":")
    paths = split_places(places, (2,))
    if not seed.isdigit() or len(paths) != 2 or not all(paths):
        raise ConfigurationError(f"runs: got {text!r}, expected ARM:SEED:MODEL_FOLDER:RECORDS_FILE")
    if not re.fullmatch(r"[\w@.+-]+", arm) or set(arm) == {"."}:
        raise ConfigurationError(f"runs: got the arm {arm!r}, expected letters, digits and any of _ @ . + -")
    return ClassifierRun(arm=arm, seed=int(seed), model=Path(paths[0]), records=Path(paths[1]))


_STAGES: dict[str, tuple[Callable[..., Path], type]] = {
    "index": (index, IndexConfig),
    "cluster": (cluster, ClusterConfig),
    "pretrain": (pretrain, PretrainConfig),
    "adapt": (adapt, AdaptConfig),
    "generate": (generate, GenerateConfig),
    "select": (select, SelectConfig),
    "mix": (mix, MixConfig),
    "classify": (classify, ClassifyConfig),
    "evaluate": (evaluate, EvaluateConfig),
}
