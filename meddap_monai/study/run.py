"""Run a study: one draw of the small data set per seed, and on each draw every stage for every variant."""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from meddap_monai.core.distributed import Ranks, join_ranks
from meddap_monai.core.progress import progress
from meddap_monai.core.records import iter_records
from meddap_monai.diffusion.bases.base import open_base
from meddap_monai.encoders.registry import check_encoder
from meddap_monai.engines.engine import current_engine, needs_gpus, use_engine
from meddap_monai.evaluation.predictions import ClassifierRun
from meddap_monai.evaluation.stage import evaluate
from meddap_monai.images import provenance
from meddap_monai.images.indexing.config import IndexConfig
from meddap_monai.images.indexing.stage import index
from meddap_monai.study.apart import Training, keep_apart
from meddap_monai.study.config import StudyConfig, Variant, read_study
from meddap_monai.study.curves import linked_curves
from meddap_monai.study.seed import TASK, SeedRunner
from meddap_monai.study.simulated import place


def run_study(
    output: Path | str, sections: Mapping[str, Any], overwrite: bool = False, evaluate_in: str = "evaluate"
) -> Path:
    """Run every stage of a study and return the path of its report.

    Under ``torchrun`` every process calls this: they divide the work of `adapt`, `generate` and `classify`.

    Args:
        output: folder of the study; each stage writes into its own folder below.
        sections: the keys of `StudyConfig`.
        overwrite: replace folders of another configuration instead of refusing them.
        evaluate_in: name of the evaluation's folder, to judge a finished study once more in another way.

    Raises:
        ConfigurationError: before anything is read or written; also an encoder without the weights it needs.
        LeakedRecords: the unseen set holds images, equal or edited, that the base or the own images hold too, or
            shares images or patients with the unlabelled set; before anything is trained.
        MeddapError: what the stages raise; what is finished stays, and the same call goes on.
    """
    output = Path(output)
    study, variants = read_study(sections)
    for variant in variants.values():
        for asked in (variant.config.classify, variant.config.select.filter):
            check_encoder(asked.encoder, asked.mode != "scratch", getattr(asked, "weights", None))
    with use_engine(study.engine), join_ranks(gpu=torch.cuda.is_available()) as ranks:
        return _run(output, study, variants, overwrite, evaluate_in, ranks)


def _run(
    output: Path, study: StudyConfig, variants: Mapping[str, Variant], overwrite: bool, evaluate_in: str, ranks: Ranks
) -> Path:
    def indexed(name: str) -> Path | None:
        config = getattr(study, name)
        return ranks.run_on_first(lambda: _index(study, config, output, name, overwrite)) if config else None

    own, unseen, unlabelled = indexed("index"), indexed("unseen"), indexed("unlabelled")
    assert own is not None
    opened = functools.cache(open_base)
    if study.draw is None and study.pretrain is None:
        ranks.run_on_first(lambda: provenance.check_provenance(opened(study.base).source, iter_records(own)))
    if study.unseen and unseen:
        base, exclude = opened(study.base), study.unseen.exclude_seen or study.evaluate.exclude_seen
        training = Training(base.training_images, base.name, own, study.draw is not None, unlabelled)
        apart = functools.partial(keep_apart, output, unseen, training, exclude, overwrite)
        unseen = ranks.run_on_first(apart)
    runner = SeedRunner(study, list(variants.values()), output, own, unlabelled, overwrite, ranks, opened)
    parts = _run_seeds(runner)
    runs = [
        ClassifierRun(arm, seed, Path(model), Path(records))
        for part in parts
        for arm, seed, model, records in part["runs"]
    ]
    folders = {"index": output / "index"} | ({"unseen": unseen.parent} if unseen else {})
    for name, path in (item for part in parts for item in part["folders"].items()):
        folders.setdefault(name, Path(path))
    there = output / evaluate_in
    stages = [output / "index", *([unseen.parent] if unseen else []), output / "unlabelled"]
    stages += [Path(path) for path in dict.fromkeys(path for part in parts for path in part["stages"])]
    guarded = opened(study.base).folder
    guards = [guarded] if guarded else []  # adapters and filters are held to the draw they belong to
    with linked_curves(output, there):
        return ranks.run_on_first(
            lambda: evaluate(
                study.evaluate,
                there,
                runs=runs,
                unseen=unseen,
                guards=guards,
                sections=folders,
                stages=stages,
                overwrite=overwrite,
            )
        )


def _run_seeds(runner: SeedRunner) -> list[Any]:
    """Return what the seeds came to, in their order; what all seeds share is made by the first one."""
    seeds = runner.study.seeds
    batches = [seeds[:1], seeds[1:]] if runner.unlabelled else [seeds]
    given, gpus = runner.plain(), needs_gpus("auto")
    found: list[Any] = []
    with progress(total=len(seeds), desc="study", unit="seed", leave=True) as bar:
        for batch in batches:
            made: dict[int, Any] = {}
            for number, outcome in current_engine().map(TASK, batch, given, gpus=gpus, here=runner.run):
                made[number] = outcome
                bar.update()
            found += [made[number] for number in sorted(made)]
    return found


def _index(study: StudyConfig, config: IndexConfig, output: Path, name: str, overwrite: bool) -> Path:
    keys = {field.name: getattr(config, field.name) for field in dataclasses.fields(IndexConfig)}
    keys["source"] = place(config.source, study.simulated, output, name)
    return index(IndexConfig(**keys), output / name, overwrite=overwrite)
