"""What a study's configuration says: its sections, its variants, and what smoke scale limits."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from meddap_monai.classifier.train import ClassifyConfig
from meddap_monai.configuration import build, check_choice, check_keys
from meddap_monai.diffusion.pretrain import PretrainConfig
from meddap_monai.diffusion.sample import GenerateConfig
from meddap_monai.diffusion.train import AdaptConfig
from meddap_monai.errors import ConfigurationError
from meddap_monai.evaluation.stage import EvaluateConfig
from meddap_monai.images.index import IndexConfig
from meddap_monai.selection.cluster import ClusterConfig
from meddap_monai.selection.filter import SelectConfig
from meddap_monai.selection.mix import MixConfig
from meddap_monai.study.simulated import SimulatedConfig

ARMS: dict[str, tuple[str, dict[str, str]]] = {
    "real": ("real", {"augmentation": "none"}),
    "real_classical": ("real", {"augmentation": "classical"}),
    "real_synthetic": ("mixed", {"augmentation": "none"}),
    "real_synthetic_classical": ("mixed", {"augmentation": "classical"}),
    "duplicated": ("duplicated", {"augmentation": "none"}),
    "shuffled": ("shuffled", {"augmentation": "none"}),
    "hog": ("real", {"augmentation": "none", "network": "hog", "head": "logistic"}),
}
"""Arm -> (what `mix` puts in, what it changes in `classify`). `duplicated` and `shuffled` are controls, `hog` a sanity
arm: histograms of oriented gradients with logistic regression, which every network has to beat."""


@dataclass(frozen=True)
class DrawConfig:
    """The small-data drawing of one seed (``docs/contracts.md``, Experiments)."""

    train: int = 30
    """Images per class in train."""
    val: int = 10
    """Images per class in val."""


@dataclass(frozen=True)
class StudyConfig:
    """Everything a study needs; each stage's own keys are those of its configuration class."""

    index: IndexConfig
    unseen: IndexConfig | None = None
    draw: DrawConfig | None = field(default_factory=DrawConfig)
    """None: keep the splits of `index`."""
    seeds: tuple[int, ...] = (0, 1, 2)
    arms: tuple[str, ...] = tuple(ARMS)
    base: str = "embedded"
    cluster: ClusterConfig | None = None
    pretrain: PretrainConfig | None = None
    adapt: AdaptConfig | None = field(default_factory=AdaptConfig)
    generate: GenerateConfig = field(default_factory=GenerateConfig)
    select: SelectConfig = field(default_factory=SelectConfig)
    mix: MixConfig = field(default_factory=MixConfig)
    classify: ClassifyConfig = field(default_factory=ClassifyConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    variants: Mapping[str, dict] = field(default_factory=dict)
    """Name -> overrides by full id (``generate#ratio: 2``); what several variants share is computed once."""
    grid: Mapping[str, Any] = field(default_factory=dict)
    """Full id -> values, as a list or as name -> value; with `variants` they span the variants that are run."""
    combine: str = "product"
    """product: every value with every other; diagonal: as many variants as the longest list, each value at least once."""
    limits: Mapping[str, Any] = field(default_factory=dict)
    """Full id -> value, the last word over variants and grid, and only where the section is in use (smoke scale)."""
    simulated: SimulatedConfig = field(default_factory=SimulatedConfig)
    """What stands in for a data set whose source is ``simulated``."""

    def __post_init__(self) -> None:
        """Check what no single stage can."""
        if not self.seeds:
            raise ConfigurationError("study#seeds: got none, expected at least one seed")
        for arm in self.arms:
            check_choice(arm, ARMS, "study#arms")
        check_choice(self.combine, ("product", "diagonal"), "study#combine")


def read_study(sections: Mapping[str, Any]) -> tuple[StudyConfig, dict[str, StudyConfig]]:
    """Return the study and its variants, checked to the last nested key before any work starts.

    A study without variants and grid has the one variant ``""``.

    Raises:
        ConfigurationError: an unknown key (naming the nearest valid one) or a wrong value.
    """
    study = build(StudyConfig, limit(sections, sections), "study")
    variants = {}
    for name, overrides in expand(study).items():
        where = f"variants#{name}" if name else "study"
        variants[name] = build(StudyConfig, limit(override(sections, overrides, where), sections), where)
    return study, variants


def expand(study: StudyConfig) -> dict[str, dict[str, Any]]:
    """Return variant name -> overrides: `study.variants` and the axes of `study.grid`, combined.

    Raises:
        ConfigurationError: two variants whose names are equal as folder names, or an axis without values.
    """
    axes: list[dict[str, dict[str, Any]]] = [dict(study.variants)] if study.variants else []
    for identifier, values in study.grid.items():
        named = values if isinstance(values, Mapping) else {str(value): value for value in values}
        if not named:
            raise ConfigurationError(f"grid#{identifier}: got no values, expected at least one")
        axes.append({_folder_name(name): {identifier: value} for name, value in named.items()})
    if study.combine == "product":
        rows = list(itertools.product(*(axis.items() for axis in axes)))
    else:
        longest = max(map(len, axes), default=1)
        rows = [tuple(list(axis.items())[row % len(axis)] for axis in axes) for row in range(longest)]
    result = {"-".join(name for name, _ in row): {k: v for _, part in row for k, v in part.items()} for row in rows}
    if len(result) != len(rows):
        raise ConfigurationError(f"grid: {len(rows)} variants have only {len(result)} names; name the values")
    return result


def _folder_name(text: Any) -> str:
    return re.sub(r"[^A-Za-z0-9._]+", "_", str(text)).strip("._") or "none"


def limit(sections: Mapping[str, Any], source: Mapping[str, Any]) -> dict[str, Any]:
    """Return `sections` with the `limits` of `source` as the last word, leaving sections that are null alone."""
    result = dict(sections)
    for identifier, value in (source.get("limits") or {}).items():
        first = identifier.replace("::", "#").split("#")[0]
        if first not in result or result[first] is not None:
            result = override(result, {identifier: value}, "limits")
    return result


def override(sections: Mapping[str, Any], overrides: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return a copy of `sections` with values replaced by full id, e.g. ``{"generate#steps": 20}``."""
    result = copy.deepcopy(dict(sections))
    valid = [item.name for item in fields(StudyConfig)]
    for key, value in overrides.items():
        parts = key.replace("::", "#").split("#")
        check_keys(parts[:1], valid, where)
        level = result
        for part in parts[:-1]:
            if not isinstance(level.get(part), Mapping):
                level[part] = {}
            level = level[part]
        level[parts[-1]] = copy.deepcopy(value)
    return result
