"""Small fingerprints of images, and whether an image is one of those that were fingerprinted, edited or not.

A fingerprint is a thumbnail of 16 x 16 cells at 16 grey levels, stretched to its own darkest and brightest cell and cut
free of plain borders. Nothing finer can be got back from it. The image that is asked about is there at full size, so
the search moves and scales the frame on that side: what covers a cell is averaged exactly, whatever the frame.
Sources: thumbnails compared by correlation as in `indexing.duplicates`; measured figures in ``docs/provenance.md``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

SIDE, LEVELS = 16, 16
DIGITS = SIDE * SIDE
"""Hexadecimal digits of a fingerprint as text, row by row."""
_EDGES = np.arange(SIDE + 1) / SIDE
_BORDERS = (1.0, 3.0, 8.0)
"""Standard deviations in grey levels up to which the rows and columns at the edge count as a plain border."""
_STORED = 3.0
_LEAST_CELLS = 12
_GAMMAS = (0.5, 0.63, 0.8, 1.0, 1.25, 1.6, 2.0)
_STEPS = (0.04, 0.02, 0.01, 0.005)
_FLOOR, _HOPE, _ENOUGH = 0.8, 0.9, 0.985
"""Correlations: a close search begins from, goes on after its first step from, ends at."""
_CANDIDATES, _BLOCK, _PART = 2, 64, 8192

Window = tuple[float, float, float, float]
"""The part of the fingerprinted image that an image shows: top, bottom, left, right, 0 to 1."""
_WHOLE: Window = (0.0, 1.0, 0.0, 1.0)
_WINDOWS = (_WHOLE, *((y, y + 0.95, x, x + 0.95) for y, x in ((0, 0), (0, 0.05), (0.05, 0), (0.05, 0.05))))


def fingerprint(image: np.ndarray) -> np.ndarray:
    """Return the fingerprint (16, 16) uint8, 0 to 15, of an image (H, W) or (H, W, 3) uint8; a flat one is all 0."""
    picture = _without_border(_grey(image), _STORED)
    cells = _cells(picture, _WHOLE)[1]
    span = cells.max() - cells.min()
    if span < 1.0:
        return np.zeros((SIDE, SIDE), np.uint8)
    return np.rint((cells - cells.min()) / span * (LEVELS - 1)).astype(np.uint8)


def to_text(levels: np.ndarray) -> str:
    """Return a fingerprint as 256 hexadecimal digits."""
    return "".join(f"{level:x}" for level in levels.ravel())


def from_text(texts: Sequence[str]) -> np.ndarray:
    """Return fingerprints (M, 16, 16) uint8 from their texts of `DIGITS` digits each."""
    digits = np.frombuffer("".join(texts).encode(), np.uint8)
    return np.where(digits < 58, digits - 48, digits - 87).astype(np.uint8).reshape(-1, SIDE, SIDE)


@dataclass(frozen=True)
class Known:
    """Fingerprints that images are compared with.

    Attributes:
        levels: (M, 16, 16) uint8, M at least 1.
    """

    levels: np.ndarray

    def nearest(self, images: Iterable[np.ndarray]) -> Iterator[tuple[int, float]]:
        """Yield for each image (H, W) or (H, W, 3) uint8 the number of its nearest fingerprint, and the correlation.

        Borders, mirroring, crops, sizes and gamma are searched over. Correlations below 0.8 are those of the screen.
        """
        block: list[np.ndarray] = []
        for image in images:
            block.append(_grey(image))
            if len(block) == _BLOCK:
                yield from self._nearest(block)
                block = []
        if block:
            yield from self._nearest(block)

    def _nearest(self, images: list[np.ndarray]) -> Iterator[tuple[int, float]]:
        """Screen all views of the images by matrix products, then search closely around the best few."""
        views = [_views(image) for image in images]
        owner = np.repeat(np.arange(len(images)), [len(ways) for ways in views])
        asked = [_normalise(np.stack([_cells(v, window)[1] for ways in views for v in ways])) for window in _WINDOWS]
        found: list[list[_Candidate]] = [[] for _ in images]
        for first in range(0, len(self.levels), _PART):
            part = self.levels[first : first + _PART]
            rows = [_normalise(part[:, ys, xs]) for ys, xs in map(_inside, _WINDOWS)]
            likeness = np.stack([one @ other.T for one, other in zip(asked, rows, strict=True)])
            for number in range(len(images)):
                found[number] += _best(likeness[:, owner == number], first)
        for ways, candidates in zip(views, found, strict=True):
            yield self._closest(sorted(candidates, reverse=True)[:_CANDIDATES], ways)

    def _closest(self, candidates: list[_Candidate], views: list[_Picture]) -> tuple[int, float]:
        value, best = candidates[0][:2]
        for likeness, number, window, view in candidates:
            if value >= _ENOUGH or likeness < _FLOOR:
                break
            found = _search(views[view], _WINDOWS[window], self.levels[number].astype(np.float64))
            if found > value:
                best, value = number, found
        return best, value


_Candidate = tuple[float, int, int, int]
"""Correlation, number of the fingerprint, of the window and of the view of the image."""


def _best(likeness: np.ndarray, first: int) -> list[_Candidate]:
    """Return the fingerprints that come nearest in any window and view, from (windows, views, M) correlations."""
    flat = likeness.reshape(-1, likeness.shape[-1])
    where, value = flat.argmax(0), flat.max(0)
    chosen = np.argsort(-value, kind="stable")[:_CANDIDATES]
    return [(float(value[n]), first + int(n), *divmod(int(where[n]), likeness.shape[1])) for n in chosen]


_Picture = np.ndarray
"""An integral image (H + 1, W + 1) float64: sums of grey values over the rectangle from the corner."""


def _grey(image: np.ndarray) -> np.ndarray:
    return image if image.ndim == 2 else image.mean(-1)


def _integral(grey: np.ndarray) -> _Picture:
    return np.pad(grey.astype(np.float64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))


def _views(grey: np.ndarray) -> list[_Picture]:
    """The image with its borders and without them, by several notions of a border; each also mirrored."""
    boxes = dict.fromkeys([(0, grey.shape[0], 0, grey.shape[1]), *(_box(grey, plain) for plain in _BORDERS)])
    crops = [grey[top:bottom, left:right] for top, bottom, left, right in boxes]
    return [_integral(way) for crop in crops for way in (crop, crop[:, ::-1])]


def _without_border(grey: np.ndarray, plain: float) -> _Picture:
    top, bottom, left, right = _box(grey, plain)
    return _integral(grey[top:bottom, left:right])


def _box(grey: np.ndarray, plain: float) -> tuple[int, int, int, int]:
    """Top, bottom, left, right of what lies between plain rows and columns; the whole where less than 16 x 16 does."""
    top, bottom, left, right = whole = 0, grey.shape[0], 0, grey.shape[1]
    for _ in range(2):
        rows = np.flatnonzero(grey[top:bottom, left:right].std(1) > plain)
        if not len(rows):
            return whole
        top, bottom = top + int(rows[0]), top + int(rows[-1]) + 1
        columns = np.flatnonzero(grey[top:bottom, left:right].std(0) > plain)
        if not len(columns):
            return whole
        left, right = left + int(columns[0]), left + int(columns[-1]) + 1
    return whole if min(bottom - top, right - left) < SIDE else (top, bottom, left, right)


def _inside(window: Window) -> tuple[slice, slice]:
    """Rows and columns of the cells that lie wholly inside of a window."""
    return tuple(  # type: ignore[return-value]
        slice(int(np.ceil(low * SIDE - 1e-6)), int(np.floor(high * SIDE + 1e-6)))
        for low, high in ((max(window[0], 0), min(window[1], 1)), (max(window[2], 0), min(window[3], 1)))
    )


def _cells(picture: _Picture, window: Window) -> tuple[tuple[slice, slice], np.ndarray]:
    """Mean grey values of the fingerprint's cells that an image shows when it is that part of it.

    Returns:
        Rows and columns of these cells, and (rows, columns) float64.
    """
    ys, xs = _inside(window)
    height, width = picture.shape[0] - 1, picture.shape[1] - 1
    down = (_EDGES[ys.start : ys.stop + 1] - window[0]) / (window[1] - window[0]) * height
    across = (_EDGES[xs.start : xs.stop + 1] - window[2]) / (window[3] - window[2]) * width
    sums = np.diff(np.diff(_between(_between(picture, down).T, across).T, axis=0), axis=1)
    return (ys, xs), sums / (np.diff(down)[:, None] * np.diff(across)[None])


def _between(sums: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Rows of `sums` at fractional places, linearly between two."""
    low = np.clip(places.astype(int), 0, len(sums) - 2)
    share = np.clip(places - low, 0, 1)[:, None]
    return sums[low] * (1 - share) + sums[low + 1] * share


def _search(picture: _Picture, window: Window, levels: np.ndarray) -> float:
    """Return the best correlation with a fingerprint near a window, by coordinate descent over frame and gamma."""
    gamma = _GAMMAS.index(1.0)
    best = _correlation(picture, window, gamma, levels)
    for step in _STEPS:
        for _ in range(3):
            before = best
            for other, bend in _neighbours(window, gamma, step):
                if (value := _correlation(picture, other, bend, levels)) > best:
                    best, window, gamma = value, other, bend
            if best >= _ENOUGH:
                return best
            if best - before < 0.002:
                break
        if best < _HOPE:
            return best
    return best


def _neighbours(window: Window, gamma: int, step: float) -> Iterator[tuple[Window, int]]:
    """One edge moved, both of a direction moved, gamma changed."""
    for moved in ((0,), (1,), (2,), (3,), (0, 1), (2, 3)):
        for way in (step, -step):
            top, bottom, left, right = (edge + way * (place in moved) for place, edge in enumerate(window))
            yield (top, bottom, left, right), gamma
    for bend in (gamma - 1, gamma + 1):
        if 0 <= bend < len(_GAMMAS):
            yield window, bend


def _correlation(picture: _Picture, window: Window, gamma: int, levels: np.ndarray) -> float:
    (ys, xs), cells = _cells(picture, window)
    if min(cells.shape) < _LEAST_CELLS:
        return -1.0
    bent = (np.maximum(cells, 0) / 255) ** _GAMMAS[gamma]
    first, second = bent - bent.mean(), levels[ys, xs] - levels[ys, xs].mean()
    length = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum()) / length if length > 1e-6 else 0.0


def _normalise(cells: np.ndarray) -> np.ndarray:
    """(N, ...) to rows (N, D) float32 of zero mean and unit length; what is flat becomes zero."""
    flat = cells.reshape(len(cells), -1).astype(np.float32)
    flat = flat - flat.mean(1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    return flat / np.where(length > 1e-3, length, np.inf)
