"""Equal and almost equal pictures: the former are dropped, the latter keep their patients in one split."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

import numpy as np

_BLOCK = 2048
_SCREEN = 16


class Groups:
    """Sets of names that belong together (union-find); the least name stands for its set."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def find(self, name: str) -> str:
        """Return the name that stands for the set of `name`."""
        root = name
        while (parent := self._parent.get(root, root)) != root:
            root = parent
        while (parent := self._parent.get(name, name)) != root:
            self._parent[name] = root
            name = parent
        return root

    def join(self, first: str, second: str) -> None:
        """Make one set of two."""
        low, high = sorted((self.find(first), self.find(second)))
        if low != high:
            self._parent[high] = low


def exact_duplicates(items: Iterable[tuple[str, str, str]]) -> tuple[dict[str, str], set[str]]:
    """Find pictures that occur several times.

    Args:
        items: (id, sha256 of the pixels, class name) in the order of preference.

    Returns:
        id -> id of the copy that stays, and the ids of pictures that occur under several class names (all of them).
    """
    same: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for identity, digest, class_name in items:
        same[digest].append((identity, class_name))
    copies: dict[str, str] = {}
    torn: set[str] = set()
    for members in same.values():
        if len({class_name for _, class_name in members}) > 1:
            torn.update(identity for identity, _ in members)
        else:
            copies.update((identity, members[0][0]) for identity, _ in members[1:])
    return copies, torn


def near_duplicates(thumbnails: np.ndarray, correlation: float) -> Iterator[tuple[int, int]]:
    """Yield pairs of pictures whose thumbnails correlate above `correlation`.

    A screen at 16 x 16 comes first; it lets pass what correlates 0.03 less there, and pairs are decided at full size.

    Args:
        thumbnails: (N, S, S) uint8, S a multiple of 16.
        correlation: threshold in 0 to 1.

    Yields:
        (i, j) with i < j.
    """
    count, side, _ = thumbnails.shape
    fold = side // _SCREEN
    screen = thumbnails.reshape(count, _SCREEN, fold, _SCREEN, fold).mean((2, 4), dtype=np.float32)
    screen = _standardise(screen.reshape(count, -1))
    for begin in range(0, count, _BLOCK):
        for other in range(begin, count, _BLOCK):
            likeness = screen[begin : begin + _BLOCK] @ screen[other : other + _BLOCK].T
            rows, columns = np.nonzero(likeness > correlation - 0.03)
            rows, columns = rows + begin, columns + other
            later = rows < columns
            yield from _confirm(thumbnails, rows[later], columns[later], correlation)


def _confirm(
    thumbnails: np.ndarray, rows: np.ndarray, columns: np.ndarray, correlation: float
) -> Iterator[tuple[int, int]]:
    for begin in range(0, len(rows), _BLOCK):
        first, second = rows[begin : begin + _BLOCK], columns[begin : begin + _BLOCK]
        one = _standardise(thumbnails[first].reshape(len(first), -1).astype(np.float32))
        two = _standardise(thumbnails[second].reshape(len(second), -1).astype(np.float32))
        alike = (one * two).sum(1) > correlation
        yield from zip(first[alike].tolist(), second[alike].tolist(), strict=True)


def _standardise(flat: np.ndarray) -> np.ndarray:
    """Rows (N, D) float32 to zero mean and unit length; a flat picture becomes zero."""
    flat = flat - flat.mean(1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    return flat / np.where(length > 1e-6, length, np.inf)
