"""Classification networks by name: MONAI's own without network access, torchvision's and timm's where installed."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from monai.networks import nets
from torch import nn

from meddap_monai import store
from meddap_monai.core.extras import install
from meddap_monai.core.tensors import check_finite, read_weights
from meddap_monai.errors import ConfigurationError, MissingPackage


def _small_resnet(widths: tuple[int, ...]) -> Callable[[int, int, int], nn.Module]:
    def build(classes: int, channels: int, _size: int) -> nn.Module:
        return nets.ResNet(
            block="basic",
            layers=[1, 1, 1, 1],
            block_inplanes=list(widths),
            spatial_dims=2,
            n_input_channels=channels,
            conv1_t_stride=2,
            num_classes=classes,
        )

    return build


def _resnet(builder: Callable[..., nn.Module]) -> Callable[[int, int, int], nn.Module]:
    def build(classes: int, channels: int, _size: int) -> nn.Module:
        return builder(spatial_dims=2, n_input_channels=channels, conv1_t_stride=2, num_classes=classes)

    return build


def _plain(builder: Callable[..., nn.Module], **options: Any) -> Callable[[int, int, int], nn.Module]:
    def build(classes: int, channels: int, _size: int) -> nn.Module:
        return builder(spatial_dims=2, in_channels=channels, **options, **_outputs(builder, classes))

    return build


def _outputs(builder: Callable[..., nn.Module], classes: int) -> dict[str, int]:
    name = "out_channels" if "DenseNet" in builder.__name__ else "num_classes"
    return {name: classes}


class _Logits(nn.Module):
    """Drop the hidden states that MONAI's ViT returns beside its logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits ``(B, classes)`` of images ``(B, C, H, W)``."""
        return self.network(images)[0]


def _vit(patch: int, hidden: int, depth: int, heads: int) -> Callable[[int, int, int], nn.Module]:
    def build(classes: int, channels: int, size: int) -> nn.Module:
        if size % patch:
            raise ConfigurationError(f"classify#resolution: got {size}, expected a multiple of {patch} for this ViT")
        network = nets.ViT(
            in_channels=channels,
            img_size=(size, size),
            patch_size=(patch, patch),
            hidden_size=hidden,
            mlp_dim=4 * hidden,
            num_layers=depth,
            num_heads=heads,
            classification=True,
            num_classes=classes,
            post_activation="none",
            spatial_dims=2,
        )
        return _Logits(network)

    return build


def _efficientnet(classes: int, channels: int, _size: int) -> nn.Module:
    return nets.EfficientNetBN(
        "efficientnet-b0", pretrained=False, spatial_dims=2, in_channels=channels, num_classes=classes
    )


NETWORKS: dict[str, Callable[[int, int, int], nn.Module]] = {
    "resnet10": _small_resnet((64, 128, 256, 512)),
    "resnet10_narrow": _small_resnet((32, 64, 128, 256)),
    "resnet10_tiny": _small_resnet((8, 16, 32, 64)),
    "resnet18": _resnet(nets.resnet18),
    "resnet34": _resnet(nets.resnet34),
    "resnet50": _resnet(nets.resnet50),
    "densenet121": _plain(nets.DenseNet121),
    "densenet169": _plain(nets.DenseNet169),
    "efficientnet_b0": _efficientnet,
    "seresnet50": _plain(nets.SEResNet50),
    "vit_tiny": _vit(8, 96, 4, 3),
    "vit_s16": _vit(16, 384, 12, 6),
    "vit_b16": _vit(16, 768, 12, 12),
}
"""Names of the networks that need MONAI only."""


def build_network(
    name: str, classes: int, channels: int = 1, size: int = 64, weights: Path | str | None = None
) -> nn.Module:
    """Return a network that maps images ``(B, channels, size, size)`` float to logits ``(B, classes)``.

    Args:
        name: one of `NETWORKS`, ``torchvision:<model>`` (e.g. ``torchvision:squeezenet1_1``) or ``timm:<model>``.
        classes: number of logits.
        channels: 1 or 3 input channels.
        size: side of the input; only transformers depend on it.
        weights: local file of a state dict to start from; a classification layer of another shape is left at random.

    Raises:
        ConfigurationError: an unknown name (the nearest is named), or weights that do not belong to this network.
        MissingPackage: torchvision or timm is asked for and not installed.
    """
    if name.startswith("torchvision:"):
        network = _torchvision(name.partition(":")[2], classes, channels)
    elif name.startswith("timm:"):
        network = _timm(name.partition(":")[2], classes, channels)
    elif name in NETWORKS:
        network = NETWORKS[name](classes, channels, size)
    else:
        near = difflib.get_close_matches(name, NETWORKS, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}?" if near else ""
        raise ConfigurationError(
            f"classify#network: unknown network {name!r}; {hint} expected one of {', '.join(NETWORKS)}, "
            "torchvision:<name> or timm:<name>"
        )
    if weights is not None:
        load_pretrained(network, weights)
    return network


def _package(package: str, name: str) -> Any:
    try:
        return importlib.import_module(package)
    except (ImportError, RuntimeError) as error:
        raise MissingPackage(
            f"{package}:{name} needs {package} ({error}); install it with `{install('vision')}`"
        ) from error


def _torchvision(name: str, classes: int, channels: int) -> nn.Module:
    models = _package("torchvision", name).models
    try:
        network = models.get_model(name, weights=None, num_classes=classes)
    except ValueError as error:
        raise ConfigurationError(f"classify#network: torchvision has no classification model {name!r}") from error
    return network if channels == 3 else nn.Sequential(GreyToColour(), network)


def _timm(name: str, classes: int, channels: int) -> nn.Module:
    timm = _package("timm", name)
    try:
        return timm.create_model(name, pretrained=False, num_classes=classes, in_chans=channels)
    except RuntimeError as error:
        raise ConfigurationError(f"classify#network: timm has no model {name!r} ({error})") from error


class GreyToColour(nn.Module):
    """Repeat the grey channel three times, for networks whose weights expect colour."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map ``(B, 1, H, W)`` to ``(B, 3, H, W)``."""
        return images.expand(-1, 3, -1, -1)


def load_pretrained(network: nn.Module, path: Path | str) -> list[str]:
    """Load a local state dict in place; return the names that stay at their initial values.

    A first convolution of three channels is summed into one for grey input; tensors of the last layer with another
    number of classes are left out. Everything else must fit.

    Raises:
        ConfigurationError: the file is missing, is not a state dict, or fewer than half of its tensors fit.
    """
    found = _read_state(Path(path))
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
            f"classify#weights: {path}: {len(fitting)} of {len(own)} tensors fit {type(network).__name__}, expected "
            "nearly all; give a state dict of the same network"
        )
    network.load_state_dict(fitting, strict=False)
    return sorted(set(own) - set(fitting))


def _read_state(path: Path) -> dict[str, torch.Tensor]:
    try:
        if path.suffix == ".safetensors":
            return read_weights(path, ConfigurationError)
        found = torch.load(store.regular_file(path), map_location="cpu", weights_only=True)
    except ConfigurationError as error:
        raise ConfigurationError(f"classify#weights: {error}") from error
    except Exception as error:
        raise ConfigurationError(
            f"classify#weights: {path}: cannot be read as plain tensors ({type(error).__name__}: {error}); expected a "
            "state dict (.pt or .safetensors)"
        ) from error
    for key in ("state_dict", "network", "model"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    tensors = {name: tensor for name, tensor in found.items() if isinstance(tensor, torch.Tensor)}
    check_finite(tensors, f"classify#weights: {path}", ConfigurationError)
    return tensors
