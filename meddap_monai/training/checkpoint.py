"""A training's whole state in one safetensors file, written atomically, so that a resumed run is the same run."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from meddap_monai import store
from meddap_monai.errors import StageError

NAME = "checkpoint.safetensors"


@dataclass
class Progress:
    """Where a training stands.

    Attributes:
        step: finished steps.
        best_value: lowest validation loss so far.
        best_step: step of it; -1 before the first validation.
        stale: validations since then.
        micro_batch: images per forward pass after running out of memory; 0 while nothing was halved.
        scaler: state of the fp16 loss scaler.
    """

    step: int = 0
    best_value: float = float("inf")
    best_step: int = -1
    stale: int = 0
    micro_batch: int = 0
    scaler: dict[str, float] | None = None


def write_checkpoint(
    path: Path, progress: Progress, values: dict[str, dict[str, torch.Tensor]], optimizer: torch.optim.Optimizer
) -> None:
    """Write a checkpoint.

    Args:
        path: of the file.
        progress: numbers.
        values: groups of named tensors ("parameters", "ema", "best").
        optimizer: its state is stored by parameter number.

    Raises:
        DiskFull: the old checkpoint is untouched.
    """
    tensors = {f"{group}:{name}": tensor for group, named in values.items() for name, tensor in named.items()}
    state = optimizer.state_dict()["state"]
    numbers: dict[str, Any] = {}
    for index, entries in state.items():
        for key, value in entries.items():
            if isinstance(value, torch.Tensor):
                tensors[f"optimizer:{index}:{key}"] = value
            else:
                numbers[f"{index}:{key}"] = value
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    header = {"progress": json.dumps(asdict(progress)), "optimizer": json.dumps(numbers)}
    store.write_atomic(path, save(plain, metadata=header))


def read_checkpoint(
    path: Path, optimizer: torch.optim.Optimizer
) -> tuple[Progress, dict[str, dict[str, torch.Tensor]]] | None:
    """Read a checkpoint into the optimiser and return the rest; None when there is no file.

    Raises:
        StageError: the file is damaged.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(store.regular_file(path), framework="pt", device="cpu") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        progress = Progress(**json.loads(header["progress"]))
        numbers = json.loads(header["optimizer"])
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise StageError(f"{path}: not a whole checkpoint ({error}); delete it to train from the start") from error
    values: dict[str, dict[str, torch.Tensor]] = {}
    state: dict[int, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        group, _, rest = name.partition(":")
        if group == "optimizer":
            index, _, key = rest.partition(":")
            state.setdefault(int(index), {})[key] = tensor
        else:
            values.setdefault(group, {})[rest] = tensor
    for name, value in numbers.items():
        index, _, key = name.partition(":")
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return progress, values
