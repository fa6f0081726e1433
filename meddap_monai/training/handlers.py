"""Handlers in the manner of Ignite's: each has ``attach(engine)``, does one thing, and serves any Ignite engine."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events

from meddap_monai import store
from meddap_monai.core.distributed import SINGLE_PROCESS, Ranks
from meddap_monai.core.progress import progress
from meddap_monai.training.checkpoint import Stateful, save_checkpoint


def last_step(engine: Engine) -> int:
    """Return the number of the run's last iteration."""
    return int(engine.state.max_epochs or 1) * int(engine.state.epoch_length or 0)


class Checkpoints:
    """Write a checkpoint every so many steps, at the last one and when a signal arrives, which also ends the run.

    Example:
        >>> to_save = {"network": network, "optimizer": optimizer}
        >>> Checkpoints(Path("run/checkpoint.pt"), to_save, every=100).attach(trainer)  # last of the handlers

    Args:
        path: of the file.
        to_save: everything that the next step depends on.
        every: steps between checkpoints.
        flag: signals, as a flag; None: signals do what they always do.
        ranks: processes of the run; the first one writes, and a signal to any ends all.
    """

    def __init__(
        self,
        path: Path,
        to_save: Mapping[str, Stateful],
        every: int,
        flag: store.InterruptFlag | None = None,
        ranks: Ranks = SINGLE_PROCESS,
    ) -> None:
        self.path, self.to_save, self.every, self.flag, self.ranks = path, to_save, every, flag, ranks

    def attach(self, engine: Engine) -> None:
        """Attach to an engine, after the other handlers."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Write when it is time; end the run after a signal."""
        step, stop = engine.state.iteration, False
        if self.flag is not None:
            stop = self.flag.is_set = self.ranks.any(self.flag.is_set)
        due = step % self.every == 0 or step == last_step(engine) or engine.should_terminate
        if (due or stop) and self.ranks.rank == 0:
            save_checkpoint(self.path, step, self.to_save)
        if stop:
            engine.terminate()


class Validation:
    """Measure every so many steps and at the last one, keep the best weights, stop when nothing gets better.

    Example:
        >>> validation = Validation(measure, lambda values: (values["auc"],), network.state_dict, every=50, patience=4)
        >>> validation.attach(trainer)
        >>> trainer.run()
        >>> network.load_state_dict(validation.best)

    It is `Stateful`: put it into `Checkpoints`, and a resumed run decides as the uninterrupted one.

    Args:
        measure: values by name for the present weights.
        score: of such values, compared as tuples, higher is better; one that begins with NaN or -inf is never best.
        weights: the tensors that are kept when the score is the best so far.
        every: steps.
        patience: validations without a better one after which the run ends; 0 never ends it.
        curves: also draws the values.

    Attributes:
        best: copies of the weights of the best step, on the CPU; empty before.
        best_step: its number, -1 before.
        best_score: its score.
        stale: validations since then.
        stopped: patience has ended the run.
        history: one row per validation: step, training loss, values.
    """

    KEPT = ("best", "best_step", "best_score", "stale", "stopped", "history")

    def __init__(
        self,
        measure: Callable[[Any], dict[str, float]],
        score: Callable[[dict[str, float]], tuple[float, ...]],
        weights: Callable[[], Mapping[str, torch.Tensor]],
        every: int,
        patience: int = 0,
        curves: Curves | None = None,
    ) -> None:
        self.measure, self.score, self.weights = measure, score, weights
        self.every, self.patience, self.curves = every, patience, curves
        self.best: dict[str, torch.Tensor] = {}
        self.best_step, self.stale, self.stopped = -1, 0, False
        self.best_score: list[float] = [-math.inf]
        self.history: list[dict[str, float]] = []

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {name: getattr(self, name) for name in self.KEPT}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        for name in self.KEPT:
            setattr(self, name, state[name])

    def attach(self, engine: Engine) -> None:
        """Attach to an engine, before `Checkpoints`."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Any) -> None:
        """Validate when it is time."""
        step = engine.state.iteration
        if step % self.every and step != last_step(engine):
            return
        values = self.measure(engine)
        score = [-math.inf if math.isnan(value) else value for value in self.score(values)]
        if score > self.best_score and score[0] > -math.inf:
            self.best_score, self.best_step, self.stale = score, step, 0
            self.best = {name: tensor.detach().to("cpu", copy=True) for name, tensor in self.weights().items()}
        else:
            self.stale += 1
        row = {"step": step, "loss": engine.state.output["loss"], **values}
        self.history.append({name: value for name, value in row.items() if math.isfinite(value)})
        if self.curves is not None:
            self.curves.write_validation(values, step)
        if self.patience and self.stale >= self.patience:
            self.stopped = True
            engine.terminate()


class Curves:
    """Draw an engine's output (name -> number) in TensorBoard, under ``<group>/<name>``.

    Every stage has a group of its own, so that a chart never shows two quantities.

    Example:
        >>> with Curves(Path("run/tensorboard"), "adapt", every=10, images=16) as curves:
        ...     curves.attach(trainer)
        ...     trainer.run()

    Args:
        folder: of the event files; None draws nothing.
        group: what the names begin with: the stage, or a part of it that trains alone.
        first_step: steps done before; later entries of a killed run are dropped.
        every: steps between two points.
        images: of one step; above 0, ``images_per_second`` is drawn too.
    """

    def __init__(self, folder: Path | None, group: str, first_step: int = 0, every: int = 10, images: int = 0) -> None:
        self.every, self.group, self.images = every, group, images
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
        """Attach to an engine."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def _start(self, engine: Engine) -> None:
        self._drawn, self._since = engine.state.iteration, time.monotonic()

    def __call__(self, engine: Engine) -> None:
        """Draw when it is time, and the last step."""
        step = engine.state.iteration
        if step % self.every and step != last_step(engine):
            return
        values: dict[str, float] = dict(engine.state.output or {})  # type: ignore[arg-type]
        if self.images:
            now = time.monotonic()
            values["images_per_second"] = (step - self._drawn) * self.images / max(now - self._since, 1e-9)
            self._drawn, self._since = step, now
        self.write(values, step)

    def write_validation(self, values: Mapping[str, float], step: int) -> None:
        """Draw what was measured on validation images under ``<group>/validation_<name>``."""
        self.write({f"validation_{name.removeprefix('val_')}": value for name, value in values.items()}, step)

    def write(self, values: Mapping[str, float], step: int) -> None:
        """Draw finite values under ``<group>/<name>``."""
        for name, value in values.items() if self.writer is not None else ():
            if math.isfinite(value):
                self.writer.add_scalar(f"{self.group}/{name}", value, step)


class Pictures:
    """Draw pictures in TensorBoard every so many steps and at the last one.

    Example:
        >>> Pictures(lambda writer, step: writer.add_image("samples", draw(), step), curves, every=500).attach(trainer)

    Args:
        draw: draws with a ``SummaryWriter`` at a step.
        curves: whose event files take the pictures.
        every: steps.
    """

    def __init__(self, draw: Callable[[Any, int], None], curves: Curves, every: int) -> None:
        self.draw, self.curves, self.every = draw, curves, every

    def attach(self, engine: Engine) -> None:
        """Attach to an engine."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Draw when it is time."""
        step = engine.state.iteration
        if self.curves.writer is not None and (step % self.every == 0 or step == last_step(engine)):
            self.draw(self.curves.writer, step)


class ProgressBar:
    """Show steps done, rate, time left and the loss; unlike Ignite's, right after a resume and closed after an error.

    Example:
        >>> ProgressBar("adapt").attach(trainer)

    Args:
        name: in front of the bar.
        quiet: show nothing.
    """

    def __init__(self, name: str, quiet: bool = False) -> None:
        self.name, self.quiet = name, quiet

    def attach(self, engine: Engine) -> None:
        """Attach to an engine."""
        engine.add_event_handler(Events.STARTED, self._open)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self._close)
        engine.add_event_handler(Events.TERMINATE, self._close)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._fail)

    def _open(self, engine: Engine) -> None:
        self.bar = progress(
            total=last_step(engine),
            initial=engine.state.iteration,
            desc=self.name,
            unit="step",
            mininterval=2.0,
            disable=self.quiet,
        )

    def __call__(self, engine: Any) -> None:
        """Show this step."""
        self.bar.update()
        if "loss" in engine.state.output:
            self.bar.set_postfix(loss=f"{engine.state.output['loss']:.4f}", refresh=False)

    def _close(self, _: Engine) -> None:
        self.bar.close()

    def _fail(self, _: Engine, error: BaseException) -> None:
        self.bar.close()
        raise error
