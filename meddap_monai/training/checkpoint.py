"""One checkpoint for every training: a file that appears whole, of plain tensors and numbers, exact to the step."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from meddap_monai import store
from meddap_monai.core.tensors import every_tensor, save_tensors
from meddap_monai.errors import NonFiniteLoss, StageError

NAME = "checkpoint.pt"
FORMAT = "meddap-monai checkpoint 2"


class Stateful(Protocol):
    """What a checkpoint can hold: torch's modules and optimizers, and everything with the same two methods."""

    def state_dict(self) -> Mapping[str, Any]:
        """Return tensors, numbers and text, nested in mappings and lists."""

    def load_state_dict(self, state_dict: Any, /) -> Any:
        """Take what `state_dict` returned."""


def save_checkpoint(path: Path, step: int, to_save: Mapping[str, Stateful]) -> None:
    """Write a checkpoint; the old one stays until the new one is complete.

    Args:
        path: of the file.
        step: optimizer steps done.
        to_save: everything that the next step depends on, by name.

    Raises:
        NonFiniteLoss: a tensor is not finite; the old checkpoint stays.
        DiskFull: the old checkpoint stays.
    """
    state = {name: item.state_dict() for name, item in to_save.items()}
    spoilt = [name for name, values in state.items() if not all(map(_is_finite, every_tensor(values)))]
    if spoilt:
        raise NonFiniteLoss(
            f"{path}: {', '.join(spoilt)} no longer finite at step {step}; the last checkpoint is finite: lower the "
            "learning rate, into another output folder or with overwrite=True"
        )
    save_tensors(path, {"format": FORMAT, "step": step, "state": state})


def load_checkpoint(path: Path, to_load: Mapping[str, Stateful]) -> int:
    """Load a checkpoint in place and return the steps done; 0 when there is none.

    Raises:
        StageError: the file is damaged, belongs to another training, or was written by an earlier version.
    """
    earlier = path.with_suffix(".safetensors")
    if not path.is_file() and not earlier.is_file():
        return 0
    try:
        if not path.is_file():
            raise ValueError("an earlier version's")
        document: dict[str, Any] = torch.load(store.regular_file(path), weights_only=True, map_location="cpu")
        if document.get("format") != FORMAT:
            raise ValueError("an earlier version's")
        for name, item in to_load.items():
            item.load_state_dict(document["state"][name])
        return int(document["step"])
    except Exception as error:  # torch names a damaged file by errors of many kinds, one of which advises a risk
        told = str(error) if type(error) is ValueError else type(error).__name__
        found = path if path.is_file() else earlier
        raise StageError(
            f"{found}: not a checkpoint of this training ({told}); delete it to train from the start"
        ) from error


def _is_finite(tensor: torch.Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())
