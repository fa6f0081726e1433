"""Random transforms that change an image the way ultrasound physics and scanner settings do.

All of them take ``(C, H, W)`` or ``(F, C, H, W)`` with depth along H, probe at the top, and values from 0 upwards
(0..1, 0..255, ...). The result stays between 0 and the image's own maximum, keeps dtype and meta data, and black
background stays black. Parameters are drawn in `randomize` from ``self.R`` only; applying them is deterministic.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.config import NdarrayOrTensor
from monai.data import get_track_meta
from monai.transforms import RandomizableTransform
from monai.utils import TransformBackends, convert_to_dst_type, convert_to_tensor

from meddap_monai.core.printing import PrintsArguments
from meddap_monai.errors import ConfigurationError


def _check_range(name: str, value: tuple[float, float], low: float, high: float) -> tuple[float, float]:
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
    def apply(self, image: torch.Tensor, drawn: Mapping[str, Any]) -> torch.Tensor:
        """Return the changed image, (..., H, W) float32, for drawn parameters."""

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
        changed = self.apply(values, self.drawn).clamp(min=0.0)
        changed = torch.minimum(changed, values.amax())
        changed = changed.round() if not image.dtype.is_floating_point else changed
        return convert_to_dst_type(changed, dst=image, dtype=image.dtype)[0]


class RandSpeckle(RandPhysics):
    """Multiplicative speckle: the picture times a Rayleigh-like field of unit mean.

    The field is the envelope of filtered complex Gaussian noise, which is how fully developed speckle arises
    (Goodman 1976); `strength` blends it with 1.

    Args:
        strength: range of the blend, 0 (no change) to 1 (fully developed).
        size: range of the speckle size in pixels (standard deviation of the filter).
        prob: probability of acting.
    """

    def __init__(
        self, strength: tuple[float, float] = (0.05, 0.3), size: tuple[float, float] = (0.5, 1.5), prob: float = 0.1
    ) -> None:
        super().__init__(prob)
        self.strength = _check_range("RandSpeckle#strength", strength, 0, 1)
        self.size = _check_range("RandSpeckle#size", size, 0, 16)

    def draw(self) -> dict[str, Any]:
        """Strength, size in pixels and the seed of the field."""
        return {
            "strength": self.R.uniform(*self.strength),
            "size": self.R.uniform(*self.size),
            "seed": int(self.R.randint(2**31)),
        }

    def apply(self, image: torch.Tensor, drawn: Mapping[str, Any]) -> torch.Tensor:
        """Multiply (..., H, W) with the field."""
        noise = np.random.RandomState(drawn["seed"]).standard_normal((2, *image.shape[-2:]))
        field = _blur(torch.from_numpy(noise).to(image), drawn["size"], drawn["size"])
        envelope = torch.linalg.vector_norm(field, dim=0)
        return image * (1 + drawn["strength"] * (envelope / envelope.mean().clamp(min=1e-9) - 1))


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
        self.slope = _check_range("RandTimeGain#slope", slope, -60, 60)
        self.sliders = _check_range("RandTimeGain#sliders", sliders, -30, 30)
        if not 2 <= count <= 16 or not 20 <= dynamic_range <= 200:
            raise ConfigurationError(
                f"RandTimeGain: count {count}, dynamic_range {dynamic_range}; expected 2..16, 20..200"
            )
        self.count, self.dynamic_range = count, dynamic_range

    def draw(self) -> dict[str, Any]:
        """Slope in dB and the sliders in dB."""
        return {"slope": self.R.uniform(*self.slope), "sliders": self.R.uniform(*self.sliders, self.count)}

    def apply(self, image: torch.Tensor, drawn: Mapping[str, Any]) -> torch.Tensor:
        """Add the gain curve to (..., H, W) log-compressed grey levels; black stays black."""
        rows = image.shape[-2]
        place = np.linspace(0, 1, rows)
        knots = np.linspace(0, 1, self.count)
        curve = drawn["slope"] * place + np.interp(place, knots, drawn["sliders"])
        smooth = _blur(torch.from_numpy(curve)[None, :, None].to(image), rows / (4 * self.count), 0.0)[0]
        levels = smooth / self.dynamic_range * image.amax()
        return image + levels * _presence(image)


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
        low, high = _check_range("RandAcousticShadow#count", count, 1, 8)
        self.count = int(low), int(high)
        self.width = _check_range("RandAcousticShadow#width", width, 0.01, 1)
        self.depth = _check_range("RandAcousticShadow#depth", depth, 0, 1)
        self.loss = _check_range("RandAcousticShadow#loss", loss, 0, 1)

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

    def apply(self, image: torch.Tensor, drawn: Mapping[str, Any]) -> torch.Tensor:
        """Multiply (..., H, W) with the transmitted share."""
        rows, columns = image.shape[-2:]
        depth = torch.linspace(0, 1, rows).to(image)[:, None]
        place = torch.linspace(0, 1, columns).to(image)[None, :]
        through = torch.ones(rows, columns).to(image)
        for centre, width, begin, loss, tilt in zip(
            *(drawn[name] for name in ("centre", "width", "depth", "loss", "tilt")), strict=True
        ):
            across = torch.exp(-(((place - centre - tilt * (depth - begin)) / (width / 2)) ** 4))
            through = through * (1 - loss * across * torch.sigmoid((depth - begin) / 0.02))
        return image * through


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
        self.strength = _check_range("RandHaze#strength", strength, 0, 1)
        self.reach = _check_range("RandHaze#reach", reach, 0.01, 10)

    def draw(self) -> dict[str, Any]:
        """Strength, reach and the seed of the veil's unevenness."""
        return {
            "strength": self.R.uniform(*self.strength),
            "reach": self.R.uniform(*self.reach),
            "seed": int(self.R.randint(2**31)),
        }

    def apply(self, image: torch.Tensor, drawn: Mapping[str, Any]) -> torch.Tensor:
        """Lay the veil over (..., H, W); black background stays black."""
        rows, columns = image.shape[-2:]
        noise = np.random.RandomState(drawn["seed"]).standard_normal((1, rows, columns))
        uneven = _blur(torch.from_numpy(noise).to(image), rows / 12, columns / 6)[0]
        uneven = 1 + 0.3 * uneven / uneven.std().clamp(min=1e-9)
        fade = torch.exp(-torch.linspace(0, 1, rows).to(image)[:, None] / drawn["reach"])
        veil = (drawn["strength"] * fade * uneven).clamp(0, 1)
        return image + (image.amax() - image) * veil * _presence(image)


def _presence(image: torch.Tensor) -> torch.Tensor:
    """(..., H, W) in 0 to 1: 0 for black, 1 from 4 % of the maximum on."""
    return (image / (0.04 * image.amax()).clamp(min=1e-9)).clamp(0, 1)


def _blur(field: torch.Tensor, rows: float, columns: float) -> torch.Tensor:
    """Gaussian blur of (N, H, W) with standard deviations in pixels, edges repeated."""
    for axis, sigma in ((1, rows), (2, columns)):
        radius = int(round(3 * sigma))
        if radius < 1 or field.shape[axis] == 1:
            continue
        kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1).to(field) / sigma) ** 2)
        kernel = (kernel / kernel.sum()).reshape(1, 1, -1)
        moved = field.movedim(axis, -1)
        flat = F.pad(moved.reshape(-1, 1, moved.shape[-1]), (radius, radius), mode="replicate")
        field = F.conv1d(flat, kernel).reshape(moved.shape).movedim(-1, axis)
    return field
