"""Training counted in optimizer steps: an Ignite engine whose one epoch is the whole run, and a step within memory."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from ignite.engine import Engine

from meddap_monai import store
from meddap_monai.core.devices import is_out_of_memory
from meddap_monai.core.distributed import SINGLE_PROCESS, Ranks
from meddap_monai.training.checkpoint import Stateful, load_checkpoint
from meddap_monai.training.handlers import Checkpoints, Curves, Pictures, ProgressBar

T = TypeVar("T")


class StepTrainer(Engine):
    """An engine whose iteration is one optimizer step; ``state.iteration`` counts them, also across a resume.

    Handlers of Ignite and of MONAI attach to it. It is not MONAI's ``Trainer``, which adds nothing to that here and
    takes seconds to import.

    Args:
        advance: does step `n` (0 is the first) and returns numbers by name, which become ``state.output``. All its
            randomness must derive from `n`.
        steps: of the whole run.
        device: of the training.
    """

    state: Any
    """Ignite's, with ``device`` and what a training adds."""

    def __init__(self, advance: Callable[[int], dict[str, float]], steps: int, device: torch.device | str) -> None:
        super().__init__(lambda engine, _: advance(engine.state.iteration - 1))
        self.steps = steps
        self.state.device = torch.device(device)
        self.state.max_epochs, self.state.epoch_length = 1, steps

    def go_on(self, done: int, over: bool = False) -> None:
        """Run the steps after the first `done`; nothing when they are all done, or when the run is `over` before."""
        self.state.iteration = done
        if done < self.steps and not over:
            self.run(range(self.steps))


class TrainingTask(Protocol):
    """What `train` trains; a method ``picture(writer, step)`` is called too where there is one."""

    @property
    def state(self) -> Mapping[str, Stateful]:
        """Everything that the next step depends on."""

    def advance(self, step: int) -> dict[str, float]:
        """Do step `step`, whose randomness derives from its number, and return losses by name."""


@dataclass(frozen=True)
class TrainingRun:
    """How a `TrainingTask` is trained.

    Attributes:
        name: shown by the progress bar; the group of the curves.
        steps: of the whole run.
        checkpoint: path of the file.
        flag: signals, as a flag.
        curves: folder of the event files; None draws nothing.
        checkpoint_every: steps between checkpoints.
        log_every: steps between points of the curves.
        pictures_every: steps between pictures.
        ranks: the processes that divide every step; the first one writes.
        device: of the training.
    """

    name: str
    steps: int
    checkpoint: Path
    flag: store.InterruptFlag
    curves: Path | None = None
    checkpoint_every: int = 250
    log_every: int = 20
    pictures_every: int = 500
    ranks: Ranks = SINGLE_PROCESS
    device: str = "cpu"


def train(work: TrainingTask, run: TrainingRun) -> None:
    """Train from where the checkpoint stands to the last step.

    Raises:
        Interrupted: SIGINT or SIGTERM in any process; the checkpoint of the current step was written.
        NonFiniteLoss: the checkpoint before it stays.
        StageError: the checkpoint is not of this training.
        DiskFull: the checkpoint before it stays.
    """
    done = load_checkpoint(run.checkpoint, work.state)
    first = run.ranks.rank == 0
    trainer = StepTrainer(work.advance, run.steps, run.device)
    ProgressBar(run.name, quiet=not first).attach(trainer)
    with Curves(run.curves if first else None, run.name, done, run.log_every) as curves:
        curves.attach(trainer)
        if hasattr(work, "picture"):
            Pictures(work.picture, curves, run.pictures_every).attach(trainer)
        Checkpoints(run.checkpoint, work.state, run.checkpoint_every, run.flag, run.ranks).attach(trainer)
        trainer.go_on(done)
    step = trainer.state.iteration
    run.flag.raise_if_set(f"{run.name} stopped at step {step} of {run.steps}, checkpoint {run.checkpoint}")


def within_memory(work: Callable[[int], T], size: int, halved: Callable[[int], None]) -> T:
    """Do `work` with `size` images at a time; when memory runs out, begin again with half as many, down to one.

    Args:
        work: starts anew each time it is called.
        size: images at a time.
        halved: told every smaller size.
    """
    while True:
        try:
            return work(size)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or size == 1:
                raise
            size = max(1, size // 2)
        halved(size)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
