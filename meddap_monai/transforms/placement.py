"""How an image lies at its place in a pipeline: which axis is the width, and which values are black and white."""

from collections.abc import Mapping
from typing import Any

import torch
from monai.data import MetaTensor
from monai.utils import MetaKeys

from meddap_monai.errors import ConfigurationError

BLACK_WHITE = (0.0, 255.0)
"""The one default of all diffusion transforms: what readers give."""
_CLEAR = 1.2
"""How much more an axis must run along one direction than along the other."""


def width_first(image: Any) -> bool | None:
    """Tell whether an image is ``(C, W, H)``, from what its reader and MONAI's transforms wrote; None: not to be known.

    A reader that gives an affine says by it which axis runs along x (`UltrasoundReader`, NIfTI, DICOM, ITK). MONAI's
    reader of PNG and JPEG gives none, but the picture's width and height. Transforms keep the affine true.

    Args:
        image: ``(C, H, W)`` or ``(C, W, H)``; only a `MetaTensor` knows anything.
    """
    if not isinstance(image, MetaTensor) or image.ndim != 3:
        return None
    meta, along = image.meta, _along_x(torch.as_tensor(image.affine).double())
    steps = [step for step in image.applied_operations if isinstance(step, Mapping)]
    turns = [_exchanges(step) for step in steps]
    loaded = tuple(int(side) for side in (steps[0].get("orig_size", ()) if steps else image.shape[1:]))
    loaded = loaded[::-1] if turns[:1] == [True] else loaded
    if along is None:
        return None
    along = along != sum(turns) % 2
    if MetaKeys.ORIGINAL_AFFINE in meta:
        stated = tuple(int(side) for side in torch.as_tensor(meta.get(MetaKeys.SPATIAL_SHAPE, loaded)).ravel()[:2])
        return along != (loaded != stated and loaded == stated[::-1])
    if "width" in meta and "height" in meta:
        width, height = int(meta["width"]), int(meta["height"])
        if width != height and loaded in ((width, height), (height, width)):
            return (loaded == (width, height)) == along
    return None


def _exchanges(step: Mapping[str, Any]) -> bool:
    """Whether a noted step is a ``Transpose`` of the two axes: it leaves the affine, and notes the size afterwards."""
    return tuple((step.get("extra_info") or {}).get("indices", ()))[-2:] == (2, 1)


def _along_x(affine: torch.Tensor) -> bool | None:
    """Whether the first axis runs along x rather than along y; None where it runs along both."""
    across, down = abs(float(affine[0, 0])), abs(float(affine[1, 0]))
    if across > _CLEAR * down:
        return True
    return False if down > _CLEAR * across else None


def is_transposed(image: Any, given: bool | None, where: str) -> bool:
    """Return whether an image has its width first: as given, else as `width_first` finds.

    Raises:
        ConfigurationError: neither tells.
    """
    found = width_first(image) if given is None else given
    if found is None:
        kind = "image of equal sides" if image.shape[-1] == image.shape[-2] else type(image).__name__
        raise ConfigurationError(
            f"{where}: nothing tells whether this {kind} {tuple(image.shape)} has its width or its height first; "
            "say transposed=True (MONAI's LoadImage reads PNG and JPEG width first) or transposed=False, or read with "
            "LoadUltrasound"
        )
    return found


def check_levels(image: Any, black_white: tuple[float, float], where: str) -> None:
    """Raise when an image's values cannot be what is said of black and white.

    Raises:
        ConfigurationError: names both.
    """
    black, white = black_white
    low, high = float(image.min()), float(image.max())
    span = white - black
    if high > white + 7 * span or low < black - 7 * span or 0 < high - black <= span / 200:
        raise ConfigurationError(
            f"{where}: the image holds values from {low:g} to {high:g}, but black_white says {black:g} and {white:g}; "
            "give the values that black and white have at this place, (0, 1) after scaling"
        )
