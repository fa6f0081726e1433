"""Close comparison of pairs of images: the crop of the training image that fits the query best, then two distances."""

from dataclasses import dataclass

import numpy as np
import torch

from meddap_monai.selection.copies.neighbours import Candidates, normalise, resampling, shrink

SEARCH, FINE, TILES = 32, 64, 4
PAIR_BLOCK = 512
_SCALES = {0.95: (0.0, 0.5, 1.0), 0.9: (0.0, 0.25, 0.5, 0.75, 1.0), 0.85: (0.0, 0.5, 1.0)}
"""Share of the side -> places of the window, 0 (top or left) to 1."""


@dataclass(frozen=True)
class Matches:
    """How near each candidate comes.

    Attributes:
        correlation: (N, m) float32 Pearson correlation at 64 x 64 after alignment, -1 where there is no candidate.
        tiles: (N, m) float32, the largest root mean square difference over 4 x 4 tiles of the standardised images.
    """

    correlation: np.ndarray
    tiles: np.ndarray


def windows(views: bool) -> list[tuple[float, float, float]]:
    """Return the crops that are tried, as (scale, offset down, offset across); the whole image first."""
    if not views:
        return [(1.0, 0.0, 0.0)]
    parts = [(scale, down, across) for scale, at in _SCALES.items() for down in at for across in at]
    return [(1.0, 0.0, 0.0), *parts]


def align(queries: np.ndarray, training: np.ndarray, candidates: Candidates, views: bool = True) -> Matches:
    """Compare every query with its candidates.

    Args:
        queries: (N, 64, 64).
        training: (M, 64, 64).
        candidates: of `propose_candidates`.
        views: try crops of the training image, not just the whole.
    """
    rows, columns = np.nonzero(candidates.index >= 0)
    partners = candidates.index[rows, columns]
    flipped = candidates.flipped[rows, columns]
    correlation = np.full(candidates.index.shape, -1.0, np.float32)
    tiles = np.full(candidates.index.shape, np.inf, np.float32)
    for start in range(0, len(rows), PAIR_BLOCK):
        part = slice(start, start + PAIR_BLOCK)
        pair = _pair(queries[rows[part]], training[partners[part]], flipped[part])
        found = _compare(pair, _best_window(pair, views), views)
        correlation[rows[part], columns[part]], tiles[rows[part], columns[part]] = found
    return Matches(correlation, tiles)


_Pair = tuple[torch.Tensor, torch.Tensor]


def _pair(queries: np.ndarray, training: np.ndarray, flipped: np.ndarray) -> _Pair:
    """Return both sides of some pairs, (P, 64, 64) float32, the training images flipped where that is nearer."""
    query, other = (shrink(torch.from_numpy(side), FINE) for side in (queries, training))
    return query, torch.where(torch.from_numpy(flipped)[:, None, None], other.flip(-1), other)


def _crop(images: torch.Tensor, window: tuple[float, float, float]) -> torch.Tensor:
    scale, down, across = window
    if scale == 1.0:
        return images
    size = images.shape[-1]
    rows, columns = resampling(size, scale, down), resampling(size, scale, across)
    return torch.from_numpy(rows) @ images @ torch.from_numpy(columns).T


def _best_window(pair: _Pair, views: bool) -> torch.Tensor:
    """Return (P,) int: which of `windows` of the training image correlates best with the query at 32 x 32."""
    query, other = (shrink(side, SEARCH) for side in pair)
    query = normalise(query)
    return torch.stack([_correlation(query, _crop(other, window)) for window in windows(views)]).argmax(dim=0)


def _correlation(query: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return (P,) correlations of normalised queries (P, H * W) with images (P, H, W), without normalising those."""
    flat = other.flatten(-2)
    variance = torch.linalg.vecdot(flat, flat) - flat.sum(dim=-1) ** 2 / flat.shape[-1]
    return torch.linalg.vecdot(query, flat) / variance.clamp_min(1e-12).sqrt()


def _compare(pair: _Pair, window: torch.Tensor, views: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return correlation and tile-wise distance, both (P,) float32, at 64 x 64 within the best window."""
    query, other = pair
    fitted = other.clone()
    for number, crop in enumerate(windows(views)):
        chosen = window == number
        if number and bool(chosen.any()):
            fitted[chosen] = _crop(other[chosen], crop)
    query, fitted = normalise(query), normalise(fitted)
    correlation = (query * fitted).sum(dim=-1)
    squares = ((query - fitted) ** 2).unflatten(-1, (FINE, FINE)) * FINE**2
    tiles = torch.nn.functional.avg_pool2d(squares[:, None], FINE // TILES).flatten(1).max(dim=1).values.sqrt()
    return correlation.numpy(), tiles.numpy()
