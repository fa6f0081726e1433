"""Equal and almost equal pictures: the former are dropped, the latter keep their patients in one split."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from scipy.cluster.hierarchy import DisjointSet

BLOCK, PANEL = 1024, 8
_SCREEN = 16
_CONFIRM = 256


class Groups(DisjointSet):
    """Sets of names that belong together; the least name stands for its set."""

    def join(self, first: str, second: str) -> None:
        """Make one set of two."""
        self.add(first)
        self.add(second)
        self.merge(first, second)

    def names(self) -> dict[str, str]:
        """Return, for every name that was joined, the one that stands for its set."""
        return {name: least for members in self.subsets() for least in [min(members)] for name in members}


def near_duplicates(
    load: Callable[[int], tuple[Sequence[str], np.ndarray]], correlation: float
) -> Iterator[tuple[str, str]]:
    """Yield pairs of pictures whose thumbnails correlate above `correlation`, as they are or one of them mirrored.

    A screen at 16 x 16 comes first; it lets pass what correlates 0.03 less there, and pairs are decided at full size.
    `PANEL` blocks are held against one other block at a time, so that a block is seldom read and screened again.

    Args:
        load: number of a block -> names and thumbnails (N, S, S) uint8 of `BLOCK` pictures, fewer in the last, S a
            multiple of 16; N is 0 behind the last block.
        correlation: threshold in 0 to 1.

    Yields:
        The names of both, each pair once.
    """
    first = 0
    while panel := [block for place in range(first, first + PANEL) if len((block := load(place))[0])]:
        names = [name for block in panel for name in block[0]]
        pictures = np.concatenate([block[1] for block in panel])
        screen, other = _screen(pictures), first
        while len((later := load(other))[0]):
            rows, columns = _alike(screen[: (other - first + 1) * BLOCK], _screen(later[1]), correlation - 0.03)
            after = first * BLOCK + rows < other * BLOCK + columns
            rows, columns = rows[after], columns[after]
            for begin in range(0, len(rows), _CONFIRM):
                left, right = rows[begin : begin + _CONFIRM], columns[begin : begin + _CONFIRM]
                alike = _correlations(pictures[left], later[1][right]) > correlation
                yield from ((names[i], later[0][j]) for i, j in zip(left[alike], right[alike], strict=True))
            other += 1
        first += PANEL


def _alike(screen: np.ndarray, others: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pairs of screens (N, 256), (M, 256) whose product, plain or mirrored, is larger."""
    likeness = screen @ others.T
    mirrored = _mirrored(others.reshape(-1, _SCREEN, _SCREEN)).reshape(others.shape)
    np.maximum(likeness, screen @ mirrored.T, out=likeness)
    rows, columns = np.nonzero(likeness > threshold)
    return rows, columns


def _mirrored(thumbnails: np.ndarray) -> np.ndarray:
    return thumbnails[:, :, ::-1]


def _correlations(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Correlations (N,) of pairs of pictures (N, S, S), the larger of both ways round."""
    one = _standardise(first)
    ways = [(one * _standardise(pictures)).sum(1) for pictures in (second, _mirrored(second))]
    return np.maximum(*ways)


def _screen(thumbnails: np.ndarray) -> np.ndarray:
    """(N, S, S) uint8 to (N, 256) float32, standardised."""
    count, side, _ = thumbnails.shape
    fold = side // _SCREEN
    return _standardise(thumbnails.reshape(count, _SCREEN, fold, _SCREEN, fold).mean((2, 4), dtype=np.float32))


def _standardise(pictures: np.ndarray) -> np.ndarray:
    """Pictures (N, ...) to rows (N, D) float32 of zero mean and unit length; a flat picture becomes zero."""
    flat = pictures.reshape(len(pictures), -1).astype(np.float32)
    flat = flat - flat.mean(1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    return flat / np.where(length > 1e-6, length, np.inf)
