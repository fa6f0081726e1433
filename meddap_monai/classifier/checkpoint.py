"""Checkpoints that survive a kill: one file, written atomically, plain tensors and numbers, exact to the step."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from meddap_monai import store
from meddap_monai.core.tensors import save_tensors
from meddap_monai.errors import StageError

NAME = "checkpoint.pt"


@dataclass
class Progress:
    """What a run has reached: besides weights and optimiser all that the next step depends on.

    Attributes:
        step: optimiser steps done.
        best_auc: best validation AUC so far, -1 before the first validation.
        best_loss: validation loss at that step; the smaller one decides between equal AUCs.
        best_step: its step.
        best_state: the network's tensors at that step, on the CPU.
        stale: validations since then.
        history: one row per validation: step, losses, AUC.
        stopped: early stopping has ended the run.
    """

    step: int = 0
    best_auc: float = -1.0
    best_loss: float = float("inf")
    best_step: int = 0
    best_state: dict[str, torch.Tensor] = field(default_factory=dict)
    stale: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    stopped: bool = False


def save_checkpoint(
    folder: Path, progress: Progress, network: nn.Module, optimiser: torch.optim.Optimizer, scaler: Any = None
) -> None:
    """Write the one checkpoint of a folder; the old one stays until the new one is complete."""
    document = {
        "progress": dict(vars(progress)),
        "network": network.state_dict(),
        "optimiser": optimiser.state_dict(),
        "scaler": scaler.state_dict() if scaler is not None else {},
    }
    save_tensors(folder / NAME, document)


def load_checkpoint(folder: Path, network: nn.Module, optimiser: torch.optim.Optimizer) -> tuple[Progress, dict]:
    """Load the checkpoint of a folder in place; return what was reached (all zero when there is none) and the scaler.

    Raises:
        StageError: the file is damaged.
    """
    path = folder / NAME
    if not path.exists():
        return Progress(), {}
    try:
        document = torch.load(store.regular_file(path), map_location="cpu", weights_only=True)
        network.load_state_dict(document["network"])
        optimiser.load_state_dict(document["optimiser"])
        return Progress(**document["progress"]), document["scaler"]
    except Exception as error:
        raise StageError(
            f"{path}: damaged checkpoint ({type(error).__name__}: {error}); delete this file to start the run again"
        ) from error
