"""What an adjective does to a picture: the changes that give the words of the prompt tables their meaning.

Every function takes and returns an image of (H, W) float32 in [0, 1]. The names follow MEDDAP's adjectives (arXiv
2403.16335) and the clinical words of the tables. "colorful" is missing on purpose: the embedded base is grey.
"""

from collections.abc import Callable

import numpy as np
from scipy import ndimage

Look = Callable[[np.ndarray], np.ndarray]


def _contrast(image: np.ndarray, factor: float) -> np.ndarray:
    return np.clip((image - image.mean()) * factor + image.mean(), 0, 1)


def _posterized(image: np.ndarray) -> np.ndarray:
    return np.clip(np.floor(image * 4), 0, 3) / 3


def _solarized(image: np.ndarray) -> np.ndarray:
    return np.where(image > 0.4, 0.8 - image * 0.8, image)


def _stylized(image: np.ndarray) -> np.ndarray:
    flat = ndimage.median_filter(image, size=7)
    return np.clip(flat + 0.6 * (flat - ndimage.gaussian_filter(flat, 4)), 0, 1)


def _sheared(image: np.ndarray) -> np.ndarray:
    rows = image.shape[0]
    matrix = np.array([[1.0, 0.0], [0.35, 1.0]])
    return np.clip(ndimage.affine_transform(image, matrix, offset=(0.0, -0.175 * rows), order=1), 0, 1)


def _deep(image: np.ndarray) -> np.ndarray:
    rows, columns = image.shape
    small = ndimage.zoom(image, 0.7, order=1)
    out = np.zeros_like(image)
    left = (columns - small.shape[1]) // 2
    out[: small.shape[0], left : left + small.shape[1]] = small
    return np.clip(out, 0, 1)


def _shallow(image: np.ndarray) -> np.ndarray:
    rows, columns = image.shape
    high, wide = int(rows * 0.65), int(columns * 0.65)
    left = (columns - wide) // 2
    part = image[:high, left : left + wide]
    return np.clip(ndimage.zoom(part, (rows / high, columns / wide), order=1), 0, 1)[:rows, :columns]


def _convex(image: np.ndarray, half_angle: float = 0.55) -> np.ndarray:
    rows, columns = image.shape
    apex, reach = -0.35 * rows, 1.33 * rows
    row, column = np.mgrid[:rows, :columns].astype(np.float32)
    radius = np.hypot(row - apex, column - columns / 2)
    angle = np.arctan2(column - columns / 2, row - apex)
    depth = (radius - 0.4 * rows) / (reach - 0.4 * rows) * rows
    across = (angle / half_angle + 1) / 2 * columns
    return np.clip(ndimage.map_coordinates(image, [depth, across], order=1, cval=0.0), 0, 1)


LOOKS: dict[str, Look] = {
    "bright": lambda image: np.clip(image, 0, 1) ** 0.55,
    "dark": lambda image: image * 0.45,
    "high-contrast": lambda image: _contrast(image, 1.9),
    "low-contrast": lambda image: _contrast(image, 0.45),
    "posterized": _posterized,
    "solarized": _solarized,
    "stylized": _stylized,
    "sheared": _sheared,
    "high-gain": lambda image: np.clip(image * 1.45 + 0.03, 0, 1),
    "low-gain": lambda image: np.clip(image * 0.65 - 0.02, 0, 1),
    "deep": _deep,
    "shallow": _shallow,
    "linear-probe": lambda image: image,
    "convex-probe": _convex,
}


def apply_look(image: np.ndarray, adjective: str) -> np.ndarray:
    """Return `image` as the adjective says; "none" and words without a look return it as it is.

    Args:
        image: (H, W) float32 in [0, 1].
        adjective: a name of a prompt table's adjectives.
    """
    look = LOOKS.get(adjective)
    return image if look is None else look(image).astype(np.float32)
