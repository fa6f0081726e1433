"""Colour as it is stored: YBR to RGB, and grey that was stored as colour, returned as one channel where wanted."""

import numpy as np

COLOURS = ("keep", "auto", "grey")
_TOLERANCE = 6
_PART = 3 * 2**15


def ybr_to_rgb(values: np.ndarray, bits: int = 8) -> np.ndarray:
    """YBR_FULL (..., 3) of `bits` bits to RGB of the same type, rounded (PS3.3 C.7.6.3.1.2)."""
    luma, blue, red = (values[..., channel].astype(np.float32) for channel in range(3))
    blue, red = blue - (1 << (bits - 1)), red - (1 << (bits - 1))
    colour = np.stack([luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue], -1)
    return np.clip(np.rint(colour), 0, (1 << bits) - 1).astype(values.dtype)


def reduce_colour(pixels: np.ndarray, colour: str) -> tuple[np.ndarray, bool]:
    """Return pixels with as many channels as are wanted.

    Args:
        pixels: (..., C) uint8, C 1 (grey) or 3 (RGB).
        colour: "keep" as they are, "auto" one channel where colour is but grey, "grey" always one.

    Returns:
        (..., C) uint8, a view where nothing is to be computed, and whether it is grey stored as colour: 99.9 % of the
        pixels differ by at most 6 levels between channels.
    """
    if pixels.shape[-1] != 3:
        return pixels, False
    equal = _equal_channels(pixels)
    grey = equal or _nearly_equal_channels(pixels)
    if colour == "grey" or (colour == "auto" and grey):
        pixels = pixels[..., :1] if equal else _luma(pixels)[..., None]
    return pixels, grey


def _equal_channels(pixels: np.ndarray) -> bool:
    """Whether all three channels are equal; neighbouring bytes are compared, part by part for the cache."""
    values = pixels.ravel()
    for begin in range(0, len(values), _PART):
        part = values[begin : begin + _PART]
        same = part[1:] == part[:-1]
        same[2::3] = True
        if not same.all():
            return False
    return True


def _nearly_equal_channels(pixels: np.ndarray) -> bool:
    flat = pixels.reshape(-1, 3)
    for part in (flat[:: max(1, len(flat) // 4096)], flat):  # a sample first: it settles most colour images
        red, green, blue = (np.ascontiguousarray(part[:, channel]) for channel in range(3))
        spread = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
        if (spread > _TOLERANCE).mean() > (0.001 if part is flat else 0.01):
            return False
    return True


def _luma(pixels: np.ndarray) -> np.ndarray:
    """(..., 3) uint8 to (...) uint8 (ITU-R BT.601)."""
    red, green, blue = (pixels[..., channel] for channel in range(3))
    weighted = red * np.float32(0.299) + green * np.float32(0.587) + blue * np.float32(0.114)
    return np.rint(weighted).astype(np.uint8)
