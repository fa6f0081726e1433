"""One variant of one seed: from its records to one classifier per arm."""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from meddap_monai import store
from meddap_monai.classifier.config import ClassifyConfig
from meddap_monai.classifier.stage import classify
from meddap_monai.core.distributed import Ranks
from meddap_monai.core.records import class_names
from meddap_monai.core.seeds import derive_seed
from meddap_monai.diffusion.adapting.config import AdaptConfig
from meddap_monai.diffusion.adapting.stage import adapt
from meddap_monai.diffusion.bases.base import Base
from meddap_monai.diffusion.generation.config import GenerateConfig
from meddap_monai.diffusion.generation.stage import generate
from meddap_monai.diffusion.pretraining.config import PretrainConfig
from meddap_monai.diffusion.pretraining.stage import pretrain
from meddap_monai.errors import ConfigurationError
from meddap_monai.evaluation.arms import TRAINED_ARMS, augmentation_of
from meddap_monai.evaluation.predictions import ClassifierRun
from meddap_monai.selection.clustering.stage import cluster
from meddap_monai.selection.filtering.stage import select
from meddap_monai.selection.mixing.config import MixConfig
from meddap_monai.selection.mixing.stage import mix
from meddap_monai.study.config import StudyConfig, Variant
from meddap_monai.study.curves import linked_curves
from meddap_monai.study.join import join_generated

DIVIDED = ("pretrain", "adapt", "generate", "classify")
"""Stages whose work several processes divide among themselves."""


def stage_folder(result: Path) -> Path:
    """Return the folder of the stage that returned `result`: the folder itself, or a file or base inside of it."""
    return result if (result / "stage.json").is_file() else result.parent


class StageCache:
    """Compute equal things once: the same stage with the same configuration and inputs keeps its first folder."""

    def __init__(self) -> None:
        self._made: dict[str, Path] = {}

    def __call__(self, key: Any, folder: Path, make: Callable[[Path], Path]) -> Path:
        """Return what `make(folder)` returned for the first equal `key`."""
        name = store.hash_configuration(key)
        if name not in self._made:
            self._made[name] = make(folder)
        return self._made[name]

    @property
    def folders(self) -> list[Path]:
        """The stage folders that were made or found done."""
        return [stage_folder(path) for path in self._made.values()]


@dataclass(frozen=True)
class Portion:
    """What one adapter learns from and draws."""

    name: str
    learn: Path
    classes: tuple[str, ...] = ()
    share: float = 1.0
    """Part of the class's images that it draws."""


@dataclass(frozen=True)
class Shared:
    """What the variants of one seed share."""

    records: Path
    overwrite: bool
    once: StageCache
    unlabelled: Path | None
    before: StageCache
    """What all seeds share."""
    ranks: Ranks
    opened: Callable[[str], Base]
    """Opens a base, each one once in a study."""


@dataclass
class Track:
    """One variant of one seed."""

    folder: Path
    variant: Variant
    seed: int
    shared: Shared
    folders: dict[str, Path] = field(default_factory=dict)

    @property
    def records(self) -> Path:
        """The real records of this seed."""
        return self.shared.records

    @property
    def overwrite(self) -> bool:
        """Whether folders of another configuration are replaced."""
        return self.shared.overwrite

    def run(self) -> list[ClassifierRun]:
        """Run every stage and return the classifiers that no earlier variant had already."""
        study = self.variant.config
        kept = self._synthetic(study) if any(TRAINED_ARMS[arm][0] != "real" for arm in study.arms) else None
        return [run for arm in study.arms if (run := self._arm(study, arm, kept)) is not None]

    def _stage(self, name: str, config: Any, make: Callable[[Path], Path], *inputs: Any, leaf: str = "") -> Path:
        folder = self.folder / name / self.variant.name / leaf

        def work(to: Path) -> Path:
            with linked_curves(self.folder.parent, to):
                return make(to) if name in DIVIDED else self.shared.ranks.run_on_first(lambda: make(to))

        result = self.shared.once([name, config, [str(item) for item in inputs]], folder, work)
        self.folders.setdefault(name, stage_folder(result))
        return result

    def _synthetic(self, study: StudyConfig) -> Path:
        base = self._base(study)
        portions = self._portions(study, self._chosen(study))
        parts = [self._generate(study, base, portion, len(portions)) for portion in portions]
        generated = parts[0] if len(parts) == 1 else self._merge(parts)
        choose = dataclasses.replace(study.select, seed=self.seed)
        return self._stage(
            "select",
            choose,
            lambda to: select(choose, to, records=self.records, generated=generated, overwrite=self.overwrite),
            generated,
        )

    def _chosen(self, study: StudyConfig) -> Path:
        if study.cluster is None:
            return self.records
        config = dataclasses.replace(study.cluster, seed=self.seed)
        return self._stage(
            "cluster", config, lambda to: cluster(config, to, records=self.records, overwrite=self.overwrite)
        )

    def _portions(self, study: StudyConfig, learn: Path) -> list[Portion]:
        if study.adapt is None or study.adapters == "one":
            return [Portion("", learn)]
        if study.adapters == "per_class":
            return [Portion(name, learn, (name,)) for name in class_names(learn)]
        listed = store.read_json(learn.parent / "clusters.json")["clusters"]
        passing = [one for one in listed if one["passes"]]
        alike = Counter(one["class_name"] for one in passing)
        return [
            Portion(
                Path(one["records"]).stem,
                learn.parent / one["records"],
                (one["class_name"],),
                1 / alike[one["class_name"]],
            )
            for one in passing
        ]

    def _base(self, study: StudyConfig) -> Base:
        if study.pretrain is None:
            return self.shared.opened(study.base)
        if self.shared.unlabelled is not None:
            return self._shared_base(study.pretrain, self.shared.unlabelled)
        config = dataclasses.replace(study.pretrain, seed=self.seed)
        made = self._stage(
            "pretrain", config, lambda to: pretrain(config, to, records=self.records, overwrite=self.overwrite)
        )
        return self.shared.opened(str(made))

    def _shared_base(self, config: PretrainConfig, records: Path) -> Base:
        folder = self.folder.parent / "pretrain" / self.variant.name
        made = self.shared.before(
            [config, str(records)],
            folder,
            lambda to: pretrain(config, to, records=records, overwrite=self.overwrite),
        )
        self.folders.setdefault("pretrain", made.parent)
        return self.shared.opened(str(made))

    def _generate(self, study: StudyConfig, base: Base, portion: Portion, portions: int) -> Path:
        adapters: list[Path] = []
        if study.adapt is not None:
            base, adapters = self._adapt(study.adapt, base, portion)
        make = share(dataclasses.replace(study.generate, seed=self.seed), portion)
        return self._stage(
            "generate",
            make,
            lambda to: generate(make, to, records=self.records, base=base, adapters=adapters, overwrite=self.overwrite),
            base.name,
            *adapters,
            leaf=portion.name if portions > 1 else "",
        )

    def _merge(self, parts: list[Path]) -> Path:
        """Put the images of several adapters into one records file."""
        first = self.shared.ranks.run_on_first
        return self._stage(
            "generate",
            {"joined": True},
            lambda to: first(lambda: join_generated(to, parts, self.overwrite)),
            *parts,
            leaf="merged",
        )

    def _adapt(self, config: AdaptConfig, base: Base, portion: Portion) -> tuple[Base, list[Path]]:
        config = dataclasses.replace(config, seed=self.seed, classes=portion.classes or config.classes)
        made = self._stage(
            "adapt",
            config,
            lambda to: adapt(config, to, records=portion.learn, base=base, overwrite=self.overwrite),
            base.name,
            portion.learn,
            leaf=portion.name,
        )
        return (self.shared.opened(str(made)), []) if (made / "unet").is_dir() else (base, [made])

    def _arm(self, study: StudyConfig, arm: str, kept: Path | None) -> ClassifierRun | None:
        blend, train = settings_of_arm(arm, study.arms, self.seed, study.mix, study.classify)
        content = blend.arm
        inputs = None if content == "real" else kept
        hybrid = self._stage(
            "mix",
            blend,
            lambda to: mix(blend, to, records=self.records, kept=inputs, overwrite=self.overwrite),
            inputs,
            leaf=content,
        )
        fresh = False

        def make(to: Path) -> Path:
            nonlocal fresh
            fresh = True
            return classify(train, to, records=hybrid, overwrite=self.overwrite)

        model = self._stage("classify", train, make, hybrid, leaf=arm)
        name = self.variant.real if content == "real" else self.variant.name
        full = f"{arm}@{name}" if name else arm
        return ClassifierRun(arm=full, seed=self.seed, model=model, records=self.records) if fresh else None


def settings_of_arm(
    arm: str, arms: Sequence[str], seed: int, blend: MixConfig, train: ClassifyConfig
) -> tuple[MixConfig, ClassifyConfig]:
    """Return what an arm among `arms` mixes and trains; how much synthetic it takes does not concern one without."""
    content = TRAINED_ARMS[arm][0]
    blend = MixConfig() if content == "real" else blend
    train = dataclasses.replace(train, seed=seed, augmentation=augmentation_of(arm, arms))
    return dataclasses.replace(blend, arm=content, seed=seed), train


def share(config: GenerateConfig, portion: Portion) -> GenerateConfig:
    """Give one portion its classes, and of a class with several portions its part of the images and an own seed."""
    if not portion.classes:
        return config
    config = dataclasses.replace(config, classes=portion.classes)
    if portion.share == 1:
        return config
    name, seed = portion.classes[0], derive_seed(config.seed, "generate", portion.name)
    if config.ratio is not None:
        whole = config.ratio[name] if isinstance(config.ratio, dict) else config.ratio
        return dataclasses.replace(config, ratio=whole * portion.share, seed=seed)
    if config.counts is not None:
        count = config.counts[name] if isinstance(config.counts, dict) else config.counts
        return dataclasses.replace(config, counts=math.ceil(count * portion.share - 1e-9), seed=seed)
    raise ConfigurationError("generate: several adapters for one class need generate#ratio or generate#counts")
