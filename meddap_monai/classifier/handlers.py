"""Handlers in the manner of MONAI's: each has ``attach(engine)`` and does one thing."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import nn
from tqdm import tqdm

from meddap_monai import store
from meddap_monai.classifier.checkpoint import Progress, save_checkpoint
from meddap_monai.classifier.config import ClassifyConfig
from meddap_monai.classifier.parallel import World


class Curves:
    """Write TensorBoard scalars: loss, loss per source, learning rate, validation.

    Args:
        folder: of the event files; None writes nothing.
        first_step: steps done before; later entries of a killed run are dropped.
        every: steps between two entries.
    """

    def __init__(self, folder: Path | None, first_step: int = 0, every: int = 10) -> None:
        self.every = every
        self.writer: Any = None
        if folder is not None:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(folder), purge_step=first_step + 1)

    def __enter__(self) -> Curves:
        """Use as a context: the writer is closed at the end."""
        return self

    def __exit__(self, *_: object) -> None:
        """Flush and close."""
        if self.writer is not None:
            self.writer.close()

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.every), self)

    def __call__(self, engine: Any) -> None:
        """Write the losses of this step."""
        output = engine.state.output
        self.write(
            {name: output[name] for name in ("loss", "loss_real", "loss_synthetic", "lr")}, engine.state.iteration
        )

    def write(self, values: dict[str, float], step: int, group: str = "train") -> None:
        """Write finite values under ``<group>/<name>``."""
        if self.writer is None:
            return
        for name, value in values.items():
            if math.isfinite(value):
                self.writer.add_scalar(f"{group}/{name}", value, step)


class Validations:
    """Validate every `val_interval` steps and at the last one; keep the best weights; stop early when asked to.

    Better is a higher AUC, or an equal one with a lower loss.
    """

    def __init__(
        self, evaluator: Any, network: nn.Module, progress: Progress, config: ClassifyConfig, curves: Curves
    ) -> None:
        self.evaluator, self.network, self.progress = evaluator, network, progress
        self.config, self.curves = config, curves

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Any) -> None:
        """Count the step and validate when it is time."""
        progress, config = self.progress, self.config
        progress.step = engine.state.iteration
        if progress.step % config.val_interval and progress.step != config.steps:
            return
        self.evaluator.run()
        self.evaluator.state.epoch = 0
        values = {name: float(value) for name, value in self.evaluator.state.metrics.items()}
        self._compare(values)
        row = {"step": progress.step, "loss": engine.state.output["loss"], **values}
        progress.history.append({name: value for name, value in row.items() if math.isfinite(value)})
        self.curves.write(values, progress.step, "validation")
        if config.patience and progress.stale >= config.patience:
            progress.stopped = True
            engine.terminate()

    def _compare(self, values: dict[str, float]) -> None:
        progress = self.progress
        auc = values["val_auc"] if math.isfinite(values["val_auc"]) else 0.0
        if (auc, -values["val_loss"]) > (progress.best_auc, -progress.best_loss):
            progress.best_auc, progress.best_loss, progress.best_step = auc, values["val_loss"], progress.step
            progress.best_state = {
                name: tensor.detach().to("cpu", copy=True) for name, tensor in self.network.state_dict().items()
            }
            progress.stale = 0
        else:
            progress.stale += 1


class Checkpoints:
    """Write a checkpoint every `checkpoint_interval` steps and at the last one, atomically.

    Args:
        folder: where the checkpoint lies.
        progress: what the run has reached; `Validations` keeps it up to date.
        network: the bare network, not its wrapper.
        optimiser: its optimiser.
        config: the run.
        scaler: state of the gradient scaler to go on from.
        writes: False on all but the first process.
    """

    def __init__(
        self,
        folder: Path,
        progress: Progress,
        network: nn.Module,
        optimiser: torch.optim.Optimizer,
        config: ClassifyConfig,
        scaler: dict[str, Any],
        writes: bool = True,
    ) -> None:
        self.folder, self.progress, self.network, self.optimiser = folder, progress, network, optimiser
        self.config, self.scaler, self.writes = config, scaler, writes

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer, after `Validations`."""
        engine.add_event_handler(Events.STARTED, self._restore_scaler)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def _restore_scaler(self, engine: Any) -> None:
        if self.scaler and engine.scaler is not None:
            engine.scaler.load_state_dict(self.scaler)

    def __call__(self, engine: Any) -> None:
        """Write when it is time."""
        if self.progress.step % self.config.checkpoint_interval == 0 or self.progress.step == self.config.steps:
            self.write(engine)

    def write(self, engine: Any) -> None:
        """Write now."""
        if self.writes:
            save_checkpoint(self.folder, self.progress, self.network, self.optimiser, engine.scaler)


class StopOnSignal:
    """After SIGINT or SIGTERM: finish the step, write a checkpoint, end the run on all processes."""

    def __init__(self, flag: store.InterruptFlag, checkpoints: Checkpoints, world: World) -> None:
        self.flag, self.checkpoints, self.world = flag, checkpoints, world

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer, after `Validations`."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Any) -> None:
        """Stop when a signal has arrived at any process."""
        if self.world.any(self.flag.is_set):
            self.flag.is_set = True
            self.checkpoints.write(engine)
            engine.terminate()


class ProgressBar:
    """Show steps done, rate, time left and the loss."""

    def __init__(self, steps: int, first_step: int = 0, quiet: bool = False) -> None:
        self.steps, self.first_step, self.quiet = steps, first_step, quiet
        self.bar: Any = None

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.STARTED, self._open)
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=10), self._update)
        engine.add_event_handler(Events.COMPLETED, self._close)
        engine.add_event_handler(Events.TERMINATE, self._close)

    def _open(self, engine: Engine) -> None:
        self.bar = tqdm(
            total=self.steps,
            initial=self.first_step,
            desc="classify",
            unit="step",
            disable=self.quiet or None,
            mininterval=2,
        )

    def _update(self, engine: Any) -> None:
        self.bar.update(engine.state.iteration - self.bar.n)
        self.bar.set_postfix(loss=f"{engine.state.output['loss']:.3f}", refresh=False)

    def _close(self, engine: Any) -> None:
        self.bar.update(engine.state.iteration - self.bar.n)
        self.bar.close()
