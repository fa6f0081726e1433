"""Between an image inside a MONAI pipeline and 8-bit grey levels, and between images of two shapes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from monai.utils import convert_to_dst_type
from PIL import Image


def fit(image: Image.Image, height: int, width: int) -> Image.Image:
    """Return the largest crop of the wanted shape, scaled: from the top of a high image, the centre of a wide one.

    The same crop as the base's training pictures have (``diffusion/pretraining/views.py``), for any aspect ratio.
    """
    scale = min(image.width / width, image.height / height)
    wide, high = scale * width, scale * height
    left = (image.width - wide) / 2
    return image.resize((width, height), Image.Resampling.BICUBIC, box=(left, 0.0, left + wide, high))


def to_levels(image: Any, black_white: tuple[float, float], transposed: bool = False) -> np.ndarray:
    """Return ``(H, W) or (H, W, 3) uint8`` of a pipeline image.

    Args:
        image: ``(C, H, W)`` array or tensor, C = 1 or 3; ``(C, W, H)`` when `transposed`.
        black_white: its values for black and white.
        transposed: whether the width comes first.
    """
    pixels = image.detach().cpu().numpy() if isinstance(image, torch.Tensor) else np.asarray(image)
    black, white = black_white
    levels = np.clip((pixels.astype(np.float32) - black) / (white - black), 0, 1) * 255
    levels = np.moveaxis(np.rint(levels).astype(np.uint8), 0, -1)
    levels = levels.swapaxes(0, 1) if transposed else levels
    return levels[..., 0] if levels.shape[-1] == 1 else levels


def from_levels(levels: np.ndarray, like: Any, black_white: tuple[float, float], transposed: bool = False) -> Any:
    """Return grey levels as an image of the shape, type and meta data of `like`.

    They are cropped and scaled by `fit`.

    Args:
        levels: ``(H, W) or (H, W, 3) uint8``.
        like: ``(C, H, W)`` array or tensor; ``(C, W, H)`` when `transposed`.
        black_white: its values for black and white.
        transposed: whether the width comes first.
    """
    channels, *space = like.shape
    height, width = reversed(space) if transposed else space
    image = Image.fromarray(levels).convert("L" if channels == 1 else "RGB")
    pixels = np.asarray(fit(image, height, width), dtype=np.float32).reshape(height, width, channels)
    pixels = pixels.swapaxes(0, 1) if transposed else pixels
    black, white = black_white
    values = black + np.moveaxis(pixels, -1, 0) / 255.0 * (white - black)
    return convert_to_dst_type(np.ascontiguousarray(values), dst=like)[0]
