"""Augmentation of a whole batch at once, on its device: parameters are drawn apart from being applied.

`classical`: rotation within 15 degrees, zoom 0.9 to 1.1, horizontal flip, contrast, brightness and noise: what the
published ultrasound studies call classical augmentation. `ultrasound`: `meddap_monai.augmentation.policy`. One
resampling per batch keeps a training step cheap.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the name torch gives it everywhere

from meddap_monai.augmentation.policy import apply, draw
from meddap_monai.classifier.config import ClassifyConfig
from meddap_monai.core.distributed import SINGLE_PROCESS, Ranks
from meddap_monai.core.seeds import generator


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

    def scaled(self, strength: float) -> ClassicalRanges:
        """Return ranges that are `strength` times as wide; at 1 these ones."""
        wide = {name: value * strength for name, value in asdict(self).items()}
        return ClassicalRanges(**wide | {"flip": min(1.0, strength) * self.flip})


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


def augment(images: torch.Tensor, config: ClassifyConfig, number: int, ranks: Ranks = SINGLE_PROCESS) -> torch.Tensor:
    """Return a batch as the configuration's augmentation changes it; drawn from the run's seed and the batch's number.

    Args:
        images: ``(B, C, H, W)`` float in 0..1, before they are normalised.
        config: `augmentation`, `augmentation_strength`, `augmentation_without`, `seed`.
        number: of the step or batch.
        ranks: processes that share the batch, every image its own; `images` are those of this one.
    """
    dice = generator(config.seed, "classify/augment", number)
    if config.augmentation == "classical":
        drawn = draw_classical(len(images), dice, CLASSICAL.scaled(config.augmentation_strength))
        return apply_classical(images, drawn)
    if config.augmentation == "ultrasound":
        everyone = draw(len(images) * ranks.size, dice, config.augmentation_strength, config.augmentation_without)
        mine = {
            part: {name: value[ranks.rank :: ranks.size] for name, value in values.items()}
            for part, values in everyone.items()
        }
        return apply(images, mine)
    return images
