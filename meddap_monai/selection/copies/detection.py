"""Is a synthetic image a copy of a training image? Nearest training image under several distances, flips and crops.

A generator that has memorised gives patients away. Every synthetic image is compared with every real training image in
two steps: inner products of 16 x 16 thumbnails, the training images also flipped and cropped, propose a few
candidates; these are then aligned and compared at 64 x 64. What is too near is decided by the real images themselves:
the distances between images of different patients say how near two honest images come.

Sources: nearest-neighbour search by pixel correlation and tile-wise L2 with memorised diffusion outputs in Carlini et
al. 2023 (arXiv 2301.13188, section 4.2: the largest of the tiles' distances, so that equal backgrounds do not count).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from meddap_monai.selection.copies.alignment import Matches, align
from meddap_monai.selection.copies.config import CopyConfig
from meddap_monai.selection.copies.neighbours import Bank, Candidates, of_one_group, picture_bank, propose_candidates

CALIBRATION = 2000
"""Most real images whose nearest other patient is looked up to set the thresholds."""


@dataclass(frozen=True)
class Images:
    """Images on one side of the comparison.

    Attributes:
        thumbnails: (N, 64, 64) float16 or float32 grey in 0 to 1.
        features: (N, D) float32 of unit length, or None.
        groups: N group names; pairs with an equal, non-empty group are not compared.
    """

    thumbnails: np.ndarray
    features: np.ndarray | None
    groups: Sequence[str]

    @cached_property
    def pictures(self) -> Bank:
        """The thumbnails and their crops, to be searched."""
        return picture_bank(self.thumbnails)


@dataclass(frozen=True)
class Nearest:
    """The nearest training image of each of N images.

    Attributes:
        index: (N,) int into the training images, by correlation.
        distances: name -> (N,) float32, each the smallest over its candidates.
    """

    index: np.ndarray
    distances: dict[str, np.ndarray]


def find_nearest(queries: Images, training: Images, config: CopyConfig) -> Nearest:
    """Find the nearest training image of every query.

    Args:
        queries: images to check.
        training: real training images.
        config: distances and candidates.
    """
    return _nearest(queries, training, *_compare(queries, training, config), limit=np.inf)


def _compare(queries: Images, training: Images, config: CopyConfig) -> tuple[Candidates, Matches]:
    bank = training.pictures if config.views else picture_bank(training.thumbnails, views=False)
    left_out = of_one_group(queries.groups, training.groups)
    candidates = propose_candidates(queries.thumbnails, bank, config.candidates, left_out, config.views)
    return candidates, align(queries.thumbnails, training.thumbnails, candidates, config.views)


def _nearest(queries: Images, training: Images, candidates: Candidates, matches: Matches, limit: float) -> Nearest:
    """Take the nearest candidates; those with a correlation above `limit` are passed over."""
    twins = (matches.correlation > limit) & (candidates.index >= 0)
    hidden = twins | (candidates.index < 0)
    correlation = np.where(hidden, -1.0, matches.correlation)
    best = correlation.argmax(axis=1)
    rows = np.arange(len(best))
    distances = {"correlation": 1.0 - correlation[rows, best]}
    distances["tiles"] = np.where(hidden, np.inf, matches.tiles).min(axis=1)
    if queries.features is not None and training.features is not None:
        skip = np.repeat(rows, twins.sum(axis=1)), candidates.index[twins]
        distances["features"] = 1.0 - _nearest_features(queries, training, skip)
    return Nearest(candidates.index[rows, best], {name: value.astype(np.float32) for name, value in distances.items()})


def _nearest_features(queries: Images, training: Images, skip: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return (N,) float32, the largest inner product of each query's features with an image of another group.

    Args:
        queries: with features.
        training: with features.
        skip: row and column numbers of further pairs to leave out.
    """
    assert queries.features is not None and training.features is not None
    of_group, twins = of_one_group(queries.groups, training.groups), _numbered(*skip, len(training.groups))

    def left_out(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        return of_group(rows, columns) | np.isin(_numbered(rows, columns, len(training.groups)), twins)

    product, _, _ = Bank([training.features]).search([queries.features], 1, left_out)
    return np.maximum(product[:, 0], -1.0)


def _numbered(rows: np.ndarray, columns: np.ndarray, width: int) -> np.ndarray:
    return rows * width + columns


@dataclass(frozen=True)
class Thresholds:
    """From which distance on an image is a copy.

    Attributes:
        values: name of the distance -> threshold; below it is a copy.
        real_distances: name -> (M,) float32 between each real image and the nearest of another patient.
        share: of the real images that these thresholds flag.
        same_pictures: index pairs of real images of "different patients" that are one picture.
    """

    values: dict[str, float]
    real_distances: dict[str, np.ndarray]
    share: float
    same_pictures: list[tuple[int, int]]


def calibrate(training: Images, config: CopyConfig) -> Thresholds:
    """Set the thresholds so that `config.percentile` of the real images fall below any of them.

    With several distances the quantile of each is lowered until they flag that share together, so that asking in
    several ways does not raise the number of false alarms.

    Args:
        training: real training images with their patients as groups.
        config: distances and percentile.
    """
    chosen = np.unique(np.linspace(0, len(training.groups) - 1, min(len(training.groups), CALIBRATION)).astype(int))
    asked = Images(
        training.thumbnails[chosen],
        None if training.features is None else training.features[chosen],
        [training.groups[row] for row in chosen],
    )
    candidates, matches = _compare(asked, training, config)
    nearest = _nearest(asked, training, candidates, matches, config.same_picture)
    best = matches.correlation.argmax(axis=1)
    rows = np.flatnonzero(matches.correlation.max(axis=1) > config.same_picture)
    twins = [(int(chosen[row]), int(candidates.index[row, best[row]])) for row in rows]
    decisive = {name: value for name, value in nearest.distances.items() if name in config.distances}
    values = _joint_thresholds(decisive, config.percentile / 100)
    share = float(flag(nearest.distances, values).mean()) if len(nearest.index) else 0.0
    return Thresholds(values, nearest.distances, share, twins)


def _joint_thresholds(distances: Mapping[str, np.ndarray], share: float) -> dict[str, float]:
    """Return the largest equal quantile per distance at which at most `share` of the images are flagged by any."""

    def at(quantile: float) -> dict[str, float]:
        return {name: float(np.quantile(value, quantile)) for name, value in distances.items()}

    allowed = max(share, 1.0 / len(next(iter(distances.values()))))
    if flag(distances, at(share)).mean() <= allowed:
        return at(share)
    low, high = 0.0, share
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if flag(distances, at(middle)).mean() <= allowed else (low, middle)
    return at(low)


def flag(distances: Mapping[str, np.ndarray], thresholds: Mapping[str, float]) -> np.ndarray:
    """Return (N,) bool: nearer than any of the thresholds."""
    flags = [value < thresholds[name] for name, value in distances.items() if name in thresholds]
    return np.logical_or.reduce(flags)
