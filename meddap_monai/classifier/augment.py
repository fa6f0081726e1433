"""Classical augmentation of a whole batch at once: parameters are drawn apart from being applied.

Rotation within 15 degrees, zoom 0.9 to 1.1, horizontal flip, contrast, brightness and noise: what the published
ultrasound studies call classical augmentation. One affine resampling per batch keeps a training step cheap.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the name torch gives it everywhere


@dataclass(frozen=True)
class ClassicalRanges:
    """How far each change goes; every draw is uniform within its range.

    Attributes:
        degrees: rotation to either side.
        zoom: largest relative change of size.
        shift: largest shift as a share of the side.
        flip: probability of a horizontal flip.
        contrast: largest relative change of contrast.
        brightness: largest added brightness, of a range of 1.
        noise: largest standard deviation of the added Gaussian noise, of a range of 1.
    """

    degrees: float = 15.0
    zoom: float = 0.1
    shift: float = 0.03
    flip: float = 0.5
    contrast: float = 0.25
    brightness: float = 0.08
    noise: float = 0.04


CLASSICAL = ClassicalRanges()


@dataclass(frozen=True)
class Drawn:
    """Parameters of a batch: ``affine (B, 2, 3)``; ``contrast``, ``brightness``, ``noise`` ``(B,)``; a noise seed."""

    affine: torch.Tensor
    contrast: torch.Tensor
    brightness: torch.Tensor
    noise: torch.Tensor
    noise_seed: int


def draw_classical(count: int, generator: torch.Generator, ranges: ClassicalRanges = CLASSICAL) -> Drawn:
    """Draw the parameters of `count` images from `generator` (CPU)."""

    def uniform(limit: float) -> torch.Tensor:
        return (torch.rand(count, generator=generator) * 2 - 1) * limit

    angle = uniform(math.radians(ranges.degrees))
    scale = 1 / (1 + uniform(ranges.zoom))
    flip = torch.where(torch.rand(count, generator=generator) < ranges.flip, -1.0, 1.0)
    shift_x, shift_y = uniform(2 * ranges.shift), uniform(2 * ranges.shift)
    cosine, sine = torch.cos(angle) * scale, torch.sin(angle) * scale
    affine = torch.stack(
        [torch.stack([cosine * flip, -sine, shift_x], dim=1), torch.stack([sine * flip, cosine, shift_y], dim=1)], dim=1
    )
    noise_seed = int(torch.randint(2**31, (1,), generator=generator))
    return Drawn(
        affine, 1 + uniform(ranges.contrast), uniform(ranges.brightness), uniform(ranges.noise).abs(), noise_seed
    )


def apply_classical(images: torch.Tensor, drawn: Drawn) -> torch.Tensor:
    """Apply drawn parameters to images ``(B, C, H, W)`` float in 0..1; the result stays in 0..1."""
    device = images.device
    grid = F.affine_grid(drawn.affine.to(device), list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    shape = (-1, 1, 1, 1)
    contrast, brightness, noise = (
        value.to(device).view(shape) for value in (drawn.contrast, drawn.brightness, drawn.noise)
    )
    grey = torch.Generator().manual_seed(drawn.noise_seed)
    speckle = torch.randn(images.shape, generator=grey).to(device)
    return ((moved - 0.5) * contrast + 0.5 + brightness + speckle * noise).clamp_(0, 1)
