"""The one door to other processes: who I am, and what all agree on.

Control messages are small and rare, so gloo serves on CPUs and GPUs alike; gradients on GPUs take NCCL where every
process has a GPU of its own. The group is
torch's own, because `ignite.distributed` opens one backend only; Ignite's engines and metrics find it by themselves.
It is one group for a whole study: a second one under the same ``torchrun`` meets the first one's leftovers.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist

from meddap_monai import store
from meddap_monai.core.devices import own_gpu, take_gpu
from meddap_monai.errors import ConfigurationError, StageError

T = TypeVar("T")

_TIME_LIMIT = timedelta(days=7)
"""The one time limit: the others wait for as long as the first process may work alone."""
_alone: ContextVar[bool] = ContextVar("alone", default=False)


@dataclass(frozen=True)
class Ranks:
    """The processes of one run; rank 0, the first, holds the folder's lock and writes everything but shards."""

    rank: int = 0
    size: int = 1

    def owns(self, shard: int) -> bool:
        """Tell whether a shard is this process's work."""
        return shard % self.size == self.rank

    def split_plan(self, plan: np.ndarray, key: str) -> np.ndarray:
        """Return this process's columns of a ``(steps, batch)`` plan.

        Raises:
            ConfigurationError: the batch, set by `key`, cannot be divided.
        """
        if plan.size and plan.shape[1] % self.size:
            raise ConfigurationError(f"{key}: {plan.shape[1]} cannot be divided by {self.size} processes")
        return plan[:, self.rank :: self.size]

    def broadcast(self, value: Any = None) -> Any:
        """Return rank 0's value in every process.

        Raises:
            StageError: another process has ended; so in every method here.
        """
        if self.size == 1:
            return value
        box = [value]
        with _peer_errors():
            dist.broadcast_object_list(box, src=0)
        return box[0]

    def run_on_first(self, work: Callable[[], T]) -> T:
        """Let the first process do `work`, alone; return its result in every process.

        Raises:
            StageError: in the other processes when the first one failed; that one raises its own error.
        """
        found: Any = None
        if self.rank == 0:
            token = _alone.set(True)
            try:
                found = work()
            except BaseException as error:
                self.barrier(f"{type(error).__name__}: {error}")
                raise
            finally:
                _alone.reset(token)
        self.barrier(None)
        shared: T = self.broadcast(found)
        return shared

    def barrier(self, problem: str | None) -> None:
        """Wait for all processes; raise when another one has failed.

        Raises:
            StageError: names the process and its problem. The process that failed raises its own error instead.
        """
        if self.size == 1:
            return
        problems: list[str | None] = [None] * self.size
        with _peer_errors():
            dist.all_gather_object(problems, problem)
        failed = [f"process {rank}: {text}" for rank, text in enumerate(problems) if text]
        if failed and problem is None:
            raise StageError(f"{failed[0]} (finished shards are kept; run the same command again to go on)")

    def any(self, mine: bool) -> bool:
        """Tell whether any process says yes."""
        if self.size == 1:
            return mine
        return self.sum(float(mine)) > 0

    def sum(self, value: float) -> float:
        """Return the sum of a number over all processes."""
        if self.size == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64)
        self._reduce(total)
        return float(total)

    def average(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace float tensors of one device by their means over all processes, in one message."""
        if self.size == 1:
            return
        flat = torch.cat([tensor.detach().flatten().float() for tensor in tensors])
        self._reduce(flat)
        parts = torch.split(flat.div_(self.size), [tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.detach().copy_(part.view_as(tensor))

    @staticmethod
    def _reduce(tensor: torch.Tensor) -> None:
        with _peer_errors():
            dist.all_reduce(tensor)


SINGLE_PROCESS = Ranks()
"""The only process."""


@contextlib.contextmanager
def _peer_errors() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise StageError(
            f"another process has ended, its own message says why; run the same command again to go on ({error})"
        ) from error


def launched() -> Ranks:
    """Return this process's place among those that ``torchrun`` started, joined or not; alone without it."""
    return Ranks(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


def backend_for(gpu: bool) -> str:
    """Return the backend of this machine's processes: NCCL refuses two of them on one GPU, which gloo serves."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", launched().size))
    return "cpu:gloo,cuda:nccl" if gpu and local <= torch.cuda.device_count() else "gloo"


@contextlib.contextmanager
def join_ranks(gpu: bool = False) -> Iterator[Ranks]:
    """Join the processes that ``torchrun`` started, or a group that exists; alone without one or in `run_on_first`.

    Args:
        gpu: each process takes a GPU of its own, which is the current one from then on.
    """
    opened = not (dist.is_available() and dist.is_initialized())
    if _alone.get() or (opened and launched().size == 1):
        yield SINGLE_PROCESS
        return
    if gpu:
        take_gpu(own_gpu())
    if opened:
        dist.init_process_group(backend_for(gpu), timeout=_TIME_LIMIT)
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size())
    finally:
        if opened:
            dist.destroy_process_group()


@contextlib.contextmanager
def open_stage(
    ranks: Ranks, output: Path, name: str, config: Any, inputs: Mapping[str, Any], overwrite: bool
) -> Iterator[store.Stage]:
    """Open a stage's folder in the first process (see `store.open_stage`); the others wait for it, here and at the end.

    Yields:
        The stage; only the first process may finish it.

    Raises:
        StageError: in the other processes when the first one was refused, with its reason.
    """
    if ranks.rank:
        refusal, done = ranks.broadcast()
        if refusal:
            raise StageError(f"{output}: the first process was refused: {refusal}")
        yield store.Stage(output, {}, done=done)
    else:
        opened = False
        try:
            with store.open_stage(output, name, config, inputs, overwrite) as stage:
                ranks.broadcast((None, stage.done))
                opened = True
                yield stage
        except BaseException as error:
            if not opened:
                ranks.broadcast((f"{type(error).__name__}: {error}", False))
            raise
    ranks.broadcast()
