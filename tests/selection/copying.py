"""Ways in which a generator repeats a training image, planted on purpose."""

import io

import numpy as np
from PIL import Image

KINDS = ("flip", "crop", "gamma", "jpeg", "speckle")


def thumbnail(pixels: np.ndarray) -> np.ndarray:
    """Return (64, 64) float32 in 0 to 1 of a (H, W) uint8 image."""
    squeezed = Image.fromarray(np.ascontiguousarray(pixels)).resize((64, 64), Image.Resampling.BILINEAR)
    return np.asarray(squeezed, np.float32) / 255


def plant(pixels: np.ndarray, kind: str, rng: np.random.Generator) -> np.ndarray:
    """Return a changed copy (H, W) uint8: flipped, cropped to 90 %, gamma, JPEG quality 50 or speckle noise."""
    if kind == "flip":
        return pixels[:, ::-1]
    if kind == "crop":
        sides = [round(0.9 * side) for side in pixels.shape]
        top, left = (int(rng.integers(0, side - part + 1)) for side, part in zip(pixels.shape, sides, strict=True))
        cut = Image.fromarray(pixels[top : top + sides[0], left : left + sides[1]])
        return np.asarray(cut.resize(pixels.shape[::-1], Image.Resampling.BILINEAR))
    if kind == "gamma":
        return (255 * (pixels / 255.0) ** rng.choice([0.6, 1.6])).astype(np.uint8)
    if kind == "jpeg":
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "JPEG", quality=50)
        return np.asarray(Image.open(stream))
    return np.clip(pixels * (1 + 0.2 * rng.standard_normal(pixels.shape)), 0, 255).astype(np.uint8)
