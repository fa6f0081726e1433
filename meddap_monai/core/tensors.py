"""Tensors on their way into a file, which appears whole or not at all."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from meddap_monai import store
from meddap_monai.errors import MeddapError


def cpu_state(network: nn.Module) -> dict[str, torch.Tensor]:
    """Return the tensors of a network on the CPU, contiguous, apart from the network."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in network.state_dict().items()}


def save_tensors(path: Path, document: Mapping[str, Any]) -> None:
    """``torch.save`` under a temporary name, then rename.

    Raises:
        DiskFull: an old file of that name is untouched.
    """
    needs = sum(tensor.nbytes for tensor in every_tensor(document))
    with store.atomic_path(path, needs=needs) as temporary, temporary.open("wb") as stream:
        torch.save(document, stream)  # by name, torch would write the temporary name into the file


def check_finite(tensors: Mapping[str, torch.Tensor], where: Path | str, error: type[MeddapError]) -> None:
    """Raise `error`, with file and tensor, for NaN or infinite weights: a network would still give answers."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise error(f"{where}: {name} holds NaN or infinite values, expected finite ones; train or get it again")


def read_weights(path: Path | str, error: type[MeddapError]) -> dict[str, torch.Tensor]:
    """Return the tensors of a safetensors file, all finite.

    Raises:
        MeddapError: `error`, when the file is missing, damaged, or holds NaN or infinite values.
    """
    try:
        tensors: dict[str, torch.Tensor] = load_file(store.regular_file(path))
    except (OSError, ValueError, SafetensorError) as reason:
        raise error(f"{path}: cannot be used as safetensors weights ({reason}); train or get it again") from reason
    check_finite(tensors, path, error)
    return tensors


def every_tensor(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors of nested mappings and lists, such as state dictionaries."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from every_tensor(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from every_tensor(item)
