"""Which frames of a clip become samples."""

import re
from collections.abc import Callable

import numpy as np

from meddap_monai.errors import ConfigurationError

POLICIES = "first, middle, last, all, every N, evenly K, different K"
_PATTERN = re.compile(r"(first|middle|last|all)|(every|evenly|different) ([1-9][0-9]{0,5})")


def check_policy(policy: str, where: str = "frames") -> tuple[str, int]:
    """Return a frame policy as word and number.

    Args:
        policy: "first", "middle", "last", "all", "every N" (0, N, 2N, ...), "evenly K" (K frames at equal distances)
            or "different K" (the K frames that differ most).
        where: the place that the message names.

    Raises:
        ConfigurationError: anything else.
    """
    found = _PATTERN.fullmatch(policy.strip()) if isinstance(policy, str) else None
    if not found:
        raise ConfigurationError(f"{where} is {policy!r}, expected one of: {POLICIES}")
    return (found[1], 1) if found[1] else (found[2], int(found[3]))


def choose_frames(policy: str, count: int, decode: Callable[[int], np.ndarray]) -> list[int]:
    """Return the numbers of the wanted frames, ascending.

    Args:
        policy: see `check_policy`.
        count: frames in the file.
        decode: returns a frame (H, W) or (H, W, 3); called for "different K" only.
    """
    word, number = check_policy(policy)
    if word == "different":
        return _most_different(number, count, decode)
    if word == "evenly":
        wanted = min(number, count)
        return sorted({int((2 * place + 1) * count / (2 * wanted)) for place in range(wanted)})
    simple = {"first": [0], "middle": [count // 2], "last": [count - 1]}
    return simple[word] if word in simple else list(range(0, count, number))


def _most_different(wanted: int, count: int, decode: Callable[[int], np.ndarray]) -> list[int]:
    """Farthest-point choice on 32 x 32 thumbnails, beginning with the middle frame (Gonzalez 1985)."""
    if wanted >= count:
        return list(range(count))
    thumbnails = np.stack([thumbnail(decode(frame), 32).ravel() for frame in range(count)])
    chosen = [count // 2]
    distance = np.linalg.norm(thumbnails - thumbnails[chosen[0]], axis=1)
    while len(chosen) < wanted:
        distance[chosen] = -1
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(thumbnails - thumbnails[chosen[-1]], axis=1))
    return sorted(chosen)


def thumbnail(image: np.ndarray, side: int) -> np.ndarray:
    """Reduce an image (H, W) or (H, W, 3) to (side, side) float32 grey by means over areas."""
    grey = image if image.ndim == 2 else image.mean(-1)
    for axis in (0, 1):
        length = grey.shape[axis]
        if length < side:
            grey = np.repeat(grey, -(-side // length), axis=axis)
            length = grey.shape[axis]
        edges = np.arange(side) * length // side
        sizes = np.diff([*edges, length])
        shape = (-1, 1) if axis == 0 else (1, -1)
        grey = np.add.reduceat(grey, edges, axis=axis, dtype=np.float32) / sizes.reshape(shape)
    return grey.astype(np.float32)
