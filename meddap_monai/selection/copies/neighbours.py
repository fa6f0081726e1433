"""The nearest of many images by inner product: faiss, exact up to 20,000 of them, inverted lists beyond."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from meddap_monai.core.progress import progress

EXACT = 20_000
"""Most images that every query is compared with; with more, only those in the lists nearest to it."""
PROBES = 16
"""Lists that are searched, of ``2.5 * sqrt(vectors)``; recall and time are in docs/selection.md."""
QUERY_BLOCK, PART = 1024, 4096
COARSE = 16
_CROPS = ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0), (0.5, 0.5))
CROP = 0.9
NONE = -2.0

Forbidden = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(rows (n, 1), columns (n, k)) -> (n, k) bool, pairs that are left out."""


@dataclass(frozen=True)
class Candidates:
    """For each of N queries the m most similar training images.

    Attributes:
        index: (N, m) int into the training images, best first; -1 where there are fewer.
        flipped: (N, m) bool, whether the training image is more similar when flipped left to right.
    """

    index: np.ndarray
    flipped: np.ndarray


class Bank:
    """Vectors of M images, searched by inner product (Johnson et al. 2021, arXiv 1702.08734).

    Args:
        views: a few (M, D) float32 arrays, each one vector of every image; an image is as near as its nearest.
    """

    def __init__(self, views: Sequence[np.ndarray]) -> None:
        self.images, self.views, width = len(views[0]), len(views), views[0].shape[1]
        faiss = _faiss()
        self.index: Any = faiss.IndexFlatIP(width)
        if self.images > EXACT:
            lists = int(2.5 * (self.images * self.views) ** 0.5)
            self.index = faiss.IndexIVFFlat(self.index, width, lists, faiss.METRIC_INNER_PRODUCT)
            self.index.nprobe, self.index.cp.niter = PROBES, 10
            step = max(1, self.images * self.views // (40 * lists))  # 40 vectors place a list
            self.index.train(np.concatenate([view[::step] for view in views]))
        for view in views:
            self.index.add(view)

    def search(self, ways: Sequence[np.ndarray], count: int, forbidden: Forbidden) -> tuple[np.ndarray, ...]:
        """Find the `count` nearest images of each of N queries.

        Args:
            ways: a few (N, D) float32 arrays, each one vector of every query; a pair is as near as its nearest way.
            count: images per query.
            forbidden: pairs to leave out.

        Returns:
            (N, count) inner products, numbers of the images, and numbers of the ways, best first; -2, -1 and 0 where
            there are fewer.
        """
        _faiss()
        found = [self._block([way[rows] for way in ways], rows, count, forbidden) for rows in _blocks(len(ways[0]))]
        empty = (np.empty((0, count), np.float32), np.empty((0, count), int), np.empty((0, count), int))
        return tuple(np.concatenate(parts) for parts in zip(*[empty, *found], strict=True))

    def _block(self, ways: list[np.ndarray], rows: slice, count: int, forbidden: Forbidden) -> tuple[np.ndarray, ...]:
        todo = np.arange(len(ways[0]))
        value = np.full((len(todo), count), NONE, np.float32)
        image, way = np.full((len(todo), count), -1), np.zeros((len(todo), count), int)
        depth = self.views * count
        while len(todo):
            deep = min(depth, self.index.ntotal)
            found = [self.index.search(np.ascontiguousarray(one[todo]), deep) for one in ways]
            closest = _first_ones(self._merged(found, rows.start + todo, forbidden), count)
            value[todo], image[todo], way[todo] = closest
            # an image that was not returned comes no nearer than the last that was
            unseen = np.max([np.where(numbers[:, -1] < 0, NONE, near[:, -1]) for near, numbers in found], axis=0)
            todo = todo[(closest[0][:, -1] < unseen) & (deep < self.index.ntotal)]
            depth *= 4
        return value, image, way

    def _merged(
        self, found: list[tuple[np.ndarray, np.ndarray]], rows: np.ndarray, forbidden: Forbidden
    ) -> tuple[np.ndarray, ...]:
        """Return values, images and ways of all that was found, in descending order, what is left out at the end."""
        value = np.concatenate([near for near, _ in found], axis=1)
        number = np.concatenate([numbers for _, numbers in found], axis=1)
        image = np.where(number < 0, -1, number % self.images)
        way = np.repeat(np.arange(len(found)), [near.shape[1] for near, _ in found])[None].repeat(len(value), 0)
        value = np.where((number < 0) | forbidden(rows[:, None], image), NONE, value)
        order = np.argsort(-value, axis=1, kind="stable")
        return tuple(np.take_along_axis(part, order, axis=1) for part in (value, image, way))


def _faiss() -> Any:
    """Return faiss, with as many threads as torch has."""
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    return faiss


def _blocks(count: int) -> Any:
    starts = range(0, count, QUERY_BLOCK)
    shown = progress(starts, desc="copy check", unit="block", disable=count < 4 * QUERY_BLOCK)
    return (slice(start, start + QUERY_BLOCK) for start in shown)


def _first_ones(found: tuple[np.ndarray, ...], count: int) -> tuple[np.ndarray, ...]:
    """Return the first `count` different images of each row of (value, image, way), which is in descending order."""
    value, image, way = found
    order = np.argsort(image, axis=1, kind="stable")
    ordered = np.take_along_axis(image, order, axis=1)
    again = np.zeros_like(ordered, bool)
    again[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    repeated = np.empty_like(again)
    np.put_along_axis(repeated, order, again, axis=1)
    out = repeated | (value <= NONE)
    chosen = np.argsort(out, axis=1, kind="stable")[:, :count]
    gone = np.take_along_axis(out, chosen, axis=1)
    parts = [np.take_along_axis(part, chosen, axis=1) for part in (value, image, way)]
    short = [(0, 0), (0, count - gone.shape[1])]
    return tuple(
        np.pad(np.where(gone, filler, part), short, constant_values=filler)
        for part, filler in zip(parts, (NONE, -1, 0), strict=True)
    )


def of_one_group(query_groups: Sequence[str], training_groups: Sequence[str]) -> Forbidden:
    """Return what leaves out pairs of an equal, non-empty group."""
    numbers: dict[str, int] = {}
    rows, columns = (
        np.array([numbers.setdefault(name, len(numbers)) if name else -1 for name in names], int)
        for names in (query_groups, training_groups)
    )
    return lambda row, column: (rows[row] == columns[column]) & (rows[row] >= 0)


# -------------------------------------------------------------------------------------------------------- thumbnails
def resampling(size: int, scale: float, offset: float) -> np.ndarray:
    """Return (size, size) float32: the matrix that enlarges a part of a line of `size` pixels to the whole line.

    Args:
        size: pixels.
        scale: share of the line that is taken.
        offset: where it lies, 0 (start) to 1 (end).
    """
    places = (np.arange(size) + 0.5) * scale + offset * (1 - scale) * size - 0.5
    low = np.clip(np.floor(places).astype(int), 0, size - 2)
    share = np.clip(places - low, 0, 1).astype(np.float32)
    matrix = np.zeros((size, size), np.float32)
    matrix[np.arange(size), low] = 1 - share
    matrix[np.arange(size), low + 1] += share
    return matrix


def normalise(images: torch.Tensor) -> torch.Tensor:
    """Return (..., H * W) float32 with zero mean and unit length from (..., H, W): products are correlations."""
    flat = images.flatten(-2)
    flat = flat - flat.mean(dim=-1, keepdim=True)
    return flat / flat.norm(dim=-1, keepdim=True).clamp_min(1e-6)


def shrink(images: torch.Tensor, size: int) -> torch.Tensor:
    """Return (N, size, size) float32 area means of (N, H, W)."""
    images = images.float()
    if images.shape[-1] == size:
        return images
    return torch.nn.functional.adaptive_avg_pool2d(images[:, None], size)[:, 0]


def picture_bank(training: np.ndarray, views: bool = True) -> Bank:
    """Return the training thumbnails (M, H, W) at 16 x 16, also as five 90 % crops where `views` says so."""
    return Bank(_coarse(training, _whole_and_crops if views else lambda images: [shrink(images, COARSE)]))


def propose_candidates(
    queries: np.ndarray, bank: Bank, count: int, forbidden: Forbidden, views: bool = True
) -> Candidates:
    """Find the `count` training images most correlated with each query at 16 x 16, over flips and 90 % crops.

    Args:
        queries: (N, H, W).
        bank: of `picture_bank`.
        count: candidates per query.
        forbidden: pairs to leave out.
        views: also flipped; False compares the images as they are.
    """
    ways = _coarse(queries, lambda images: [shrink(images, COARSE)] + [shrink(images, COARSE).flip(-1)] * views)
    _, index, way = bank.search(ways, count, forbidden)
    return Candidates(index, way > 0)


def _coarse(images: np.ndarray, views: Callable[[torch.Tensor], list[torch.Tensor]]) -> list[np.ndarray]:
    """Return each of the views of (N, H, W) as normalised vectors (N, 256) float32."""
    starts = range(0, max(len(images), 1), PART)
    parts = [[normalise(view) for view in views(torch.from_numpy(images[s : s + PART]))] for s in starts]
    return [torch.cat(view).numpy() for view in zip(*parts, strict=True)]


def _whole_and_crops(images: torch.Tensor) -> list[torch.Tensor]:
    """Return (M, 16, 16) thumbnails: the whole and five 90 % crops."""
    fine = shrink(images, 2 * COARSE)
    views = [shrink(images, COARSE)]
    for down, across in _CROPS:
        rows, columns = (torch.from_numpy(resampling(2 * COARSE, CROP, at)) for at in (down, across))
        views.append(torch.nn.functional.avg_pool2d((rows @ fine @ columns.T)[:, None], 2)[:, 0])
    return views
