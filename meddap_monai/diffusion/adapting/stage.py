"""The stage ``adapt``: train an adapter on the real training images of a records file.

Images are encoded once, prompts too while the text encoder is frozen; then only adapter weights carry gradients. The
same configuration gives the same bytes, also after a kill and a resume.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from meddap_monai import store
from meddap_monai.core.distributed import Ranks, join_ranks, open_stage
from meddap_monai.core.extras import install
from meddap_monai.core.records import read_records
from meddap_monai.diffusion.adapting import preparation
from meddap_monai.diffusion.adapting.config import AdaptConfig
from meddap_monai.diffusion.adapting.finish import finish_adapter
from meddap_monai.diffusion.adapting.marked_images import draw_marks
from meddap_monai.diffusion.adapting.preparation import Prepared
from meddap_monai.diffusion.adapting.trainer import AdapterState, AdapterTrainer
from meddap_monai.diffusion.adapting.validation import FixedValidation, validation_loss
from meddap_monai.diffusion.bases.base import EMBEDDED, Base, open_base
from meddap_monai.diffusion.bases.sample_pictures import grid
from meddap_monai.errors import MissingPackage
from meddap_monai.images import provenance
from meddap_monai.training.checkpoint import NAME, Stateful, load_checkpoint
from meddap_monai.training.handlers import Checkpoints, Curves, Pictures, ProgressBar, Validation

__all__ = ["AdaptConfig", "adapt"]


def adapt(
    config: AdaptConfig,
    output: Path | str,
    *,
    records: Path | str,
    base: str | Path | Base = EMBEDDED,
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
        base: see ``open_base``.
        overwrite: replace an output of another configuration.
        handlers: further ignite or MONAI handlers; they must not change what is trained.
        inferer: MONAI inferer that calls the UNet; without one it is called directly.

    Raises:
        ConfigurationError: settings, classes or prompts do not fit the records or the base.
        RecordsError: no training images are left.
        LeakedRecords: the base was trained on a validation, test or unseen image.
        NonFiniteLoss: the loss became NaN or infinite; the last checkpoint is finite.
        Interrupted: a signal arrived; a checkpoint was written.
        ForeignOutput: `output` belongs to another run.

    Under ``torchrun`` every process calls this; the first one writes.
    """
    output, records, base = Path(output), Path(records), open_base(base)
    inputs: dict[str, Any] = {"records": records, "base": base.sha256}
    gpu = torch.cuda.is_available() and config.device != "cpu"
    with join_ranks(gpu) as ranks, open_stage(ranks, output, "adapt", config, inputs, overwrite) as stage:
        if stage.done:
            return _result(config, output)
        everything = read_records(records, full=True)
        provenance.check_provenance(base.source, everything)
        with store.InterruptFlag() as flag:
            prepared = preparation.prepare(config.filled(), output, everything, base, flag, ranks)
            trainer, validation = _train(prepared, output, flag, ranks, handlers, inferer)
        if ranks.rank == 0:
            counts = finish_adapter(prepared, trainer, validation, output, everything)
            _clean(output)
            stage.finish(counts, classes=prepared.classes)
    return _result(config, output)


def _result(config: AdaptConfig, output: Path) -> Path:
    return output / "base" if config.method_.full else output


def _clean(output: Path) -> None:
    (output / NAME).unlink(missing_ok=True)
    shutil.rmtree(output / "cache", ignore_errors=True)


def make_optimizer(config: AdaptConfig, groups: list[dict[str, Any]], device: torch.device) -> torch.optim.Optimizer:
    """Return AdamW (betas 0.9 and 0.999, eps 1e-8), in 8 bit where asked for.

    Raises:
        MissingPackage: 8 bit without bitsandbytes.
    """
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8, fused=device.type in ("cpu", "cuda"))
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise MissingPackage(
            f"adapt#optimizer: adamw8bit needs a GPU and bitsandbytes; install it with `{install('gpu')}`"
        ) from error
    return AdamW8bit(groups, betas=(0.9, 0.999), eps=1e-8)


def _train(
    prepared: Prepared, output: Path, flag: store.InterruptFlag, ranks: Ranks, handlers: Sequence[Any], inferer: Any
) -> tuple[AdapterTrainer, Validation | None]:
    config, path = prepared.config, output / NAME
    optimizer = make_optimizer(config, prepared.trainable.groups(config.weight_decay), prepared.device)
    trainer = AdapterTrainer(
        config, prepared.unet, prepared.trainable, optimizer, prepared.batches, prepared.loss,
        prepared.prompts, prepared.factor, prepared.device, inferer, ranks,
    )  # fmt: skip
    to_save: dict[str, Stateful] = {"trained": AdapterState(trainer), "optimizer": optimizer}
    validation = _validation(prepared, trainer, ranks)
    if validation is not None:
        to_save["validation"] = validation
    done, first = load_checkpoint(path, to_save), ranks.rank == 0
    ProgressBar("adapt", quiet=not first).attach(trainer)
    board = output / "tensorboard" if first else None
    with Curves(board, "adapt", done, config.log_every, config.batch) as curves:
        curves.attach(trainer)
        if done == 0 and first:
            draw_marks(prepared, curves)
        if validation is not None:
            if done == 0:
                curves.write_validation(validation.measure(trainer), 0)
            validation.curves = curves
            validation.attach(trainer)
        if first and config.pictures_every and config.samples_per_class:
            Pictures(lambda writer, step: _draw(prepared, trainer, writer, step), curves, config.pictures_every).attach(
                trainer
            )
        for handler in handlers:
            handler.attach(trainer)
        Checkpoints(path, to_save, config.checkpoint_every, flag, ranks).attach(trainer)
        trainer.go_on(done, over=validation is not None and validation.stopped)
    flag.raise_if_set(f"step {trainer.state.iteration} of {config.steps} is saved in {path}")
    return trainer, validation


def _validation(prepared: Prepared, trainer: AdapterTrainer, ranks: Ranks) -> Validation | None:
    """Return the handler that measures the loss on held-out images; None without any."""
    config = prepared.config
    if not prepared.held_out or not config.validation_every:
        return None
    fixed = FixedValidation(
        prepared.held_out,
        prepared.objective.steps,
        config.validation_times,
        config.batch,
        config.seed,
        ranks.rank,
        ranks.size,
    )

    def measure(_: Any) -> dict[str, float]:
        trainer.state.metrics["validation_loss"] = loss = validation_loss(trainer, fixed)
        return {"loss": loss}

    every, patience = config.validation_every, config.patience
    return Validation(measure, lambda values: (-values["loss"],), trainer.values, every, patience)


def _draw(prepared: Prepared, trainer: AdapterTrainer, writer: Any, step: int) -> None:
    """Draw a grid: real images of a class, then pictures from fixed seeds, a row per class."""
    with trainer.kept_values():
        drawn = prepared.draw()
    sheet = grid([left + right for left, right in zip(prepared.real_rows, drawn, strict=True)])
    writer.add_image("adapt/real_then_synthetic", sheet, step, dataformats="HWC")
