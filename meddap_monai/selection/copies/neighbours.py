"""Blocked matrix products that find the nearest of many images without ever holding all pairs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from meddap_monai.core.progress import progress

QUERY_BLOCK, TRAINING_BLOCK = 1024, 2048
COARSE = 16
_CROPS = ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0), (0.5, 0.5))
CROP = 0.9


@dataclass(frozen=True)
class Candidates:
    """For each of N queries the m most similar training images.

    Attributes:
        index: (N, m) int into the training images, best first; -1 where there are fewer.
        flipped: (N, m) bool, whether the training image is more similar when flipped left to right.
    """

    index: np.ndarray
    flipped: np.ndarray


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


def shrink(thumbnails: np.ndarray | torch.Tensor, size: int) -> torch.Tensor:
    """Return (N, size, size) float32 area means of (N, H, W)."""
    images = torch.as_tensor(thumbnails)
    if images.shape[-1] == size and images.dtype == torch.float32:
        return images
    return torch.nn.functional.adaptive_avg_pool2d(images[:, None].float(), size)[:, 0]


def propose_candidates(
    queries: np.ndarray,
    training: np.ndarray,
    query_groups: Sequence[str],
    training_groups: Sequence[str],
    count: int,
    views: bool = True,
) -> Candidates:
    """Find the `count` training images most correlated with each query at 16 x 16, over flips and 90 % crops.

    Args:
        queries: (N, H, W) float32.
        training: (M, H, W) float32.
        query_groups: N names; pairs of an equal, non-empty group are left out.
        training_groups: M names.
        count: candidates per query.
        views: also flipped and cropped; False compares the images as they are.
    """
    coarse = normalise(shrink(queries, COARSE))
    bank = [normalise(view) for view in _views(training, views)]
    codes = _codes(query_groups, training_groups)
    index = np.full((len(queries), count), -1)
    flipped = np.zeros((len(queries), count), bool)
    starts = range(0, len(queries), QUERY_BLOCK)
    for start in progress(starts, desc="copy check", unit="block", disable=len(queries) < 4 * QUERY_BLOCK):
        rows = slice(start, start + QUERY_BLOCK)
        best = _Best(len(coarse[rows]), count)
        for first in range(0, len(training), TRAINING_BLOCK):
            columns = slice(first, first + TRAINING_BLOCK)
            half = len(bank) // 2 or 1
            plain = _largest([view[columns] for view in bank[:half]], coarse[rows])
            mirrored = _largest([view[columns] for view in bank[half:]], coarse[rows]) if views else plain - 1
            similarity = torch.maximum(plain, mirrored)
            similarity[_same(codes[0][rows], codes[1][columns])] = -2.0
            best.update(similarity, mirrored > plain, first)
        index[rows], flipped[rows] = best.index, best.flipped
    return Candidates(index, flipped)


class _Best:
    """The running best `count` columns of a block of rows."""

    def __init__(self, rows: int, count: int) -> None:
        self.value = torch.full((rows, count), -2.0)
        self.index = torch.full((rows, count), -1)
        self.flipped = torch.zeros((rows, count), dtype=torch.bool)

    def update(self, similarity: torch.Tensor, flipped: torch.Tensor, first: int) -> None:
        """Merge the columns from `first` on."""
        value, column = similarity.topk(min(self.value.shape[1], similarity.shape[1]), dim=1)
        found = torch.where(value > -2.0, column + first, -1)
        merged = torch.cat([self.value, value], dim=1)
        order = merged.sort(dim=1, descending=True, stable=True).indices[:, : self.value.shape[1]]
        self.value = merged.gather(1, order)
        self.index = torch.cat([self.index, found], dim=1).gather(1, order)
        self.flipped = torch.cat([self.flipped, flipped.gather(1, column)], dim=1).gather(1, order)


def _largest(views: list[torch.Tensor], queries: torch.Tensor) -> torch.Tensor:
    product = queries @ views[0].T
    for view in views[1:]:
        torch.maximum(product, queries @ view.T, out=product)
    return product


def _views(training: np.ndarray, more: bool) -> list[torch.Tensor]:
    """Return (M, 16, 16) training thumbnails: whole, five 90 % crops, and the same flipped."""
    whole = shrink(training, COARSE)
    if not more:
        return [whole]
    fine = shrink(training, 2 * COARSE)
    views = [whole]
    for down, across in _CROPS:
        rows = torch.from_numpy(resampling(2 * COARSE, CROP, down))
        columns = torch.from_numpy(resampling(2 * COARSE, CROP, across))
        views.append(torch.nn.functional.avg_pool2d((rows @ fine @ columns.T)[:, None], 2)[:, 0])
    return views + [view.flip(-1) for view in views]


def _codes(*names: Sequence[str]) -> list[torch.Tensor]:
    """Turn group names into integers, equal for equal names; empty names get -1."""
    numbers: dict[str, int] = {}
    return [torch.tensor([numbers.setdefault(name, len(numbers)) if name else -1 for name in group]) for group in names]


def _same(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    return (rows[:, None] == columns[None, :]) & (rows >= 0)[:, None]


def nearest_by_product(
    queries: np.ndarray,
    training: np.ndarray,
    query_groups: Sequence[str],
    training_groups: Sequence[str],
    skip: tuple[np.ndarray, np.ndarray] | None = None,
) -> np.ndarray:
    """Return (N,) float32, the largest inner product of each query with a training vector of another group.

    Args:
        queries: (N, D) float32.
        training: (M, D) float32.
        query_groups: N names; pairs of an equal, non-empty group are left out.
        training_groups: M names.
        skip: row and column numbers of further pairs to leave out.
    """
    codes = _codes(query_groups, training_groups)
    bank, best = torch.from_numpy(training), torch.full((len(queries),), -1.0)
    for start in range(0, len(queries), QUERY_BLOCK):
        rows = slice(start, start + QUERY_BLOCK)
        product = torch.from_numpy(queries[rows]) @ bank.T
        product[_same(codes[0][rows], codes[1])] = -1.0
        if skip is not None:
            inside = (skip[0] >= start) & (skip[0] < start + QUERY_BLOCK)
            product[skip[0][inside] - start, skip[1][inside]] = -1.0
        best[rows] = product.max(dim=1).values
    return best.numpy()
