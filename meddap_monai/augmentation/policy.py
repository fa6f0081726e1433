"""The ultrasound policy: what separates one scanner and examiner from another, drawn per image, applied per batch.

Ranges at strength 1 stand in `PARTS`. Those of rotation, zoom, aspect, shift, gain, offset and gamma are the ones with
which a network that starts from ImageNet gained most on images of a scanner it had not seen. Drawing and applying are
apart: what is drawn depends on the generator only, not on device, image size or which parts are left out.
"""

import math
from collections.abc import Callable, Collection, Mapping

import torch

from meddap_monai.augmentation.artefacts import shadows
from meddap_monai.augmentation.geometry import move
from meddap_monai.augmentation.grey import dynamic_range, gain, gamma, offset, presence, time_gain
from meddap_monai.augmentation.marks import burn_in
from meddap_monai.augmentation.parts import PARTS
from meddap_monai.augmentation.texture import blur, speckle

Values = dict[str, torch.Tensor]
"""Parameters of one part by name, on the CPU, each with one row per image."""
_SIDE = 128
"""Sizes of blur and speckle are drawn in pixels of images of this side, and grow with the image."""


class Dice:
    """Draws for `count` images from one generator (CPU); `strength` widens every range and raises every chance."""

    def __init__(self, count: int, generator: torch.Generator, strength: float) -> None:
        self.count, self.generator, self.strength = count, generator, strength

    def between(self, low: float, high: float, *shape: int) -> torch.Tensor:
        """Return ``(B, *shape)``, uniform."""
        return low + (high - low) * torch.rand(self.count, *shape, generator=self.generator)

    def within(self, limit: float, *shape: int) -> torch.Tensor:
        """Return ``(B, *shape)``, uniform within `limit` times the strength to either side."""
        return self.between(-limit * self.strength, limit * self.strength, *shape)

    def up_to(self, limit: float) -> torch.Tensor:
        """Return ``(B,)``, uniform from 0 to `limit` times the strength."""
        return self.between(0, limit * self.strength)

    def factor(self, low: float, high: float) -> torch.Tensor:
        """Return ``(B,)``, uniform between powers of two factors around 1."""
        return self.between(low**self.strength, high**self.strength)

    def chance(self, share: float, *shape: int) -> torch.Tensor:
        """Return ``(B, *shape)`` of 1 for about this share of the images at strength 1, else 0."""
        return (self.between(0, 1, *shape) < share * min(self.strength, 1.0)).float()

    def seed(self) -> torch.Tensor:
        """Return ``(B,)`` int64."""
        return torch.randint(2**31, (self.count,), generator=self.generator)


def _blur(dice: Dice) -> Values:
    acts = dice.chance(0.4)
    return {"axial": acts * dice.up_to(0.6), "lateral": acts * dice.up_to(1.2)}


def _speckle(dice: Dice) -> Values:
    axial, lateral = dice.between(0.3, 0.8), dice.between(0.5, 1.6)
    strength = dice.up_to(0.48) * (0.5 / lateral).sqrt()  # what is coarse is seen more
    return {"strength": strength.clamp(max=1.0), "axial": axial, "lateral": lateral, "seed": dice.seed()}


def _shadows(dice: Dice) -> Values:
    acts = dice.chance(0.25)[:, None] * torch.cat([torch.ones(dice.count, 1), dice.chance(0.4, 1)], dim=1)
    return {
        "centre": dice.between(0, 1, 2),
        "width": dice.between(0.04, 0.2, 2),
        "depth": dice.between(0.05, 0.6, 2),
        "loss": acts * dice.between(0.3, 0.8, 2) * min(dice.strength, 1.0),
        "tilt": dice.between(-0.15, 0.15, 2),
    }


DRAWS: Mapping[str, Callable[[Dice], Values]] = {
    "blur": _blur,
    "speckle": _speckle,
    "shadows": _shadows,
    "probe": lambda dice: {"half_angle": dice.chance(0.3) * dice.up_to(math.radians(35)).clamp(max=0.9)},
    "flip": lambda dice: {"mirror": 1 - 2 * dice.chance(0.5)},
    "aspect": lambda dice: {"ratio": dice.factor(0.8, 1.2)},
    "zoom": lambda dice: {"factor": dice.factor(0.6, 1.3)},
    "rotation": lambda dice: {"angle": dice.within(math.radians(20))},
    "shift": lambda dice: {"shift": dice.within(0.15, 2)},
    "gamma": lambda dice: {"exponent": torch.exp(dice.within(0.7))},
    "time_gain": lambda dice: {"slope": dice.within(0.12)},
    "dynamic_range": lambda dice: {"ratio": dice.factor(0.8, 1.25)},
    "gain": lambda dice: {"factor": 1 + dice.within(0.3).clamp(min=-0.9)},
    "offset": lambda dice: {"level": dice.within(0.15)},
    "marks": lambda dice: {"level": dice.chance(0.25) * dice.between(0.6, 1.0), "seed": dice.seed()},
}
"""Part -> how its parameters are drawn."""


def draw(
    count: int, generator: torch.Generator, strength: float = 1.0, without: Collection[str] = ()
) -> dict[str, Values]:
    """Draw the parameters of `count` images; leaving a part out does not change what the others draw.

    Args:
        count: number of images.
        generator: on the CPU.
        strength: 0 changes nothing, 1 is what `PARTS` says, 2 doubles every range.
        without: parts to leave out.

    Returns:
        Part -> parameters, in the order of their action; nothing at strength 0.
    """
    dice = Dice(count, generator, strength)
    drawn = {part: DRAWS[part](dice) for part in PARTS}
    return {part: values for part, values in drawn.items() if strength and part not in without}


def apply(images: torch.Tensor, drawn: Mapping[str, Values]) -> torch.Tensor:
    """Return new images ``(B, C, H, W)`` float in 0..1 for drawn parameters.

    Beam and tissue act first, in the frame of the probe; then the whole geometry, in one resampling; then the knobs and
    the marks, in the frame of the screen.
    """
    for part, change in _BEAM.items():
        if part in drawn:
            images = change(images, **drawn[part])
    images = _moved(images, drawn)
    where = presence(images)
    for part, change in _SCREEN.items():
        if part in drawn:
            images = change(images, **drawn[part], **{"where": where} if part in _ADDING else {})
    return images


def _moved(images: torch.Tensor, drawn: Mapping[str, Values]) -> torch.Tensor:
    if not set(_GEOMETRY) & set(drawn):
        return images
    values = {part: drawn.get(part, neutral(len(images))) for part, neutral in _GEOMETRY.items()}
    root = values["aspect"]["ratio"].sqrt()
    width = values["zoom"]["factor"] * root * values["flip"]["mirror"]
    size = torch.stack([width, values["zoom"]["factor"] / root], dim=1)
    return move(images, **values["rotation"], size=size, **values["shift"], **values["probe"])


def _blurred(images: torch.Tensor, axial: torch.Tensor, lateral: torch.Tensor) -> torch.Tensor:
    return blur(images, axial * _scale(images), lateral * _scale(images))


def _speckled(images: torch.Tensor, axial: torch.Tensor, lateral: torch.Tensor, **values: torch.Tensor) -> torch.Tensor:
    return speckle(images, axial=axial * _scale(images), lateral=lateral * _scale(images), **values)


def _scale(images: torch.Tensor) -> float:
    return min(images.shape[-2:]) / _SIDE


def _sloped(images: torch.Tensor, slope: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    return time_gain(images, slope[:, None] * torch.linspace(-1, 1, images.shape[-2]), where)


_Changes = Mapping[str, Callable[..., torch.Tensor]]
_BEAM: _Changes = {"blur": _blurred, "speckle": _speckled, "shadows": shadows}
_GEOMETRY: Mapping[str, Callable[[int], Values]] = {
    "probe": lambda count: {"half_angle": torch.zeros(count)},
    "flip": lambda count: {"mirror": torch.ones(count)},
    "aspect": lambda count: {"ratio": torch.ones(count)},
    "zoom": lambda count: {"factor": torch.ones(count)},
    "rotation": lambda count: {"angle": torch.zeros(count)},
    "shift": lambda count: {"shift": torch.zeros(count, 2)},
}
"""Part -> the parameters that leave an image where it is."""
_SCREEN: _Changes = {
    "gamma": gamma,
    "time_gain": _sloped,
    "dynamic_range": dynamic_range,
    "gain": gain,
    "offset": offset,
    "marks": burn_in,
}
_ADDING = {"time_gain", "dynamic_range", "offset"}
"""Parts that add to grey levels, so must know what is background."""
