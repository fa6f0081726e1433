"""EfficientNet-Lite: EfficientNet (Tan and Le, ICML 2019) without squeeze-and-excitation, with ReLU6.

Stem and head keep their widths in every size (the Lite rule), so only repeats differ between Lite0 and Lite1.
"""

import math
import re
from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional

STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
"""Expansion, kernel, stride, output channels and repeats of each stage of Lite0."""
WIDTH = 1280
"""Channels of the head, which are the features."""


def _missing(side: int, kernel: int, stride: int) -> int:
    """Return the pixels that "same" adds to a side."""
    return max(0, (math.ceil(side / stride) - 1) * stride + kernel - side)


class ConvNorm(nn.Sequential):
    """Convolution without bias, batch normalisation and, unless told otherwise, ReLU6.

    Pads as TensorFlow's "same" does, where the weights come from: an odd pixel goes below and to the right.
    """

    def __init__(
        self, before: int, after: int, kernel: int = 1, stride: int = 1, groups: int = 1, active: bool = True
    ) -> None:
        super().__init__()
        padding = kernel // 2 if stride == 1 else 0  # at stride 1 "same" is even on all sides
        self.conv = nn.Conv2d(before, after, kernel, stride, padding, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(after, eps=1e-3, momentum=0.01)
        self.active = active

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return features (B, after, H / stride, W / stride) of (B, before, H, W)."""
        (kernel, _), (stride, _) = self.conv.kernel_size, self.conv.stride
        if stride > 1:
            wide, high = _missing(images.shape[3], kernel, stride), _missing(images.shape[2], kernel, stride)
            images = functional.pad(images, [wide // 2, wide - wide // 2, high // 2, high - high // 2])
        found = self.norm(self.conv(images))
        return functional.relu6(found) if self.active else found


class InvertedBottleneck(nn.Module):
    """Expand, filter each channel, project; with a skip where the shape stays (Sandler et al., CVPR 2018)."""

    def __init__(self, before: int, after: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        wide = before * expansion
        self.expand = ConvNorm(before, wide) if expansion > 1 else nn.Identity()
        self.depthwise = ConvNorm(wide, wide, kernel, stride, groups=wide)
        self.project = ConvNorm(wide, after, active=False)
        self.skips = stride == 1 and before == after

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return features (B, after, H / stride, W / stride)."""
        found = self.project(self.depthwise(self.expand(features)))
        return found + features if self.skips else found


class EfficientNetLite(nn.Module):
    """The network up to its pooled features; a classification head is the user's.

    Args:
        depth: factor on the repeats of all stages but the first and the last: 1.0 is Lite0, 1.1 is Lite1.
    """

    def __init__(self, depth: float = 1.0) -> None:
        super().__init__()
        self.stem = ConvNorm(3, 32, 3, 2)
        blocks, width = [], 32
        for number, (expansion, kernel, stride, channels, repeats) in enumerate(STAGES):
            scaled = repeats if number in (0, len(STAGES) - 1) else math.ceil(depth * repeats)
            for repeat in range(scaled):
                blocks.append(InvertedBottleneck(width, channels, expansion, kernel, stride if repeat == 0 else 1))
                width = channels
        self.blocks = nn.Sequential(*blocks)
        self.head = ConvNorm(width, WIDTH)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return features (B, 1280) of images (B, 3, H, W)."""
        return self.features(images)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Return the same; a classifier calls it, for TorchScript knows no ``super``."""
        return self.head(self.blocks(self.stem(images))).mean((2, 3))


class EfficientNetLiteClassifier(EfficientNetLite):
    """The network with a linear layer on its features.

    Args:
        classes: number of logits.
        channels: 1 (the grey values stand for all three colours) or 3.
        depth: see `EfficientNetLite`.
    """

    def __init__(self, classes: int, channels: int = 3, depth: float = 1.0) -> None:
        super().__init__(depth)
        self.channels = channels
        self.classifier = nn.Linear(WIDTH, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (B, classes) of images (B, channels, H, W)."""
        return self.classifier(self.features(images.expand(-1, 3, -1, -1) if self.channels == 1 else images))


_PARTS = (
    (r"^_conv_stem\.", "stem.conv."),
    (r"^_bn0\.", "stem.norm."),
    (r"^_conv_head\.", "head.conv."),
    (r"^_bn1\.", "head.norm."),
    (r"^_blocks\.(\d+)\._expand_conv\.", r"blocks.\1.expand.conv."),
    (r"^_blocks\.(\d+)\._bn0\.", r"blocks.\1.expand.norm."),
    (r"^_blocks\.(\d+)\._depthwise_conv\.", r"blocks.\1.depthwise.conv."),
    (r"^_blocks\.(\d+)\._bn1\.", r"blocks.\1.depthwise.norm."),
    (r"^_blocks\.(\d+)\._project_conv\.", r"blocks.\1.project.conv."),
    (r"^_blocks\.(\d+)\._bn2\.", r"blocks.\1.project.norm."),
)


def from_published(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the published weights under this module's names; the 1,000-class layer is left out."""
    renamed = {}
    for name, tensor in state.items():
        if name.startswith("_fc."):
            continue
        for pattern, own in _PARTS:
            name = re.sub(pattern, own, name)
        renamed[name] = tensor
    return renamed
