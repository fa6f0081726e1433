"""Several processes divide one generation's shards or one training's batches: who I am, and what all agree on.

Control messages are small and rare, so gloo serves on CPUs and GPUs alike; gradients on GPUs take NCCL.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from meddap_monai.errors import StageError

if TYPE_CHECKING:
    import torch

_PATIENCE = timedelta(days=7)


@dataclass(frozen=True)
class Ranks:
    """The processes of one run; rank 0 holds the folder's lock and writes everything but shards."""

    rank: int = 0
    size: int = 1

    def mine(self, shard: int) -> bool:
        """Tell whether a shard is this process's work."""
        return shard % self.size == self.rank

    def share(self, value: Any = None) -> Any:
        """Return rank 0's value in every process.

        Raises:
            StageError: another process has ended; so in every method here.
        """
        if self.size == 1:
            return value
        import torch.distributed as dist

        box = [value]
        with _someone_may_be_gone():
            dist.broadcast_object_list(box, src=0)
        return box[0]

    def agree(self, problem: str | None) -> None:
        """Wait for all processes; raise when another one has failed.

        Raises:
            StageError: names the process and its problem. The process that failed raises its own error instead.
        """
        if self.size == 1:
            return
        import torch.distributed as dist

        problems: list[str | None] = [None] * self.size
        with _someone_may_be_gone():
            dist.all_gather_object(problems, problem)
        failed = [f"process {rank}: {text}" for rank, text in enumerate(problems) if text]
        if failed and problem is None:
            raise StageError(f"{failed[0]} (finished shards are kept; run the same command again to go on)")

    def any(self, mine: bool) -> bool:
        """Tell whether any process says yes."""
        if self.size == 1:
            return mine
        import torch

        said = torch.tensor(float(mine))
        self.average([said])
        return bool(said > 0)

    def average(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace float tensors of one device by their means over all processes, in one message."""
        if self.size == 1:
            return
        import torch
        import torch.distributed as dist

        flat = torch.cat([tensor.detach().flatten().float() for tensor in tensors])
        with _someone_may_be_gone():
            dist.all_reduce(flat)
        parts = flat.div_(self.size).split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.detach().copy_(part.view_as(tensor))


ALONE = Ranks()
"""The only process."""


@contextlib.contextmanager
def _someone_may_be_gone() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise StageError(
            f"another process has ended, its own message says why; run the same command again to go on ({error})"
        ) from error


def own_gpu() -> str:
    """Return the device name of this process's GPU; processes share them where there are too few."""
    import torch

    return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"


@contextlib.contextmanager
def join_ranks(gpu: bool = False) -> Iterator[Ranks]:
    """Join the processes that ``torchrun`` started, or a process group that exists; alone when there is none.

    Args:
        gpu: each process takes a GPU of its own, which is the current one from then on.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    import torch
    import torch.distributed as dist

    if gpu:
        torch.cuda.set_device(own_gpu())
    opened = not dist.is_initialized()
    if opened:
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=_PATIENCE)
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size())
    finally:
        if opened:
            dist.destroy_process_group()
