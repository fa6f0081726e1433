"""The stage ``generate``: a plan, then images in fixed shards, each committed by one rename.

The promises of ``docs/generation.md``: a run that was killed goes on exactly, any number of processes gives the same
bytes, an image says that it is synthetic in its record and in its file, and none is made by something that has seen
the validation, test or unseen images.
"""

import contextlib
import dataclasses
import functools
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from meddap_monai import store
from meddap_monai.core.configuration import build
from meddap_monai.core.devices import PRECISIONS, choose_device
from meddap_monai.core.distributed import Ranks, join_ranks, open_stage
from meddap_monai.core.progress import say
from meddap_monai.core.records import class_names, iter_records
from meddap_monai.diffusion.adapters.adapter import fuse, load_adapter
from meddap_monai.diffusion.adapters.file import adapter_path, foreign_hash, read_card
from meddap_monai.diffusion.bases.base import EMBEDDED, Base, load_base, open_base
from meddap_monai.diffusion.bases.prompt_choice import check_columns, table_for, write_table
from meddap_monai.diffusion.bases.prompts import PromptTable
from meddap_monai.diffusion.bases.vocabulary import check_words
from meddap_monai.diffusion.generation import contact_sheets, plan, planning
from meddap_monai.diffusion.generation.classifier_guidance import open_guide
from meddap_monai.diffusion.generation.config import ClassifierGuidance, GenerateConfig
from meddap_monai.diffusion.generation.defaults import settled, weights_of
from meddap_monai.diffusion.generation.joining import GENERATED, join_records
from meddap_monai.diffusion.generation.latent_classifier import default_config, train_latent_classifier
from meddap_monai.diffusion.generation.nearness import derived_text
from meddap_monai.diffusion.generation.planning import PlanInputs
from meddap_monai.diffusion.generation.sampler import ImageSampler, LoopSettings
from meddap_monai.diffusion.generation.shards import PLAN, Made, Request, ShardMaker, make_shards
from meddap_monai.engines.engine import current_engine
from meddap_monai.engines.task import Check, Work
from meddap_monai.errors import StageError
from meddap_monai.images.provenance import check_provenance
from meddap_monai.images.writing.write import export_dicom

__all__ = ["ClassifierGuidance", "GenerateConfig", "generate", "open_sampler"]

GUIDE = "classifier"


def generate(
    config: GenerateConfig,
    output: Path | str,
    *,
    records: Path | str,
    base: str | Path | Base = EMBEDDED,
    adapters: Sequence[Path | str] = (),
    overwrite: bool = False,
) -> Path:
    """Generate labelled synthetic images and return the path of their records, ``<output>/generated.jsonl``.

    Args:
        config: how many of what, and how.
        output: folder of the stage: ``plan.csv``, ``shards/``, ``generated.jsonl``, ``sheets/``, ``tensorboard/``.
        records: records file of the real images; its training split gives classes, counts and sources.
        base: see ``open_base``.
        adapters: adapter folders or files, fused with the weights of ``config.adapter_weights``.
        overwrite: replace a folder of another configuration instead of refusing it.

    Raises:
        LeakedRecords: base or adapter was trained on a validation, test or unseen image of `records`.
        ConfigurationError: nothing to generate, an unknown class or adjective, no source image, or a strength that
            leaves its images near copies of their sources.
        BadBase, BadAdapter: see ``load_base`` and ``load_adapter``.
        Interrupted: SIGINT or SIGTERM; the same call goes on.
        DiskFull: finished shards stay; the same call goes on.

    What was made from a patient's image, or comes near one, says so in its record and its file, and is counted.
    """
    job = request_of(config, Path(output), Path(records), open_base(base), adapters)
    with (
        join_ranks() as ranks,
        store.InterruptFlag() as flag,
        open_stage(ranks, job.output, "generate", job.config, dict(job.inputs), overwrite) as stage,
    ):
        if not stage.done:
            _make(job, ranks, flag, stage)
    return job.output / GENERATED


def request_of(
    config: GenerateConfig, output: Path, records: Path, base: Base, adapters: Sequence[Path | str]
) -> Request:
    """Return the call, settled, as one object; hashes of their contents identify its inputs, never paths."""
    config, adapters = settled(config, base, adapters)
    inputs = {"records": store.sha256_file(records), "base": base.sha256}
    inputs |= {f"adapter_{number}": adapter_hash(path) for number, path in enumerate(adapters)}
    guidance = config.classifier_guidance
    if guidance is not None and guidance.classifier is not None:
        inputs["classifier"] = store.sha256_file(guidance.classifier / "classifier.safetensors")
    return Request(config, output, records, base, adapters, inputs)


def _make(job: Request, ranks: Ranks, flag: store.InterruptFlag, stage: store.Stage) -> None:
    """Write the plan in the first process, make the shards in all of them, finish in the first."""
    kept = f"the finished shards of {job.output} are kept, the begun ones are made again"
    check = functools.partial(flag.raise_if_set, kept)
    ranks.run_on_first(lambda: _check_inputs(job))
    ranks.run_on_first(lambda: _train_guide(job))
    with contextlib.ExitStack() as opened:
        maker = None
        if current_engine().in_process:
            with _wait_for_all(ranks):
                maker = opened.enter_context(_open_maker(job, check))
        rows = ranks.run_on_first(lambda: _write_plan(job, maker))
        with _wait_for_all(ranks):
            made = make_shards(job, ranks, rows, check, maker)
    if ranks.rank == 0:
        _finish(job, stage, rows, made)


@contextlib.contextmanager
def _open_maker(job: Request, check: Check) -> Iterator[ShardMaker]:
    with open_sampler(guided_by(job.config, job.output), job.base, job.adapters) as sampler:
        yield ShardMaker(job, sampler, check)


@contextlib.contextmanager
def open_shards(settings: Mapping[str, Any], check: Check) -> Iterator[Work]:
    """Open base and adapters once, to make any shard of a run: the task of an engine; see `Request.plain`."""
    config = build(GenerateConfig, settings["config"], "generate")
    places = Path(settings["output"]), Path(settings["records"])
    job = Request(config, *places, open_base(settings["base"]), tuple(settings["adapters"]), settings["inputs"])
    with _open_maker(job, check) as maker:
        yield maker.work


@contextlib.contextmanager
def _wait_for_all(ranks: Ranks) -> Iterator[None]:
    """Wait at the end until all processes are done; when one fails, all end with its reason."""
    try:
        yield
    except Exception as error:
        ranks.barrier(f"{type(error).__name__}: {error}")
        raise
    ranks.barrier(None)


def _check_inputs(job: Request) -> None:
    """Run the provenance guard on everything trained that makes the images."""
    trained: list[Path | str] = [job.base.source, *(adapter_path(path) for path in job.adapters)]
    guidance = job.config.classifier_guidance
    trained += [guidance.classifier] if guidance is not None and guidance.classifier is not None else []
    for path in trained:
        check_provenance(path, iter_records(job.records))


def _train_guide(job: Request) -> None:
    """Train the classifier of classifier guidance on the training split, where the configuration names none."""
    guidance = job.config.classifier_guidance
    if guidance is not None and guidance.classifier is None:
        config = default_config(guidance.variant, job.config.seed, guidance.training)
        train_latent_classifier(config, job.output / GUIDE, records=job.records, base=job.base)


def guided_by(config: GenerateConfig, output: Path) -> GenerateConfig:
    """Return a configuration whose classifier guidance names the classifier that the run in `output` trained."""
    guidance = config.classifier_guidance
    if guidance is None or guidance.classifier is not None:
        return config
    return dataclasses.replace(config, classifier_guidance=dataclasses.replace(guidance, classifier=output / GUIDE))


def _write_plan(job: Request, maker: ShardMaker | None) -> int:
    """Write ``plan.csv`` unless an earlier start did; return its number of rows."""
    path = job.output / PLAN
    if path.is_file():
        return plan.count_rows(path)
    if maker is not None:
        return _plan(job, maker.sampler, path)
    plain = dataclasses.replace(job.config, device="cpu", precision="fp32", compile=False, classifier_guidance=None)
    with open_sampler(plain, job.base, job.adapters) as sampler:  # for its words and sizes; nothing is drawn here
        return _plan(job, sampler, path)


def _plan(job: Request, sampler: ImageSampler, path: Path) -> int:
    config, names, told = job.config, class_names(job.records), cards(job.base, job.adapters)
    if config.columns:
        check_columns(config.columns, iter_records(job.records), "generate#columns")
    keep_ids = config.mode != "text" or config.plan is not None
    columns = told["columns"] if config.columns is None else config.columns
    wanted = planning.count_training_images(iter_records(job.records), names, sampler.size, keep_ids, columns)
    wanted = dataclasses.replace(wanted, words=job.base.words)
    if not config.templates:
        wanted = dataclasses.replace(wanted, prompts=told["class_prompts"])
    table = table_for(config.prompts, names)
    rows = plan.write_plan(path, planning.make_plan(config, table, wanted))
    if not config.unconditional:
        write_table(table, job.output, "generate", config.prompts)
        _check_words(sampler, table, wanted, config)
    return rows


def _check_words(sampler: ImageSampler, table: PromptTable, wanted: PlanInputs, config: GenerateConfig) -> None:
    """Say which words the base does not know, of the classes whose prompts no card says to have been learned."""
    chosen = config.classes or wanted.classes
    own = {name: table.prompt(name) for name in chosen if name in table.classes and name not in wanted.prompts}
    check_words(sampler.pipeline.tokenizer, own, "generate#prompts")


def cards(base: Base, adapters: Sequence[Path | str]) -> dict[str, Any]:
    """Return what base and adapters say about their training prompts, later ones over earlier ones.

    A distilled adapter, which says how it is sampled, has no words of its own.

    Returns:
        ``class_prompts`` (class -> sentence), ``columns`` (keys of ``meta`` at their end) and ``clip_skip`` (layers of
        the text encoder left out).
    """
    found = [base.card]
    folders = [adapter_path(path) for path in adapters]
    found += [read_card(folder) for folder in folders if (folder / "adapter.json").is_file()]
    prompts: dict[str, str] = {}
    speaking = [card for card in found if not card.get("sampling")]
    for card in speaking:
        prompts |= card.get("class_prompts") or {}
    columns = [tuple(card["columns"]) for card in speaking if card.get("columns")]
    skip = max(int(card.get("clip_skip") or 0) for card in found)
    return {"class_prompts": prompts, "columns": columns[-1] if columns else (), "clip_skip": skip}


# ---------------------------------------------------------------------------------------------------------- sampler
@contextlib.contextmanager
def open_sampler(
    config: GenerateConfig,
    base: str | Path | Base = EMBEDDED,
    adapters: Sequence[Path | str] = (),
) -> Iterator[ImageSampler]:
    """Open a base with its adapters fused, ready to sample; the base's weights are restored afterwards.

    Args:
        config: device, precision, adapter weights, loop settings, classifier guidance; see `defaults.settled`.
        base: see ``open_base``.
        adapters: adapter folders or files.

    Raises:
        ConfigurationError: another number of weights than adapters, or classifier guidance without a classifier.
    """
    base, device = open_base(base), choose_device(config.device, "generate#device")
    config, adapters = settled(config, base, adapters)
    weights = weights_of(config, adapters)
    pipeline: Any = load_base(base, PRECISIONS[config.precision], device)
    for path, weight in zip(adapters, weights, strict=True):
        load_adapter(pipeline, path, weight)
    given = {field.name: getattr(config, field.name) for field in dataclasses.fields(LoopSettings)}
    if config.clip_skip is None:
        given["clip_skip"] = cards(base, adapters)["clip_skip"]
    settings = LoopSettings(**given)
    guidance = config.classifier_guidance
    guide = open_guide(guidance, base, device) if guidance is not None else None
    with fuse(pipeline):
        yield ImageSampler(pipeline, settings, guide)


def adapter_hash(path: Path | str) -> str:
    """Return the hash that identifies an adapter: that of its weights and, for peft's folder, of its configuration."""
    folder = adapter_path(path)
    if (folder / "adapter.json").is_file():
        return str(read_card(folder)["weights_sha256"])
    return foreign_hash(folder)


# ----------------------------------------------------------------------------------------------------------- finish
def _finish(job: Request, stage: store.Stage, rows: int, used: Made) -> None:
    """Join the shards' records, draw the contact sheets, write the DICOM files, close the stage."""
    made, derived = join_records(job.output, math.ceil(rows / job.config.shard_size))
    if made != rows:
        raise StageError(f"{job.output}: {made} images in the shards, the plan has {rows}; generate into a new folder")
    contact_sheets.draw_sheets(job.output, job.records, job.config.sheet_columns)
    if job.config.dicom:
        export_dicom(job.output / GENERATED, job.output / "dicom")
    if said := derived_text(derived, made):
        say(f"generate: {said}", sys.stderr)
    before = store.read_cost(job.output).get("seconds", 0.0)
    spent = {"seconds": round(before + used.seconds, 3)}  # those of all workers, in place of those of waiting
    real = sum(item["split"] == "train" and item["source"] == "real" for item in iter_records(job.records))
    stage.finish(
        {"in": real, "out": made, "rejected": 0, **derived},
        classes=class_names(job.records),
        batch=used.batch,
        cost={} if current_engine().in_process else spent,
    )
