"""Several processes train one classifier: who I am, which part of a batch is mine, and what all agree on."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from meddap_monai.errors import ConfigurationError, StageError


@dataclass(frozen=True)
class World:
    """The processes that train together; rank 0 writes."""

    rank: int = 0
    size: int = 1

    def shares(self, plan: np.ndarray) -> np.ndarray:
        """Return this process's columns of a ``(steps, batch)`` plan.

        Raises:
            ConfigurationError: the batch cannot be divided.
        """
        if plan.size and plan.shape[1] % self.size:
            raise ConfigurationError(f"classify#batch: {plan.shape[1]} cannot be divided by {self.size} processes")
        return plan[:, self.rank :: self.size]

    def any(self, mine: bool) -> bool:
        """Tell whether any process says yes."""
        if self.size == 1:
            return mine
        flag = torch.tensor(float(mine))
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return bool(flag)

    def tell(self, done: bool) -> None:
        """First process: tell the others that the output folder is open, or already done."""
        self._broadcast(int(done))

    def refuse(self) -> None:
        """First process: tell the others that it could not open the output folder."""
        self._broadcast(2)

    def ask(self) -> bool:
        """Other processes: wait for the first one's word; return whether the stage is already done.

        Raises:
            StageError: the first process could not open the folder.
        """
        word = self._broadcast(0)
        if word == 2:
            raise StageError("the first process could not open the output folder; its message says why")
        return bool(word)

    def _broadcast(self, word: int) -> int:
        if self.size == 1:
            return word
        sent = torch.tensor(word)
        dist.broadcast(sent, src=0)
        return int(sent)


_alone: ContextVar[bool] = ContextVar("alone", default=False)


@contextlib.contextmanager
def work_alone() -> Iterator[None]:
    """Let classifiers that are trained inside train in this process only, while the others wait for its result."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


@contextlib.contextmanager
def join_world(device: str = "cpu") -> Iterator[World]:
    """Join the processes that ``torchrun`` started; alone when there is none.

    Uses gloo on the CPU and nccl on GPUs, one GPU for each process. A process group that exists already is used and
    left alone.
    """
    if _alone.get():
        yield World()
        return
    if dist.is_available() and dist.is_initialized():
        yield World(dist.get_rank(), dist.get_world_size())
        return
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield World()
        return
    gpus = device.startswith("cuda")
    if gpus:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo")
    try:
        yield World(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def share_network(network: nn.Module, world: World, compiled: bool = False) -> nn.Module:
    """Wrap a network so that gradients are averaged over the processes; optionally compile it.

    MONAI's ViT holds a parameter that classification does not use, so unused ones are looked for.
    """
    if world.size == 1:
        shared = network
    else:
        shared = nn.parallel.DistributedDataParallel(network, find_unused_parameters=True)
    return torch.compile(shared) if compiled else shared  # type: ignore[return-value]
