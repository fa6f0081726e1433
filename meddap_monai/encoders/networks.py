"""Builders of classification networks: MONAI's own, and torchvision's and timm's where these are installed.

A builder maps (classes, channels, side in pixels) to a network at random weights that turns normalised images
``(B, channels, side, side)`` into logits ``(B, classes)``. What enters its last linear layer are its features.
"""

import importlib
from collections.abc import Callable
from typing import Any

import torch
from monai.networks import nets
from torch import nn

from meddap_monai.core.extras import install
from meddap_monai.errors import ConfigurationError, MissingPackage

Builder = Callable[[int, int, int], nn.Module]


def _small_resnet(widths: tuple[int, ...]) -> Builder:
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


def _resnet(builder: Callable[..., nn.Module]) -> Builder:
    def build(classes: int, channels: int, _size: int) -> nn.Module:
        return builder(spatial_dims=2, n_input_channels=channels, conv1_t_stride=2, num_classes=classes)

    return build


def _plain(builder: Callable[..., nn.Module], **options: Any) -> Builder:
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


def _vit(patch: int, hidden: int, depth: int, heads: int) -> Builder:
    def build(classes: int, channels: int, size: int) -> nn.Module:
        if size % patch:
            raise ConfigurationError(f"resolution: got {size}, expected a multiple of {patch} for this ViT")
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


MONAI: dict[str, Builder] = {
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
"""Networks that need MONAI only."""


class GreyToColour(nn.Module):
    """Repeat the grey channel three times, for networks whose weights expect colour."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map ``(B, 1, H, W)`` to ``(B, 3, H, W)``."""
        return images.expand(-1, 3, -1, -1)


def _package(package: str, name: str) -> Any:
    try:
        return importlib.import_module(package)
    except (ImportError, RuntimeError) as error:
        raise MissingPackage(
            f"{package}:{name} needs {package} ({error}); install it with `{install('vision')}`"
        ) from error


def from_torchvision(name: str) -> Builder:
    """Return the builder of a classification model of torchvision.

    Raises:
        MissingPackage: torchvision is not installed.
    """
    models = _package("torchvision", name).models

    def build(classes: int, channels: int, _size: int) -> nn.Module:
        try:
            network = models.get_model(name, weights=None, num_classes=classes)
        except ValueError as error:
            raise ConfigurationError(f"encoder 'torchvision:{name}': torchvision has no such model") from error
        return network if channels == 3 else nn.Sequential(GreyToColour(), network)

    return build


def from_timm(name: str) -> Builder:
    """Return the builder of a model of timm.

    Raises:
        MissingPackage: timm is not installed.
    """
    timm = _package("timm", name)

    def build(classes: int, channels: int, _size: int) -> nn.Module:
        try:
            return timm.create_model(name, pretrained=False, num_classes=classes, in_chans=channels)
        except RuntimeError as error:
            raise ConfigurationError(f"encoder 'timm:{name}': timm has no such model ({error})") from error

    return build
