"""What a study's configuration says: its sections, its variants, and what smoke scale limits."""

import copy
import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from meddap_monai.classifier.config import ClassifyConfig
from meddap_monai.core.configuration import build, check_keys, check_mapping, field_types, is_empty, options
from meddap_monai.core.constraints import Choice, Count, Range, here, settings
from meddap_monai.core.ids import look_up, set_value, split, type_of
from meddap_monai.diffusion.adapting.config import AdaptConfig
from meddap_monai.diffusion.generation.config import GenerateConfig
from meddap_monai.diffusion.pretraining.config import PretrainConfig
from meddap_monai.encoders.places import without_place
from meddap_monai.engines.config import EngineConfig
from meddap_monai.errors import ConfigurationError
from meddap_monai.evaluation.arms import TRAINED_ARMS, USUAL
from meddap_monai.evaluation.config import EvaluateConfig
from meddap_monai.images.indexing.config import IndexConfig
from meddap_monai.selection.clustering.config import ClusterConfig
from meddap_monai.selection.filtering.config import SelectConfig
from meddap_monai.selection.mixing.config import MixConfig

SIMULATED = "simulated"


@dataclass(frozen=True)
@settings("simulated")
class SimulatedConfig:
    """How many simulated images stand in for a data set whose source is ``simulated``."""

    patients_per_class: Annotated[int, Range(1, 10_000)] = 12
    """Simulated patients of each class."""
    images_per_patient: Annotated[int, Range(1, 100)] = 2
    """Images of each of them."""
    colour: bool = False
    """Colour PNG files (a fixed palette over the simulated echo) instead of grey DICOM files."""


@dataclass(frozen=True)
class DrawConfig:
    """The small-data drawing of one seed (``docs/contracts.md``, Experiments)."""

    train: int = 30
    """Images per class in train."""
    val: int = 10
    """Images per class in val."""


@dataclass(frozen=True)
class UnseenConfig(IndexConfig):
    """The unseen set: an index, and what becomes of images in it that something has trained on."""

    exclude_seen: bool = False
    """Leave out, counted and listed, what the base, the own or the unlabelled images hold, equal or edited; without it
    such an image stops the study before anything is trained."""


@dataclass(frozen=True)
@settings("study")
class StudyConfig:
    """Everything a study needs; each stage's own keys are those of its configuration class."""

    index: IndexConfig
    """The own data set."""
    unseen: UnseenConfig | None = None
    """The data set of others that the classifiers are judged on too; off without values."""
    unlabelled: IndexConfig | None = None
    """What `pretrain` learns from, once for all seeds; None: the training images of each draw. Like `unseen`, it is
    one split as a whole unless it names another."""
    draw: DrawConfig | None = field(default_factory=DrawConfig)
    """The small data set of each seed; null keeps the splits of `index`."""
    seeds: Annotated[tuple[int, ...], Count()] = (0, 1, 2)
    """One small draw, one adapter and one classifier per arm for each seed."""
    arms: tuple[Annotated[str, Choice(TRAINED_ARMS)], ...] = USUAL
    """What classifiers learn from; docs/evaluation.md says what each arm is."""
    base: str = "embedded"
    """``embedded``, a local Stable Diffusion folder, or a hub id."""
    cluster: ClusterConfig | None = None
    pretrain: PretrainConfig | None = None
    adapt: AdaptConfig | None = field(default_factory=AdaptConfig)
    adapters: Annotated[str, Choice(("one", "per_class", "per_cluster"))] = "one"
    """How many: one for all classes; one per_class; or one per_cluster, for each cluster that `cluster` chose."""
    generate: GenerateConfig = field(default_factory=GenerateConfig)
    select: SelectConfig = field(default_factory=SelectConfig)
    mix: MixConfig = field(default_factory=MixConfig)
    classify: ClassifyConfig = field(default_factory=ClassifyConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    variants: Mapping[str, dict] = field(default_factory=dict)
    """Name -> overrides by full id (``generate#ratio: 2``); what several variants share is computed once."""
    grid: Mapping[str, Any] = field(default_factory=dict)
    """Full id -> values, as a list or as name -> value; with `variants` they span the variants that are run."""
    combine: Annotated[str, Choice(("product", "diagonal"))] = "product"
    """Of the axes. product: every value with every other; diagonal: as many as the longest list, each value at least
    once."""
    limits: Mapping[str, Any] = field(default_factory=dict)
    """Full id -> value, the last word over variants and grid, and only where the section is in use; see `limit`."""
    simulated: SimulatedConfig = field(default_factory=SimulatedConfig)
    """What stands in for a data set whose source is ``simulated``."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    """Where the seeds are worked on, each as a whole; a stage that runs alone divides into smaller units."""

    def __post_init__(self) -> None:
        """Check what no single stage can."""
        if self.adapters == "per_cluster" and self.cluster is None:
            raise ConfigurationError(f"{here('adapters')}: per_cluster needs clusters; give cluster a mapping")


def config_of(stage: str) -> type:
    """Return the configuration class of a stage."""
    return next(one for one in options(field_types(StudyConfig)[stage]) if isinstance(one, type) and is_dataclass(one))


@dataclass(frozen=True)
class Variant:
    """One variant of a study."""

    name: str
    """Its parts, joined by ``-``; also a folder's name."""
    real: str
    """The parts that also concern arms without synthetic images; arms that several variants share have this name."""
    config: StudyConfig


_SPLITS = {"unseen": "unseen", "unlabelled": "train"}
"""Where all images of a data set belong when its own configuration names no split."""
_REAL = ("index", "unseen", "draw", "classify")


def read_study(sections: Mapping[str, Any]) -> tuple[StudyConfig, dict[str, Variant]]:
    """Return the study and its variants, checked to the last nested key before any work starts.

    A study without variants and grid has one variant with the name ``""``.

    Raises:
        ConfigurationError: an unknown key (naming the nearest valid one) or a wrong value.
    """
    study = _build(limit(sections, sections), "study")
    variants = []
    for parts in expand(study):
        name = "-".join(part for part, _ in parts)
        where = f"variants#{name}" if name else "study"
        overrides = {key: value for _, values in parts for key, value in values.items()}
        config = _build(limit(override(sections, overrides, where), sections), where)
        real = "-".join(part for part, values in parts if any(split(key)[0] in _REAL for key in values))
        variants.append(Variant(name, real, config))
    named = {variant.name: variant for variant in variants}
    if len(named) != len(variants):
        raise ConfigurationError(f"grid: {len(variants)} variants have only {len(named)} names; name the values")
    return study, named


def _build(sections: Mapping[str, Any], where: str) -> StudyConfig:
    study = build(StudyConfig, sections, where)
    given = {name: getattr(study, name) for name in _SPLITS}
    open_ones = {name: replace(one, split=_SPLITS[name]) for name, one in given.items() if one and not one.split}
    return replace(study, **open_ones)


def expand(study: StudyConfig) -> list[list[tuple[str, dict[str, Any]]]]:
    """Return the variants, each as its parts (name, overrides), spanned by `study.variants` and `study.grid`.

    A key of the grid is a full id with its values, or a free name with named groups of overrides.

    Raises:
        ConfigurationError: an axis without values.
    """
    axes: list[list[tuple[str, dict[str, Any]]]] = []
    if study.variants:
        axes.append([(_folder_name(name), dict(values)) for name, values in study.variants.items()])
    axes += [_axis(key, values) for key, values in study.grid.items()]
    if study.combine == "product":
        return [list(row) for row in itertools.product(*axes)]
    longest = max(map(len, axes), default=1)
    return [[axis[row % len(axis)] for axis in axes] for row in range(longest)]


def _axis(key: str, values: Any) -> list[tuple[str, dict[str, Any]]]:
    """Return the parts that one key of the grid spans; paths are numbered, because names stand in the report."""
    sections = field_types(StudyConfig)
    if not isinstance(values, (Mapping, list, tuple)):
        raise ConfigurationError(f"grid#{key}: got {values!r}, expected a list of values, or names and their values")
    places = Path in options(type_of(key, sections))
    if not isinstance(values, Mapping):
        hides = [places or without_place(str(value)) != str(value) for value in values]
        values = {f"{split(key)[-1]}{n}" if hides[n] else str(value): value for n, value in enumerate(values)}
    if not values:
        raise ConfigurationError(f"grid#{key}: got no values, expected at least one")
    if split(key)[0] in sections:
        return [(_folder_name(name), {key: value}) for name, value in values.items()]
    for name, group in values.items():
        check_mapping(group, f"grid#{key}#{name}")
    return [(_folder_name(name), dict(group)) for name, group in values.items()]


def _folder_name(text: Any) -> str:
    return re.sub(r"[^A-Za-z0-9._]+", "_", str(text)).strip("._") or "none"


def limit(sections: Mapping[str, Any], source: Mapping[str, Any]) -> dict[str, Any]:
    """Return `sections` with the `limits` of `source` as the last word, leaving sections that are off alone.

    A limit ``{"replace": {old: new}}`` changes these values of the id and no others.
    """
    result = dict(sections)
    optional = {item.name for item in fields(StudyConfig) if item.default is None}
    limits = source.get("limits") or {}
    check_mapping(limits, "limits")
    for key, value in limits.items():
        section = result.get(split(key)[0], {})
        if section is None or (split(key)[0] in optional and is_empty(section)):
            continue
        if isinstance(value, Mapping) and set(value) == {"replace"}:
            check_mapping(value["replace"], f"limits#{key}#replace")
            old = look_up(key, result)
            if old is None or isinstance(old, (Mapping, list)) or old not in value["replace"]:
                continue
            value = value["replace"][old]
        result = override(result, {key: value}, "limits")
    return result


def override(sections: Mapping[str, Any], overrides: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return a copy of `sections` with values replaced by full id, e.g. ``{"generate#steps": 20}``."""
    result = copy.deepcopy(dict(sections))
    for key, value in overrides.items():
        check_keys(split(key)[:1], field_types(StudyConfig), where)
        set_value(result, key, value, where)
    return result
