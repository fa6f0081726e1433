"""What is drawn over a scan: coloured marks, lines of text, and the crosses of calipers.

A small detector for what should teach nothing, not for what names a person: it finds marks that look drawn and misses
others (dotted lines, arrows, grey marks in bright tissue). De-identification does not rest on it.
"""

import numpy as np
from scipy import ndimage

from meddap_monai.images.reading.burned_in import text_lines

_SPREAD = 60
"""Levels between the channels of a pixel from which it is coloured."""
_CONTENT = 0.05
"""Share of coloured pixels from which colour is what the image shows (Doppler, a tinted map), and no mark."""
_LETTERS = 3
_CONTRAST = 60
_BRIGHT = 180
_COVERED = 0.8
_EMPTY = 0.2


def overlay_mask(pixels: np.ndarray) -> np.ndarray:
    """Find the marks that are drawn over a scan.

    Args:
        pixels: (H, W), (H, W, 1) or (H, W, 3) uint8.

    Returns:
        (H, W) bool, True on a mark and two pixels around it, where scaling and compression smear it.
    """
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    grey = pixels.max(axis=2)
    found = _coloured(pixels) | _crosses(grey)
    for top, left, bottom, right in text_lines(grey, _LETTERS):
        near = bottom - top  # a letter that was missed, beside one that was found
        found[top:bottom, max(0, left - near) : right + near] = True
    return ndimage.binary_dilation(found, np.ones((5, 5))) if found.any() else found


def _coloured(pixels: np.ndarray) -> np.ndarray:
    """(H, W) bool: coloured pixels of an image that is grey otherwise."""
    coloured = np.ptp(pixels, axis=2) > _SPREAD
    return coloured & bool(coloured.mean() <= _CONTENT)


def _crosses(grey: np.ndarray) -> np.ndarray:
    """(H, W) bool: upright and diagonal crosses of thin bright strokes, 5 to a tenth of the rows high."""
    largest = max(15, grey.shape[0] // 10)
    width = max(5, grey.shape[0] // 100 | 1)
    strokes = grey.astype(np.int16) - ndimage.grey_opening(grey, (width, width)) > _CONTRAST
    labels, _ = ndimage.label(strokes & (grey >= _BRIGHT), np.ones((3, 3)))
    found = np.zeros(grey.shape, bool)
    for number, place in enumerate(ndimage.find_objects(labels), start=1):
        height, wide = (side.stop - side.start for side in place)
        if min(height, wide) >= 5 and max(height, wide) <= min(largest, 1.4 * min(height, wide)):
            shape = labels[place] == number
            if _is_cross(shape) or _is_cross(_turned(shape)):
                found[place] |= shape
    return found


def _is_cross(shape: np.ndarray) -> bool:
    """Whether a (h, w) bool patch is a plus: one row and one column of its middle are full, its corners empty."""
    (height, wide), middle = shape.shape, shape[_middle(shape.shape[0])]
    column = shape[:, _middle(wide)]
    if max(middle.mean(axis=1)) < _COVERED or max(column.mean(axis=0)) < _COVERED:
        return False
    down, across = max(1, height // 3), max(1, wide // 3)
    corners = [shape[:down, :across], shape[:down, -across:], shape[-down:, :across], shape[-down:, -across:]]
    return max(corner.mean() for corner in corners) <= _EMPTY


def _middle(side: int) -> slice:
    return slice(side // 3, side - side // 3)


def _turned(shape: np.ndarray) -> np.ndarray:
    """A patch turned by 45 degrees, cut to what is in it: a diagonal cross becomes a plus."""
    turned = ndimage.rotate(np.pad(shape, 2).astype(np.float32), 45, order=1) > 0.4
    (place,) = ndimage.find_objects(turned.astype(int)) or [(slice(0), slice(0))]
    return turned[place] if turned.any() else np.zeros((3, 3), bool)
