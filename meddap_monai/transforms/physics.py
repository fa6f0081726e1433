"""Random transforms that change an image the way ultrasound physics and scanner settings do.

Their mathematics is that of `meddap_monai.augmentation`, which changes whole batches. All of them take ``(C, H, W)`` or
``(F, C, H, W)`` with depth along H, probe at the top, and values from 0 upwards (0..1, 0..255, ...). The result stays
between 0 and the image's own maximum and keeps dtype and meta data, and black background stays black. Parameters are
drawn in `randomize` from ``self.R`` only; applying them is deterministic.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from monai.config import NdarrayOrTensor
from monai.data import get_track_meta
from monai.transforms import RandomizableTransform
from monai.utils import TransformBackends, convert_to_dst_type, convert_to_tensor

from meddap_monai.augmentation.artefacts import haze, shadows
from meddap_monai.augmentation.grey import time_gain
from meddap_monai.augmentation.texture import blur, speckle
from meddap_monai.core.printing import PrintsArguments
from meddap_monai.errors import ConfigurationError


def check_ascending(name: str, value: tuple[float, float], low: float, high: float) -> tuple[float, float]:
    """Return a range that a transform is given, or raise."""
    first, last = (float(part) for part in value)
    if not low <= first <= last <= high:
        raise ConfigurationError(f"{name} is {value}, expected two ascending numbers in {low:g} to {high:g}")
    return first, last


class RandPhysics(PrintsArguments, RandomizableTransform):
    """Shared shape of the transforms below: draw `self.drawn`, then `apply` it."""

    backend = [TransformBackends.TORCH]

    def __init__(self, prob: float) -> None:
        if not 0 <= prob <= 1:
            raise ConfigurationError(f"{type(self).__name__}: prob is {prob}, expected 0 to 1")
        super().__init__(prob)
        self.drawn: dict[str, Any] = {}

    @abstractmethod
    def draw(self) -> dict[str, Any]:
        """Draw the parameters of one image from ``self.R``."""

    @abstractmethod
    def apply(self, images: torch.Tensor, drawn: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the changed image, (1, planes, H, W) float32, white 1, for drawn parameters, one row each."""

    def randomize(self, data: Any = None) -> None:
        """Draw whether the transform acts, and its parameters."""
        super().randomize(None)
        self.drawn = self.draw() if self._do_transform else {}

    def __call__(self, img: NdarrayOrTensor, randomize: bool = True) -> NdarrayOrTensor:
        """Change one image.

        Args:
            img: (C, H, W) or (F, C, H, W), numbers from 0 upwards.
            randomize: draw anew; False applies what was drawn last.

        Returns:
            A new image of the same kind, shape and dtype.
        """
        if randomize:
            self.randomize()
        image = convert_to_tensor(img, track_meta=get_track_meta())
        if not self._do_transform:
            return image
        values = torch.as_tensor(image.as_tensor() if hasattr(image, "as_tensor") else image).to(torch.float32)
        white = values.amax().clamp(min=1e-9)
        planes = (values / white).reshape(1, -1, *values.shape[-2:])
        rows = {name: torch.as_tensor(value)[None] for name, value in self.drawn.items()}
        changed = self.apply(planes, rows).clamp(0, 1).reshape(values.shape) * white
        changed = changed.round() if not image.dtype.is_floating_point else changed
        return convert_to_dst_type(changed, dst=image, dtype=image.dtype)[0]


class RandSpeckle(RandPhysics):
    """Multiplicative speckle: the picture times a Rayleigh-like field of unit mean; see `speckle`.

    Args:
        strength: range of the blend, 0 (no change) to 1 (fully developed).
        size: range of the speckle size in pixels (standard deviation of the filter).
        prob: probability of acting.
    """

    def __init__(
        self, strength: tuple[float, float] = (0.05, 0.3), size: tuple[float, float] = (0.5, 1.5), prob: float = 0.1
    ) -> None:
        super().__init__(prob)
        self.strength = check_ascending("RandSpeckle#strength", strength, 0, 1)
        self.size = check_ascending("RandSpeckle#size", size, 0, 16)

    def draw(self) -> dict[str, Any]:
        """Strength, size in pixels and the seed of the field."""
        strength, size = self.R.uniform(*self.strength), self.R.uniform(*self.size)
        return {"strength": strength, "axial": size, "lateral": size, "seed": int(self.R.randint(2**31))}

    def apply(self, images: torch.Tensor, drawn: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Multiply with the field."""
        return speckle(images, **drawn)


class RandTimeGain(RandPhysics):
    """Brightness over depth: residual attenuation and wrongly set time gain compensation.

    Args:
        slope: range in dB over the image depth; negative darkens with depth.
        sliders: range in dB of each of `count` time gain sliders, joined by a smooth curve.
        count: sliders, 2 to 16.
        dynamic_range: in dB between black and white of the log-compressed image, to turn dB into grey levels.
        prob: probability of acting.
    """

    def __init__(
        self,
        slope: tuple[float, float] = (-12.0, 6.0),
        sliders: tuple[float, float] = (-3.0, 3.0),
        count: int = 8,
        dynamic_range: float = 60.0,
        prob: float = 0.1,
    ) -> None:
        super().__init__(prob)
        self.slope = check_ascending("RandTimeGain#slope", slope, -60, 60)
        self.sliders = check_ascending("RandTimeGain#sliders", sliders, -30, 30)
        if not 2 <= count <= 16 or not 20 <= dynamic_range <= 200:
            raise ConfigurationError(
                f"RandTimeGain: count {count}, dynamic_range {dynamic_range}; expected 2..16, 20..200"
            )
        self.count, self.dynamic_range = count, dynamic_range

    def draw(self) -> dict[str, Any]:
        """Slope in dB and the sliders in dB."""
        return {"slope": self.R.uniform(*self.slope), "sliders": self.R.uniform(*self.sliders, self.count)}

    def apply(self, images: torch.Tensor, drawn: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Add the gain curve to log-compressed grey levels; black stays black."""
        rows = images.shape[-2]
        place = np.linspace(0, 1, rows)
        sliders = np.interp(place, np.linspace(0, 1, self.count), drawn["sliders"][0].numpy())
        curve = torch.from_numpy(float(drawn["slope"]) * place + sliders).to(images).view(1, 1, rows, 1)
        smooth = blur(curve, torch.tensor([rows / (4 * self.count)]), torch.zeros(1))
        return time_gain(images, smooth[:, 0, :, 0] / self.dynamic_range)


class RandAcousticShadow(RandPhysics):
    """Shadows behind what absorbs or reflects sound: bands that darken everything below a depth.

    Args:
        count: range of the number of shadows.
        width: range as a share of the image width.
        depth: range of the depth where a shadow begins, 0 (probe) to 1.
        loss: range of the share of brightness lost at its centre.
        prob: probability of acting.
    """

    def __init__(
        self,
        count: tuple[int, int] = (1, 2),
        width: tuple[float, float] = (0.04, 0.2),
        depth: tuple[float, float] = (0.05, 0.6),
        loss: tuple[float, float] = (0.3, 0.9),
        prob: float = 0.1,
    ) -> None:
        super().__init__(prob)
        low, high = check_ascending("RandAcousticShadow#count", count, 1, 8)
        self.count = int(low), int(high)
        self.width = check_ascending("RandAcousticShadow#width", width, 0.01, 1)
        self.depth = check_ascending("RandAcousticShadow#depth", depth, 0, 1)
        self.loss = check_ascending("RandAcousticShadow#loss", loss, 0, 1)

    def draw(self) -> dict[str, Any]:
        """Centre, width, depth, loss and tilt of each shadow."""
        count = int(self.R.randint(self.count[0], self.count[1] + 1))
        return {
            "centre": self.R.uniform(0, 1, count),
            "width": self.R.uniform(*self.width, count),
            "depth": self.R.uniform(*self.depth, count),
            "loss": self.R.uniform(*self.loss, count),
            "tilt": self.R.uniform(-0.15, 0.15, count),
        }

    def apply(self, images: torch.Tensor, drawn: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Multiply with the transmitted share."""
        return shadows(images, **drawn)


class RandHaze(RandPhysics):
    """Reverberation haze: a smooth veil, strongest near the probe, that lowers contrast.

    Args:
        strength: range as a share of the image's maximum.
        reach: range of the depth over which the veil fades, as a share of the image height.
        prob: probability of acting.
    """

    def __init__(
        self, strength: tuple[float, float] = (0.05, 0.3), reach: tuple[float, float] = (0.2, 0.8), prob: float = 0.1
    ) -> None:
        super().__init__(prob)
        self.strength = check_ascending("RandHaze#strength", strength, 0, 1)
        self.reach = check_ascending("RandHaze#reach", reach, 0.01, 10)

    def draw(self) -> dict[str, Any]:
        """Strength, reach and the seed of the veil's unevenness."""
        return {
            "strength": self.R.uniform(*self.strength),
            "reach": self.R.uniform(*self.reach),
            "seed": int(self.R.randint(2**31)),
        }

    def apply(self, images: torch.Tensor, drawn: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Lay the veil over the image; black background stays black."""
        return haze(images, **drawn)
