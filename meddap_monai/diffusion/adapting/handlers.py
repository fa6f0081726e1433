"""Handlers of adapter training: curves, validation with early stopping, sample grids, checkpoints, interruption."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Events
from tqdm import tqdm

from meddap_monai import store
from meddap_monai.diffusion.adapting.trainer import AdapterTrainer
from meddap_monai.diffusion.adapting.validation import FixedValidation
from meddap_monai.diffusion.bases.sample_pictures import grid
from meddap_monai.training.checkpoint import write_checkpoint


class Curves:
    """Progress bar and TensorBoard: loss, learning rate, gradient norm, images per second.

    Args:
        writer: ``SummaryWriter``.
        every: steps between points.
    """

    def __init__(self, writer: Any, every: int) -> None:
        self.writer, self.every = writer, every

    def attach(self, engine: AdapterTrainer) -> None:
        """Join the engine."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._step)
        engine.add_event_handler(Events.COMPLETED, self._end)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._fail)

    def _start(self, engine: AdapterTrainer) -> None:
        done = engine.state.iteration
        self.bar = tqdm(total=engine.config.steps, initial=done, desc="adapt", unit="step", mininterval=1.0)
        self.since, self.count = time.monotonic(), 0

    def _step(self, engine: AdapterTrainer) -> None:
        self.bar.update()
        self.count += 1
        step = engine.state.iteration
        if step % self.every:
            return
        output = engine.state.output
        seconds = max(time.monotonic() - self.since, 1e-9)
        speed = self.count * engine.config.batch / seconds
        self.since, self.count = time.monotonic(), 0
        self.bar.set_postfix(loss=f"{output['loss']:.4f}", images_per_s=f"{speed:.1f}", refresh=False)
        self.writer.add_scalar("train/loss", output["loss"], step)
        self.writer.add_scalar("train/gradient_norm", output["gradient_norm"], step)
        self.writer.add_scalar("train/images_per_second", speed, step)
        for number, group in enumerate(engine.optimizer.param_groups):
            self.writer.add_scalar(f"train/learning_rate_{number}", group["lr"], step)

    def _end(self, _: AdapterTrainer) -> None:
        self.bar.close()
        self.writer.flush()

    def _fail(self, engine: AdapterTrainer, error: BaseException) -> None:
        self._end(engine)
        raise error


class Validation:
    """Validate every so many steps, remember the best weights, stop when they stay the best for too long.

    Args:
        loss: the fixed validation.
        every: steps.
        patience: validations without a new best before the training stops; 0 never stops.
        writer: ``SummaryWriter``, or None on other processes than the first.
    """

    def __init__(self, loss: FixedValidation, every: int, patience: int, writer: Any = None) -> None:
        self.loss, self.every, self.patience, self.writer = loss, every, patience, writer
        self.best: dict[str, torch.Tensor] = {}

    def attach(self, engine: AdapterTrainer) -> None:
        """Join the engine; attach before the checkpoints."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._maybe)

    def _start(self, engine: AdapterTrainer) -> None:
        if engine.state.iteration == 0 and self.writer is not None:
            self.writer.add_scalar("validation/loss", self.measure(engine), 0)
        elif engine.state.iteration == 0:
            self.measure(engine)

    def measure(self, engine: AdapterTrainer) -> float:
        """Return the validation loss of the weights that would be kept now."""

        def answer(noisy: torch.Tensor, times: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
            with engine.cast():
                return engine.answer(noisy, times, rows)

        with engine.kept_values():
            value = self.loss(answer, engine.state.device)
        if self.loss.world > 1:
            value = torch.as_tensor(idist.all_reduce(value))
        return float(value)

    def _maybe(self, engine: AdapterTrainer) -> None:
        step, progress = engine.state.iteration, engine.state.progress
        if step % self.every and step != engine.config.steps:
            return
        value = self.measure(engine)
        if self.writer is not None:
            self.writer.add_scalar("validation/loss", value, step)
        engine.state.metrics["validation_loss"] = value
        if value < progress.best_value and math.isfinite(value):
            progress.best_value, progress.best_step, progress.stale = value, step, 0
            self.best = engine.values()
        else:
            progress.stale += 1
        if self.patience and progress.stale >= self.patience:
            engine.terminate()


class Samples:
    """A grid in TensorBoard every so many steps: real images of a class, then pictures from fixed seeds.

    Args:
        draw: returns one row of pictures per class for the present weights.
        real: one row of real pictures per class.
        every: steps.
        writer: ``SummaryWriter``.
    """

    def __init__(
        self, draw: Callable[[], list[list[np.ndarray]]], real: list[list[np.ndarray]], every: int, writer: Any
    ) -> None:
        self.draw, self.real, self.every, self.writer = draw, real, every, writer

    def attach(self, engine: AdapterTrainer) -> None:
        """Join the engine."""
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.every), self._show)

    def _show(self, engine: AdapterTrainer) -> None:
        with engine.kept_values():
            drawn = self.draw()
        sheet = grid([left + right for left, right in zip(self.real, drawn, strict=True)])
        self.writer.add_image("samples/real_then_synthetic", sheet, engine.state.iteration, dataformats="HWC")


class Checkpoints:
    """Write the whole state every so many steps and when a signal arrives; then stop with a clean checkpoint.

    Args:
        path: of the checkpoint file.
        every: steps.
        flag: signals, as a flag.
        validation: holds the best weights, if any.
        writes: False on other processes than the first.
    """

    def __init__(
        self, path: Path, every: int, flag: store.InterruptFlag, validation: Validation | None, writes: bool = True
    ) -> None:
        self.path, self.every, self.flag, self.validation, self.writes = path, every, flag, validation, writes

    def attach(self, engine: AdapterTrainer) -> None:
        """Join the engine; attach last."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._maybe)

    def _maybe(self, engine: AdapterTrainer) -> None:
        stop = self.flag.is_set
        if engine.batches.world > 1:
            stop = float(idist.all_reduce(torch.tensor(float(stop)), "MAX")) > 0
            self.flag.is_set = stop
        last = engine.state.iteration == engine.config.steps or engine.should_terminate
        if stop or last or engine.state.iteration % self.every == 0:
            self.write(engine)
        if stop:
            engine.terminate()

    def write(self, engine: AdapterTrainer) -> None:
        """Write the checkpoint of the present state."""
        if not self.writes:
            return
        values = {"parameters": dict(engine.trainable.parameters), "ema": engine.ema}
        values["best"] = self.validation.best if self.validation is not None else {}
        if engine.fp16 is not None:
            engine.state.progress.scaler = engine.fp16.state_dict()
        write_checkpoint(self.path, engine.state.progress, values, engine.optimizer)  # type: ignore[arg-type]
