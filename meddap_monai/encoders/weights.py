"""Weights of encoders: of a package beside this one, or the user's local file. Nothing is downloaded."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from meddap_monai import store
from meddap_monai.core.tensors import check_finite, read_weights
from meddap_monai.errors import ConfigurationError, MissingPackage


@dataclass(frozen=True)
class PackagedWeights:
    """A weights file that a Python package carries.

    Attributes:
        package: its name for pip.
        module: its import name; the module is found, never run.
        file: path of the file within it.
        sha256: of the file.
    """

    package: str
    module: str
    file: str
    sha256: str

    def path(self) -> Path:
        """Return where the file lies, once its content is known to be the right one.

        Raises:
            MissingPackage: the package is not installed, or has no such file.
            ConfigurationError: the file is another one.
        """
        found = importlib.util.find_spec(self.module)
        places = list(found.submodule_search_locations or []) if found else []
        path = Path(places[0], self.file) if places else None
        if path is None or not path.is_file():
            raise MissingPackage(f"{self.file} of {self.package} is missing; install it: pip install {self.package}")
        got = store.sha256_file(path)
        if got != self.sha256:
            raise ConfigurationError(
                f"{path}: SHA-256 is {got}, expected {self.sha256}; install it again: "
                f"pip install --force-reinstall {self.package}"
            )
        return path

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the tensors of the file, checked as `path` does."""
        return read_state(self.path())


def load_pretrained(network: nn.Module, path: Path | str) -> list[str]:
    """Load a local state dict in place; return the names that stay at their initial values.

    A first convolution of three channels is summed into one for grey input; tensors of the last layer with another
    number of classes are left out. Everything else must fit.

    Raises:
        ConfigurationError: the file is missing, is not a state dict, or fewer than half of its tensors fit.
    """
    return load_tensors(network, read_state(Path(path)), str(path))


def load_tensors(network: nn.Module, found: dict[str, torch.Tensor], source: str) -> list[str]:
    """Load tensors as `load_pretrained` does; `source` names them in an error."""
    own = network.state_dict()
    fitting = {}
    for name, tensor in found.items():
        if name not in own:
            continue
        wanted = own[name].shape
        if tensor.ndim == 4 and wanted[1:2] == (1,) and tensor.shape[1] == 3:
            tensor = tensor.sum(1, keepdim=True)
        if tensor.shape == wanted:
            fitting[name] = tensor
    if len(fitting) < len(own) / 2:
        raise ConfigurationError(
            f"weights: {source}: {len(fitting)} of {len(own)} tensors fit {type(network).__name__}, expected "
            "nearly all; give a state dict of the same network"
        )
    network.load_state_dict(fitting, strict=False)
    return sorted(set(own) - set(fitting))


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a state dict (``.pt``, ``.pth``, ``.safetensors``), by name; see `load_pretrained`."""
    try:
        if path.suffix == ".safetensors":
            found: Any = read_weights(path, ConfigurationError)
        else:
            found = torch.load(store.regular_file(path), map_location="cpu", weights_only=True)
    except ConfigurationError as error:
        raise ConfigurationError(f"weights: {error}") from error
    except Exception as error:
        raise ConfigurationError(
            f"weights: {path}: cannot be read as plain tensors ({type(error).__name__}: {error}); expected a "
            "state dict (.pt or .safetensors)"
        ) from error
    for key in ("state_dict", "network", "model"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    tensors = {name: tensor for name, tensor in found.items() if isinstance(tensor, torch.Tensor)}
    check_finite(tensors, f"weights: {path}", ConfigurationError)
    for wrapper in ("module.", "network."):  # of parallel training; of `Standardised`
        if all(name.startswith(wrapper) for name in tensors):
            tensors = {name.removeprefix(wrapper): tensor for name, tensor in tensors.items()}
    return tensors
