"""Every random number of the package comes from here: a seed per (run seed, stage, item, epoch), never global state."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive_seed(run_seed: int, stage: str, item: str | int = "", epoch: int = 0) -> int:
    """Return a seed in ``[0, 2**63)`` that depends on nothing but the arguments.

    Args:
        run_seed: the seed of the whole run.
        stage: what is random, e.g. ``"generate"`` or ``"adapt/noise"``.
        item: id of the record, shard or step.
        epoch: pass over the data, for randomness that changes between epochs.
    """
    text = f"{run_seed}\x1f{stage}\x1f{item}\x1f{epoch}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(run_seed: int, stage: str, item: str | int = "", epoch: int = 0) -> torch.Generator:
    """Return a CPU ``torch.Generator`` seeded by `derive_seed`."""
    import torch

    return torch.Generator().manual_seed(derive_seed(run_seed, stage, item, epoch))
