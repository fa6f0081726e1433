"""Run a study: one draw of the small data set per seed, and on each draw every stage for every variant."""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from meddap_monai import store
from meddap_monai.core.distributed import Ranks, join_ranks
from meddap_monai.core.progress import progress
from meddap_monai.core.records import class_names, draw_split, iter_records, write_records
from meddap_monai.diffusion.bases.base import Base, open_base
from meddap_monai.encoders.registry import check_encoder
from meddap_monai.evaluation.predictions import ClassifierRun
from meddap_monai.evaluation.stage import evaluate
from meddap_monai.images import provenance
from meddap_monai.images.indexing.config import IndexConfig
from meddap_monai.images.indexing.stage import index
from meddap_monai.study.apart import Training, keep_apart
from meddap_monai.study.config import DrawConfig, StudyConfig, Variant, read_study
from meddap_monai.study.curves import linked_curves
from meddap_monai.study.simulated import place
from meddap_monai.study.track import Shared, StageCache, Track


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
    with join_ranks(gpu=torch.cuda.is_available()) as ranks:
        return _run(output, study, variants, overwrite, evaluate_in, ranks)


def _run(
    output: Path, study: StudyConfig, variants: Mapping[str, Variant], overwrite: bool, evaluate_in: str, ranks: Ranks
) -> Path:
    def indexed(name: str) -> Path | None:
        config = getattr(study, name)
        return ranks.run_on_first(lambda: _index(study, config, output, name, overwrite)) if config else None

    own, unseen, unlabelled = indexed("index"), indexed("unseen"), indexed("unlabelled")
    assert own is not None
    before, onces, opened = StageCache(), [], functools.cache(open_base)
    if study.draw is None and study.pretrain is None:
        ranks.run_on_first(lambda: provenance.check_provenance(opened(study.base).source, iter_records(own)))
    if study.unseen and unseen:
        base, exclude = opened(study.base), study.unseen.exclude_seen or study.evaluate.exclude_seen
        training = Training(base.training_images, base.name, own, study.draw is not None, unlabelled)
        apart = functools.partial(keep_apart, output, unseen, training, exclude, overwrite)
        unseen = ranks.run_on_first(apart)
    runs: list[ClassifierRun] = []
    folders: dict[str, Path] = {"index": output / "index"} | ({"unseen": unseen.parent} if unseen else {})
    for seed in progress(study.seeds, desc="study", unit="seed", leave=True):
        folder = output / f"seed_{seed}"
        records = own
        if study.draw:
            small = functools.partial(draw, study.draw, folder / "draw", own, seed, opened(study.base))
            records = ranks.run_on_first(functools.partial(small, overwrite, unlabelled))
        shared = Shared(records, overwrite, StageCache(), unlabelled, before, ranks, opened)
        onces.append(shared.once)
        for variant in progress(variants.values(), desc=f"seed {seed}", unit="variant", disable=len(variants) < 2):
            track = Track(folder, variant, seed, shared)
            runs += track.run()
            folders.update({name: path for name, path in track.folders.items() if name not in folders})
    there = output / evaluate_in
    stages = [output / "index", *([unseen.parent] if unseen else []), output / "unlabelled"]
    stages += [folder for once in (before, *onces) for folder in once.folders]
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


def _index(study: StudyConfig, config: IndexConfig, output: Path, name: str, overwrite: bool) -> Path:
    keys = {field.name: getattr(config, field.name) for field in dataclasses.fields(IndexConfig)}
    keys["source"] = place(config.source, study.simulated, output, name)
    return index(IndexConfig(**keys), output / name, overwrite=overwrite)


def draw(
    config: DrawConfig,
    output: Path,
    records: Path,
    seed: int,
    base: str | Path | Base,
    overwrite: bool = False,
    unlabelled: Path | None = None,
) -> Path:
    """Draw the small data set of one seed from an index; the images stay where they are.

    Images that the base was trained on, equal or edited, or will be from `unlabelled`, and other images of those
    patients may train here too, and are left out of val and test.
    """
    saw = open_base(base).training_images
    configuration = {"draw": config, "seed": seed, "seen": store.sha256_text("\n".join(sorted(saw)))}
    inputs = {"records": records} | ({"unlabelled": unlabelled} if unlabelled else {})
    with store.open_stage(output, "index", configuration, inputs, overwrite) as stage:
        if not stage.done:
            everything = list(iter_records(records))
            seen = frozenset(one.record["sha256"] for one in provenance.find_seen(everything, saw) if one.same)
            if unlabelled:
                seen |= provenance.shared_with(everything, iter_records(unlabelled))
            drawn = draw_split(everything, config.train, config.val, seed, seen)
            write_records(output / "records.jsonl", drawn)
            counts = {"in": len(everything), "out": len(drawn), "rejected": len(everything) - len(drawn)}
            stage.finish(counts, classes=class_names(records))
    return output / "records.jsonl"
