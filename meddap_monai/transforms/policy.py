"""The ultrasound policy of `classify` as MONAI transforms: all of it, and those parts that MONAI has no transform for.

Rotation, zoom, shift and mirroring are MONAI's `RandAffine` and `RandFlip`, gain and gamma its `RandScaleIntensity` and
`RandAdjustContrast`, blur its `RandGaussianSmooth`; shadows, time gain and speckle stand in `physics`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from meddap_monai.augmentation import policy
from meddap_monai.augmentation.geometry import move
from meddap_monai.augmentation.grey import dynamic_range
from meddap_monai.augmentation.marks import burn_in
from meddap_monai.augmentation.parts import PARTS
from meddap_monai.core.constraints import check_choice, check_range
from meddap_monai.transforms.physics import RandPhysics, check_ascending


class RandUltrasoundAugment(RandPhysics):
    """What separates one scanner and examiner from another; the same policy as ``classify#augmentation: ultrasound``.

    Args:
        strength: 0 changes nothing, 1 is what `meddap_monai.augmentation.parts.PARTS` says, 2 doubles every range.
        without: names of parts to leave out.
        prob: probability of acting; within, the parts have chances of their own.
    """

    def __init__(self, strength: float = 1.0, without: Sequence[str] = (), prob: float = 1.0) -> None:
        super().__init__(prob)
        check_range(strength, 0, 3, "RandUltrasoundAugment#strength")
        for part in without:
            check_choice(part, PARTS, "RandUltrasoundAugment#without")
        self.strength, self.without = strength, tuple(without)

    def draw(self) -> dict[str, Any]:
        """The seed that all parameters are drawn from."""
        return {"seed": int(self.R.randint(2**31))}

    def apply(self, images: torch.Tensor, drawn: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Apply all parts."""
        generator = torch.Generator().manual_seed(int(drawn["seed"]))
        return policy.apply(images, policy.draw(1, generator, self.strength, self.without))


class RandDynamicRange(RandPhysics):
    """Another span of decibels between black and white; see `dynamic_range`.

    Args:
        ratio: range of the decibels shown before over those shown after; above 1 dark echoes vanish.
        prob: probability of acting.
    """

    def __init__(self, ratio: tuple[float, float] = (0.8, 1.25), prob: float = 0.1) -> None:
        super().__init__(prob)
        self.ratio = check_ascending("RandDynamicRange#ratio", ratio, 0.1, 10)

    def draw(self) -> dict[str, Any]:
        """The ratio."""
        return {"ratio": self.R.uniform(*self.ratio)}

    def apply(self, images: torch.Tensor, drawn: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Stretch the grey levels away from white, or towards it."""
        return dynamic_range(images, **drawn)


class RandConvexProbe(RandPhysics):
    """From a linear to a convex probe: the rectangle becomes a fan; see `bend`. Black comes in from outside.

    Args:
        half_angle: range in degrees from the middle to the edge of the fan.
        prob: probability of acting.
    """

    def __init__(self, half_angle: tuple[float, float] = (10.0, 35.0), prob: float = 0.1) -> None:
        super().__init__(prob)
        self.half_angle = check_ascending("RandConvexProbe#half_angle", half_angle, 0, 50)

    def draw(self) -> dict[str, Any]:
        """The half angle in radians."""
        return {"half_angle": math.radians(self.R.uniform(*self.half_angle))}

    def apply(self, images: torch.Tensor, drawn: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Bend the field of view."""
        half_angle = drawn["half_angle"].to(torch.float32)
        return move(images, torch.zeros(1), torch.ones(1, 2), torch.zeros(1, 2), half_angle)


class RandMarks(RandPhysics):
    """Calipers, dotted lines and measured lengths over the picture; no pixel gets darker.

    Args:
        level: range of their grey level as a share of the image's maximum.
        prob: probability of acting.
    """

    def __init__(self, level: tuple[float, float] = (0.6, 1.0), prob: float = 0.1) -> None:
        super().__init__(prob)
        self.level = check_ascending("RandMarks#level", level, 0, 1)

    def draw(self) -> dict[str, Any]:
        """Their grey level, and the seed of what is drawn and where."""
        return {"level": self.R.uniform(*self.level), "seed": int(self.R.randint(2**31))}

    def apply(self, images: torch.Tensor, drawn: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Draw the marks."""
        return burn_in(images, **drawn)
