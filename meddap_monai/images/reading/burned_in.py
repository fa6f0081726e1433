"""Lines of text that are burned into a picture, told by their letters.

A letter is a patch of strokes that stand out from what surrounds them, brighter or darker. In a line of text, letters
follow one another closely, share an upper or a lower edge, and are drawn in one grey value. Speckle does none of the
three: on simulated and on real scans without text hardly ever more than three patches line up.
"""

import numpy as np
from scipy import ndimage

_PER_PATCHES = 250
_CONTRAST = 50
_LARGEST = 3000
"""Patches beyond the largest these are not looked at, which bounds the time."""


def text_lines(grey: np.ndarray, letters: int = 4) -> np.ndarray:
    """Find the letters of burned-in text.

    Args:
        grey: (H, W) uint8.
        letters: patches in a row from which they are text; one more for every 250 patches, since chance aligns some.

    Returns:
        (N, 4) int boxes (top, left, bottom, right) of the letters that stand in a line.
    """
    return np.concatenate([_lines(_letters(picture), letters) for picture in (grey, 255 - grey)])


def _letters(grey: np.ndarray) -> np.ndarray:
    """(N, 5) int: boxes and brightest values of the patches of bright strokes of a letter's size, left to right."""
    rows = grey.shape[0]
    width = max(7, rows // 60 | 1)
    strokes = grey.astype(np.int16) - ndimage.grey_opening(grey, (width, width)) > _CONTRAST
    labels, count = ndimage.label(strokes, np.ones((3, 3)))
    boxes = [(one.start, other.start, one.stop, other.stop) for one, other in ndimage.find_objects(labels)]
    peaks = ndimage.maximum(grey, labels, np.arange(1, count + 1)) if count else []
    found = np.column_stack([np.reshape(boxes, (-1, 4)), np.reshape(peaks, (-1, 1))]).astype(int)
    height, width = found[:, 2] - found[:, 0], found[:, 3] - found[:, 1]
    found = found[(height >= 4) & (height <= max(12, rows // 10)) & (width <= 3 * height)]
    found = found[np.argsort(found[:, 0] - found[:, 2], kind="stable")[:_LARGEST]]
    return found[np.argsort(found[:, 1], kind="stable")]


def _lines(letters: np.ndarray, least: int) -> np.ndarray:
    """(M, 4): the boxes of those letters that stand in a line, by the longest chain that ends in each of them."""
    top, left, bottom, right, peak = letters.T
    height = bottom - top
    length, before = np.ones(len(letters), int), np.full(len(letters), -1)
    for one in range(len(letters)):
        earlier, near = slice(0, one), max(1.0, 0.05 * height[one])
        gap = left[one] - right[earlier]
        aligned = np.minimum(np.abs(bottom[earlier] - bottom[one]), np.abs(top[earlier] - top[one])) <= near
        alike = (height[earlier] >= 0.6 * height[one]) & (height[earlier] <= 1.7 * height[one])
        follows = (gap >= -2) & (gap <= max(8, 1.6 * height[one])) & (np.abs(peak[earlier] - peak[one]) <= 10)
        able = np.flatnonzero(aligned & alike & follows)
        if len(able):
            before[one] = able[np.argmax(length[able])]
            length[one] = length[before[one]] + 1
    chosen = set()
    needed = least + min(len(letters) // _PER_PATCHES, 4)
    for one in np.flatnonzero(length >= needed).tolist():
        while one >= 0 and one not in chosen:
            chosen.add(one)
            one = int(before[one])
    return letters[sorted(chosen), :4]
