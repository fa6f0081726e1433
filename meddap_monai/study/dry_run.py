"""What ``--dry-run`` says: the stages that would run, how much each does, and what it takes where that was measured."""

import dataclasses
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meddap_monai import store
from meddap_monai.core.records import class_names, iter_records
from meddap_monai.diffusion.bases.base import EMBEDDED, open_base
from meddap_monai.diffusion.generation.config import GenerateConfig
from meddap_monai.diffusion.generation.defaults import settled
from meddap_monai.diffusion.generation.planning import PlanInputs, count_training_images, counts_per_cell
from meddap_monai.errors import ConfigurationError
from meddap_monai.evaluation.arms import TRAINED_ARMS
from meddap_monai.selection.mixing.config import MixConfig
from meddap_monai.study.config import SIMULATED, StudyConfig, Variant
from meddap_monai.study.rates import UNITS, Work, estimate, measured, units_of

NO_RATE = "no rate measured on this machine yet"
_READ = {"cluster": ("records",), "select": ("generated",), "mix": ("records", "kept")}
"""Stage -> the inputs whose records are its amount of work."""


@dataclass(frozen=True)
class Step:
    """One stage that would run."""

    folder: Path
    work: Work

    def line(self, found: tuple[float, float] | None) -> str:
        """Return what is printed of it."""
        units, word = self.work.units, UNITS[self.work.stage]
        amount = f"{units:,.0f} {word}" if units is not None else f"{word} not counted yet"
        state = _state(self.folder)
        cost = f"about {_time(found[0])}, {_bytes(found[1])}" if found else NO_RATE
        return f"  {self.work.stage:9} {self.folder}: {amount}; {state or cost}"


def dry_stage(stage: str, config: Any, output: Path, inputs: Mapping[str, Any]) -> str:
    """Return what one stage alone would do.

    Args:
        stage: its name.
        config: its configuration.
        output: its folder.
        inputs: as in `run_stage`.

    Raises:
        StageError: an input is missing.
        ConfigurationError: the source of an index is no folder.
    """
    store.check_inputs(
        stage, {name: Path(value) for name, value in inputs.items() if name not in ("base", "adapters", "runs")}
    )
    base = inputs.get("base") or (EMBEDDED if stage in ("adapt", "generate") else None)
    if stage == "generate":
        config, _ = settled(config, open_base(base or EMBEDDED), inputs.get("adapters") or ())
    work = _work(stage, config, _items(stage, config, inputs), base)
    return _told([Step(output, work)], output)


def dry_study(variants: Mapping[str, Variant], study: StudyConfig, output: Path) -> str:
    """Return what a study would run, each equal stage once.

    Raises:
        ConfigurationError: the source of an index is no folder.
    """
    return _told(list(_steps(study, variants, output)), output)


def _items(stage: str, config: Any, inputs: Mapping[str, Any]) -> int | None:
    if stage == "index":
        return _files(config.source)
    if stage == "generate":
        records = Path(inputs["records"])
        return _images(config, count_training_images(iter_records(records), class_names(records), (0, 0), False))
    if stage == "evaluate":
        return len(inputs["runs"])
    files = [Path(inputs[name]) for name in _READ.get(stage, ()) if inputs.get(name)]
    rows = [record for file in files for record in iter_records(file)]
    return sum(record["split"] == "train" for record in rows) if stage == "cluster" else len(rows)


def _files(source: Path) -> int | None:
    """Return the files below a source; None for one that is simulated first."""
    if str(source) == SIMULATED:
        return None
    if not source.is_dir():
        raise ConfigurationError(f"index#source: {source} is not a folder; give the folder with the images")
    return sum(len(names) for _, _, names in os.walk(source))


def _images(config: GenerateConfig, wanted: PlanInputs) -> int | None:
    return None if config.plan is not None else sum(counts_per_cell(config, wanted).values())


def _work(stage: str, config: Any, items: int | None, base: str | None = None) -> Work:
    configuration: dict[str, Any] = store.plain(config)
    known = open_base(base).sha256 if base else None
    return Work(stage, configuration, units_of(stage, configuration, items), known)


# ------------------------------------------------------------------------------------------------------------ study
def _steps(study: StudyConfig, variants: Mapping[str, Variant], output: Path) -> Iterator[Step]:
    for name in ("index", "unseen", "unlabelled"):
        if config := getattr(study, name):
            yield Step(output / name, _work("index", config, _files(config.source)))
    classes, count = _classes(study, output), 0
    for seed in study.seeds:
        made: dict[str, Step] = {}
        for variant in variants.values():
            for key, step in _of_variant(variant, output / f"seed_{seed}", classes):
                made.setdefault(key, step)
        count += sum(step.work.stage == "classify" for step in made.values())
        yield from made.values()
    yield Step(output / "evaluate", _work("evaluate", study.evaluate, count))


def _of_variant(variant: Variant, folder: Path, classes: list[str]) -> Iterator[tuple[str, Step]]:
    """Yield a hash of all that makes a stage of one variant, and the stage; several adapters count as one."""
    study, name, above = variant.config, variant.name, [""]

    def step(
        stage: str, items: int | None, leaf: str = "", base: str | None = None, own: Any = None
    ) -> tuple[str, Step]:
        work = _work(stage, own or getattr(study, stage), items, base)
        above[0] = store.hash_configuration([stage, leaf, work.configuration, base, above[0]])
        return above[0], Step(folder / stage / name / leaf, work)

    base = study.base if study.pretrain is None else None
    if any(TRAINED_ARMS[arm][0] != "real" for arm in study.arms):
        yield from (step(stage, None) for stage in ("cluster", "pretrain") if getattr(study, stage) is not None)
        if study.adapt is not None:
            yield step("adapt", None, base=base)
        made = _drawn(study, classes)
        yield step("generate", made, base=base, own=_as_usual(study.generate))
        yield step("select", made)
    kept = above[0]
    for arm in study.arms:
        content, augmentation = TRAINED_ARMS[arm]
        above[0] = "" if content == "real" else kept
        yield step("mix", None, content, own=MixConfig() if content == "real" else None)
        yield step("classify", None, arm, own=dataclasses.replace(study.classify, augmentation=augmentation))


def _as_usual(config: GenerateConfig) -> GenerateConfig:
    """Return the configuration as it is drawn where no adapter says otherwise."""
    return dataclasses.replace(
        config,
        scheduler=config.scheduler or config.schedulers[0],
        steps=config.steps_,
        guidance=config.guidance_,
        distilled=bool(config.distilled),
    )


def _classes(study: StudyConfig, output: Path) -> list[str]:
    """Return the classes, where they are known before anything is read."""
    if study.index.classes or not (output / "index" / "stage.json").is_file():
        return list(study.index.classes)
    return list(store.read_stage(output / "index").get("classes", []))


def _drawn(study: StudyConfig, classes: list[str]) -> int | None:
    """Return how many images are generated from one draw; None where that is not known yet."""
    if study.draw is None or not classes:
        return None
    return _images(study.generate, PlanInputs(classes, dict.fromkeys(classes, study.draw.train), {}, (0, 0)))


# ------------------------------------------------------------------------------------------------------------- text
def _told(steps: list[Step], output: Path) -> str:
    rates = measured([output, output.parent])
    found = [estimate(step.work, rates) for step in steps]
    left = [(step, cost) for step, cost in zip(steps, found, strict=True) if _state(step.folder) is None]
    lines = [f"would run {len(left)} of {len(steps)} stages; nothing is written"]
    lines += [step.line(cost) for step, cost in zip(steps, found, strict=True)]
    known = [cost for _, cost in left if cost]
    if known:
        seconds, size = (sum(column) for column in zip(*known, strict=True))
        lines.append(f"in all about {_time(seconds)} and {_bytes(size)}, for {len(known)} of {len(left)} stages")
    if len(known) < len(left):
        names = dict.fromkeys(step.work.stage for step, cost in left if not cost)
        lines.append(
            f"{NO_RATE} for {', '.join(names)}: finished runs of like settings below {output.parent} give them"
        )
    lines.append(f"free at {output}: {_bytes(shutil.disk_usage(_existing(output)).free)}")
    return "\n".join(lines)


def _state(folder: Path) -> str | None:
    """Return that a folder is done, or None."""
    if not (folder / "stage.json").is_file():
        return None
    done = store.read_stage(folder).get("state") == "done"
    return "is there, and skipped if nothing has changed" if done else None


def _existing(path: Path) -> Path:
    return next(one for one in (path.absolute(), *path.absolute().parents) if one.exists())


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _bytes(size: float) -> str:
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 1000 or unit == "GB":
            break
    return f"{size:.1f} {unit}"
