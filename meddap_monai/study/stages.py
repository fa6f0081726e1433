"""One stage alone, as the commands and the bundles run it."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import meddap_monai
from meddap_monai import store
from meddap_monai.core.configuration import build
from meddap_monai.core.ids import split_places
from meddap_monai.errors import ConfigurationError
from meddap_monai.study.config import config_of

if TYPE_CHECKING:
    from meddap_monai.evaluation.predictions import ClassifierRun


_TEXTS = ("base", "adapters", "runs")
"""Inputs that are no single file."""


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

    Raises:
        StageError, BadBase: an input is missing; the stage and its libraries were not even loaded.
    """
    config = build(config_of(stage), keys, stage)
    arguments: dict[str, Any] = {name: value if name in _TEXTS else Path(value) for name, value in inputs.items()}
    store.check_inputs(stage, arguments)
    if "base" in inputs:
        from meddap_monai.diffusion.bases.base import open_base

        arguments["base"] = open_base(inputs["base"])
    if "adapters" in inputs:
        arguments["adapters"] = [Path(item) for item in inputs["adapters"]]
    if "runs" in inputs:
        arguments["runs"] = [_run(text) for text in inputs["runs"]]
    result: Path = getattr(meddap_monai, stage)(config, output, overwrite=overwrite, **arguments)
    return result


def _run(text: str) -> "ClassifierRun":
    from meddap_monai.evaluation.predictions import ClassifierRun

    arm, _, rest = text.partition(":")
    seed, _, places = rest.partition(":")
    paths = split_places(places, (2,))
    if not seed.isdigit() or len(paths) != 2 or not all(paths):
        raise ConfigurationError(f"runs: got {text!r}, expected ARM:SEED:MODEL_FOLDER:RECORDS_FILE")
    if not re.fullmatch(r"[\w@.+-]+", arm) or set(arm) == {"."}:
        raise ConfigurationError(f"runs: got the arm {arm!r}, expected letters, digits and any of _ @ . + -")
    return ClassifierRun(arm=arm, seed=int(seed), model=Path(paths[0]), records=Path(paths[1]))
