"""A study's sections: the study bundle's configuration, overlays over it, then ``ID=VALUE`` pairs."""

from collections.abc import Sequence
from pathlib import Path

from meddap_monai.core.configuration import field_types
from meddap_monai.core.ids import read_pairs, split
from meddap_monai.core.resources import find
from meddap_monai.errors import ConfigurationError
from meddap_monai.store import STAGES
from meddap_monai.study.config import StudyConfig
from meddap_monai.study.overlays import study_sections

_STUDY = "bundles/meddap_study/configs/train.yaml"


def load_sections(
    overlays: Sequence[str | Path], overrides: Sequence[str] = (), stage: str | None = None, trust: bool = False
) -> dict:
    """Return the study's sections: the study bundle's configuration, overlays over it, then ``ID=VALUE`` pairs.

    Args:
        overlays: YAML files (or names of files in ``configs/``) whose keys are full ids.
        overrides: ``ID=VALUE`` texts, read as `meddap_monai.core.ids.read_pairs` does.
        stage: the stage whose keys may be given without its name.
        trust: let MONAI run code in both, instead of refusing it.

    Raises:
        ConfigurationError: a file is missing, a key or id is unknown (the nearest valid one is named), code, or an
            override of another stage than `stage`.
    """
    pairs = read_pairs(overrides, field_types(StudyConfig), stage, (*STAGES, "seeds", "base", "engine"))
    foreign = next((key for key in pairs if stage is not None and split(key)[0] not in (stage, "engine")), None)
    if foreign is not None:
        raise ConfigurationError(
            f"command line: {foreign}: is no key of {stage}, which runs alone here; leave it out"
            + (", or give --base" if foreign == "base" else "")
        )
    return study_sections([find(_STUDY), *map(_overlay, overlays)], pairs, trust)


def _overlay(name: str | Path) -> Path:
    path = Path(name)
    if path.is_file():
        return path
    if path.parent != Path(".") and path.parent != Path("configs"):
        raise ConfigurationError(f"{path}: no such file; give a YAML file or a name from configs/, such as smoke.yaml")
    return find(f"configs/{path.name if path.suffix else path.name + '.yaml'}")
