"""The stage ``adapt``: train an adapter on the real training images of a records file.

Images are encoded once, prompts too while the text encoder is frozen; then only adapter weights carry gradients. The
same configuration gives the same bytes, also after a kill and a resume.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch

from meddap_monai import store
from meddap_monai.core import provenance
from meddap_monai.core.records import read_records
from meddap_monai.diffusion.adapting import preparation
from meddap_monai.diffusion.adapting.config import AdaptConfig
from meddap_monai.diffusion.adapting.finish import finish_adapter
from meddap_monai.diffusion.adapting.handlers import Checkpoints, Curves, Samples, Validation
from meddap_monai.diffusion.adapting.preparation import Prepared
from meddap_monai.diffusion.adapting.trainer import AdapterTrainer
from meddap_monai.diffusion.adapting.validation import FixedValidation
from meddap_monai.diffusion.bases.base import base_folder, base_hash
from meddap_monai.errors import MissingPackage
from meddap_monai.training.checkpoint import NAME, Progress, read_checkpoint

__all__ = ["AdaptConfig", "adapt"]


def adapt(
    config: AdaptConfig,
    output: Path | str,
    *,
    records: Path | str,
    base: str | Path = "embedded",
    overwrite: bool = False,
    handlers: Sequence[Any] = (),
    inferer: Any = None,
) -> Path:
    """Train an adapter and return its folder (``output``; for full DreamBooth the base folder inside it).

    Args:
        config: settings.
        output: folder of the adapter: ``adapter.safetensors``, ``adapter.json``, ``card.md``, sample pictures,
            ``train_sha256.txt``, ``tensorboard/``.
        records: records file; trains on real images of split train, validates on those of val.
        base: "embedded", a Stable Diffusion folder or a hub id.
        overwrite: replace an output of another configuration.
        handlers: further ignite or MONAI handlers; they must not change what is trained.
        inferer: MONAI inferer that calls the UNet; ``SimpleInferer`` by default.

    Raises:
        ConfigurationError: settings, classes or prompts do not fit the records or the base.
        RecordsError: no training images are left.
        LeakedRecords: the base was trained on a validation, test or unseen image.
        NonFiniteLoss: the loss became NaN or infinite; the last checkpoint is finite.
        Interrupted: a signal arrived; a checkpoint was written.
        ForeignOutput: `output` belongs to another run.

    Under ``torchrun`` every process calls this; the first one writes.
    """
    output, records = Path(output), Path(records)
    with _processes(config) as (rank, world), contextlib.ExitStack() as stack:
        stage = None
        if rank == 0:
            inputs: dict[str, Any] = {"records": records, "base": base_hash(base)}
            stage = stack.enter_context(store.open_stage(output, "adapt", config, inputs, overwrite))
        done = bool(stage.done) if stage is not None else False
        if world > 1:
            done = bool(torch.as_tensor(idist.broadcast(torch.tensor(float(done)), src=0)))
        if done:
            return _result(config, output)
        everything = read_records(records, full=True)
        provenance.check_provenance(base_folder(base), everything)
        with store.InterruptFlag() as flag:
            prepared = preparation.prepare(config.filled(), output, everything, base, flag, (rank, world))
            trainer, validation = _train(prepared, output, flag, (rank, world), handlers, inferer)
        if stage is not None:
            counts = finish_adapter(prepared, trainer, validation, output, everything)
            _clean(output)
            stage.finish(counts, classes=prepared.classes)
        if world > 1:
            idist.barrier()
    return _result(config, output)


def _result(config: AdaptConfig, output: Path) -> Path:
    return output / "base" if config.method_.full else output


def _clean(output: Path) -> None:
    (output / NAME).unlink(missing_ok=True)
    shutil.rmtree(output / "cache", ignore_errors=True)


@contextlib.contextmanager
def _processes(config: AdaptConfig) -> Iterator[tuple[int, int]]:
    """Join the other processes that ``torchrun`` started, if any, and yield (rank, number of processes)."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    ours = world > 1 and idist.backend() is None
    if ours:
        gpu = torch.cuda.is_available() and config.device != "cpu"
        idist.initialize("nccl" if gpu else "gloo")
    try:
        yield idist.get_rank(), idist.get_world_size()
    finally:
        if ours:
            idist.finalize()


def make_optimizer(config: AdaptConfig, groups: list[dict[str, Any]], device: torch.device) -> torch.optim.Optimizer:
    """Return AdamW (betas 0.9 and 0.999, eps 1e-8), in 8 bit where asked for.

    Raises:
        MissingPackage: 8 bit without bitsandbytes.
    """
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8, fused=device.type == "cuda")
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise MissingPackage("adapt#optimizer: adamw8bit needs a GPU and: pip install meddap-monai[gpu]") from error
    return AdamW8bit(groups, betas=(0.9, 0.999), eps=1e-8)


def _train(
    prepared: Prepared,
    output: Path,
    flag: store.InterruptFlag,
    place: tuple[int, int],
    handlers: Sequence[Any],
    inferer: Any,
) -> tuple[AdapterTrainer, Validation | None]:
    config = prepared.config
    rank, world = place
    optimizer = make_optimizer(config, prepared.trainable.groups(config.weight_decay), prepared.device)
    trainer = AdapterTrainer(
        config, prepared.unet, prepared.trainable, optimizer, prepared.batches, prepared.objective,
        prepared.prompts, prepared.factor, prepared.device, inferer,
    )  # fmt: skip
    found = read_checkpoint(output / NAME, optimizer)
    writer = None
    if rank == 0:
        from torch.utils.tensorboard import SummaryWriter

        undone = found[0].step + 1 if found else None  # the first step that is done again
        writer = SummaryWriter(str(output / "tensorboard"), purge_step=undone)
        Curves(writer, config.log_every).attach(trainer)
    validation = None
    if prepared.held_out and config.validation_every:
        fixed = FixedValidation(
            prepared.held_out, prepared.objective, config.validation_times, config.batch, config.seed, rank, world
        )
        validation = Validation(fixed, config.validation_every, config.patience, writer)
        validation.attach(trainer)
    if rank == 0 and config.samples_every and config.samples_per_class:
        Samples(prepared.draw, prepared.real_rows, config.samples_every, writer).attach(trainer)
    for handler in handlers:
        handler.attach(trainer)
    Checkpoints(output / NAME, config.checkpoint_every, flag, validation, rank == 0).attach(trainer)
    if found:
        _resume(trainer, validation, *found)
    if trainer.state.progress.step < config.steps and not _stopped_early(trainer):
        trainer.run()
    if writer is not None:
        writer.close()
    flag.raise_if_set(f"step {trainer.state.progress.step} of {config.steps} is saved in {output / NAME}")
    return trainer, validation


def _stopped_early(trainer: AdapterTrainer) -> bool:
    return bool(trainer.config.patience) and trainer.state.progress.stale >= trainer.config.patience


def _resume(trainer: AdapterTrainer, validation: Validation | None, progress: Progress, values: dict[str, Any]) -> None:
    trainer.state.progress = progress
    trainer.trainable.assign(values["parameters"])
    device = trainer.state.device
    trainer.ema = {name: tensor.to(device) for name, tensor in values.get("ema", {}).items()}
    if validation is not None:
        validation.best = {name: tensor.to(device) for name, tensor in values.get("best", {}).items()}
    if trainer.fp16 is not None and progress.scaler is not None:
        trainer.fp16.load_state_dict(progress.scaler)
    trainer.state.iteration = trainer.batches.start = progress.step
