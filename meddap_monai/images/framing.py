"""Between images of two shapes, and between an image inside a MONAI pipeline and 8-bit grey levels."""

from typing import Any

import numpy as np
import torch
from PIL import Image


def frame(
    image: Image.Image,
    height: int,
    width: int,
    fit: str = "crop",
    draw: np.random.Generator | None = None,
    resampling: Image.Resampling = Image.Resampling.BILINEAR,
) -> Image.Image:
    """Return an image in another shape.

    Args:
        image: in any mode.
        height: wanted, in pixels.
        width: wanted, in pixels.
        fit: "crop" scales until nothing of the shape is empty and cuts the middle (MEDDAP), "stretch" changes the
            aspect, "pad" keeps the whole image on black.
        draw: draws the place of the cut instead of the middle.
        resampling: of the scaling.
    """
    if fit == "stretch":
        return image.resize((width, height), resampling)
    scale = (max if fit == "crop" else min)(width / image.width, height / image.height)
    wide, high = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    if fit == "pad":
        canvas = Image.new(image.mode, (width, height))
        canvas.paste(image.resize((wide, high), resampling), ((width - wide) // 2, (height - high) // 2))
        return canvas
    wide, high = max(wide, width), max(high, height)
    spare = (wide - width, high - height)
    left, top = (int(draw.integers(0, free + 1)) if draw else free // 2 for free in spare)
    return image.resize((wide, high), resampling).crop((left, top, left + width, top + height))


def to_square(image: Image.Image, size: int, fit: str = "pad") -> torch.Tensor:
    """Return an image as a classifier takes it, ``(C, size, size)`` uint8; see `frame`."""
    quick = fit == "stretch" and image.width > 2 * size
    square = frame(image, size, size, fit, resampling=Image.Resampling.BOX if quick else Image.Resampling.BILINEAR)
    return torch.from_numpy(np.atleast_3d(np.array(square)).transpose(2, 0, 1).copy())


def crop_top(image: Image.Image, height: int, width: int) -> Image.Image:
    """Return the largest crop of the wanted shape, scaled: from the top of a high image, the centre of a wide one.

    The same crop as a base's training pictures have: breast images keep the lesion and lose the burned-in text below.
    """
    scale = min(image.width / width, image.height / height)
    wide, high = min(scale * width, image.width), min(scale * height, image.height)  # rounding leaves no image
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

    They are cropped and scaled by `crop_top`.

    Args:
        levels: ``(H, W) or (H, W, 3) uint8``.
        like: ``(C, H, W)`` array or tensor; ``(C, W, H)`` when `transposed`.
        black_white: its values for black and white.
        transposed: whether the width comes first.
    """
    channels, *space = like.shape
    height, width = reversed(space) if transposed else space
    image = Image.fromarray(levels).convert("L" if channels == 1 else "RGB")
    pixels = np.asarray(crop_top(image, height, width), dtype=np.float32).reshape(height, width, channels)
    pixels = pixels.swapaxes(0, 1) if transposed else pixels
    black, white = black_white
    values = black + np.moveaxis(pixels, -1, 0) / 255.0 * (white - black)
    from monai.utils import convert_to_dst_type  # those who frame files do without MONAI, which takes seconds to load

    return convert_to_dst_type(np.ascontiguousarray(values), dst=like)[0]
