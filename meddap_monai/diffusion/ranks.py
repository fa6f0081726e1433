"""Several processes divide the shards of one generation: who I am, and how all learn that one has failed.

Control messages are small and rare, so gloo serves on CPUs and GPUs alike.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from meddap_monai.errors import StageError

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
        """Return rank 0's value in every process."""
        if self.size == 1:
            return value
        import torch.distributed as dist

        box = [value]
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
        dist.all_gather_object(problems, problem)
        failed = [f"process {rank}: {text}" for rank, text in enumerate(problems) if text]
        if failed and problem is None:
            raise StageError(f"{failed[0]} (finished shards are kept; run the same command again to go on)")


@contextlib.contextmanager
def join_ranks() -> Iterator[Ranks]:
    """Join the processes that ``torchrun`` started, or a process group that exists; alone when there is none."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Ranks()
        return
    import torch.distributed as dist

    opened = not dist.is_initialized()
    if opened:
        dist.init_process_group("gloo", timeout=_PATIENCE)
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size())
    finally:
        if opened:
            dist.destroy_process_group()
