"""One training loop for every phase of pre-training: checkpoints, exact resume, interrupt, finite losses, curves."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from meddap_monai import store
from meddap_monai.core.distributed import ALONE, Ranks
from meddap_monai.core.tensors import every_tensor, save_tensors
from meddap_monai.errors import NonFiniteLoss, StageError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_WAY_OUT = "the last checkpoint is finite: lower the learning rate, into another output folder or with overwrite=True"

Stateful = torch.nn.Module | torch.optim.Optimizer


@dataclass
class Phase:
    """What one phase trains, and where its checkpoint stands.

    Attributes:
        name: e.g. "decoder"; names the checkpoint and the curves.
        folder: of the checkpoints.
        steps: number of the last step.
        state: everything a checkpoint holds: modules, optimizers, moving averages.
        advance: does step `n` and returns its losses; all its randomness must derive from `n`.
        picture: draws into TensorBoard; called every `picture_every` steps and at the end.
        checkpoint_every: steps between checkpoints.
        picture_every: steps between pictures.
        ranks: the processes that divide every step among them; the first one writes.
    """

    name: str
    folder: Path
    steps: int
    state: Mapping[str, Stateful]
    advance: Callable[[int], dict[str, float]]
    picture: Callable[[SummaryWriter, int], None] | None = None
    checkpoint_every: int = 250
    picture_every: int = 500
    ranks: Ranks = ALONE
    step: int = field(default=0, init=False)

    @property
    def checkpoint(self) -> Path:
        """Path of the checkpoint file: plain tensors, loaded with ``weights_only=True``."""
        return self.folder / f"{self.name}.pt"

    def save(self) -> None:
        """Write the checkpoint atomically.

        Raises:
            NonFiniteLoss: a weight or an optimizer's average is not finite; the old checkpoint stays.
            DiskFull: the old checkpoint stays.
        """
        document = {"step": self.step, **{name: item.state_dict() for name, item in self.state.items()}}
        spoilt = [name for name in self.state if not all(map(_is_finite, every_tensor(document[name])))]
        if spoilt:
            raise NonFiniteLoss(
                f"phase {self.name!r}, step {self.step}: {', '.join(spoilt)} no longer finite; {_WAY_OUT}"
            )
        save_tensors(self.checkpoint, document)

    def resume(self) -> None:
        """Load the checkpoint when there is one.

        Raises:
            StageError: the file is not a checkpoint of this phase.
        """
        if not self.checkpoint.is_file():
            return
        try:
            place = store.regular_file(self.checkpoint)
            document: dict[str, Any] = torch.load(place, weights_only=True, map_location="cpu")
            for name, item in self.state.items():
                item.load_state_dict(document[name])
            self.step = int(document["step"])
        except Exception as error:  # torch names a damaged file by errors of many kinds, one of which advises a risk
            raise StageError(
                f"{self.checkpoint}: not a checkpoint of phase {self.name!r} ({type(error).__name__}); "
                "delete it to train this phase anew"
            ) from error


def run_phase(phase: Phase, interrupt: store.InterruptFlag, writer: SummaryWriter | None = None) -> None:
    """Train a phase from where it stands to its last step.

    Raises:
        Interrupted: SIGINT or SIGTERM in any process; the checkpoint of the current step was written.
        NonFiniteLoss: from `finite` or `Phase.save`; the checkpoint before it stays.
        DiskFull: from `Phase.save`.
    """
    if phase.step >= phase.steps:
        return
    first = phase.ranks.rank == 0
    bar = tqdm(total=phase.steps, initial=phase.step, desc=phase.name, unit="step", mininterval=5.0, disable=not first)
    with bar:
        while phase.step < phase.steps:
            losses = phase.advance(phase.step)
            phase.step += 1
            bar.update()
            _log(phase, losses, writer, bar)
            interrupt.is_set = phase.ranks.any(interrupt.is_set)
            due = phase.step % phase.checkpoint_every == 0 or phase.step == phase.steps
            if first and (interrupt.is_set or due):
                phase.save()
            interrupt.raise_if_set(f"phase {phase.name!r} stopped at step {phase.step}, checkpoint {phase.checkpoint}")


def finite(loss: torch.Tensor, phase: str, step: int, rate: float, items: Iterable[str]) -> torch.Tensor:
    """Return `loss` if it is finite.

    Raises:
        NonFiniteLoss: names phase, step, learning rate and the samples of the batch.
    """
    if not torch.isfinite(loss).all():
        raise NonFiniteLoss(
            f"phase {phase!r}, step {step}: loss is {loss.item()}, expected a finite number (learning rate {rate:.3g}, "
            f"samples {', '.join(items)}); {_WAY_OUT}, or remove the samples"
        )
    return loss


def _is_finite(tensor: torch.Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())


def learning_rate(step: int, steps: int, peak: float, warmup: int) -> float:
    """Return linear warm-up followed by half a cosine down to a twentieth of the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return peak * (0.05 + 0.95 * 0.5 * (1.0 + math.cos(math.pi * done)))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every group; a group's ``factor`` multiplies it."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("factor", 1.0)


@torch.no_grad()
def follow(average: torch.nn.Module, module: torch.nn.Module, step: int, decay: float) -> None:
    """Move an exponential moving average of weights; young averages follow faster."""
    rate = 1.0 - min(decay, (1.0 + step) / (10.0 + step))
    for slow, fast in zip(average.parameters(), module.parameters(), strict=True):
        slow.lerp_(fast.to(slow.dtype), rate)


def _log(phase: Phase, losses: dict[str, float], writer: SummaryWriter | None, bar: tqdm) -> None:
    if phase.step % 20 == 0 or phase.step == phase.steps:
        bar.set_postfix({name: f"{value:.4f}" for name, value in losses.items()}, refresh=False)
        for name, value in losses.items():
            if writer is not None:
                writer.add_scalar(f"{phase.name}/{name}", value, phase.step)
    last = phase.step == phase.steps
    if writer is not None and phase.picture is not None and (last or phase.step % phase.picture_every == 0):
        phase.picture(writer, phase.step)
