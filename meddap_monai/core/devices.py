"""What a process of a bundle under ``torchrun`` does before it joins the others."""

from __future__ import annotations

import torch


def take_gpu(device: torch.device | str) -> None:
    """Make a process's GPU the current one, on which NCCL and Ignite's metrics meet the other processes.

    Args:
        device: of this process; on a CPU nothing is done.
    """
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
