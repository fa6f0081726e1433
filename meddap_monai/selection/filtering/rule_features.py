"""What the rules and the clusters look at: the filter's own features, or those of another extractor."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from meddap_monai.core.records import Record
from meddap_monai.selection.filtering import frozen_features
from meddap_monai.selection.filtering.crossfit import FilterPredictions
from meddap_monai.selection.filtering.filter_config import FilterConfig
from meddap_monai.selection.filtering.fitted import fit_filter
from meddap_monai.selection.pixels import read_squares

FILTER = "filter"
"""The name of the filter's own features; all others are those of `meddap_monai.encoders.extractors`."""


@dataclass(frozen=True)
class FeatureSet:
    """Features of N images.

    Attributes:
        per_fold: (K, N, D) float32 of unit length: as each part of the filter sees them; with one extractor for all
            the same numbers K times (a view, no copies).
        joined: (N, E) float32 of unit length: one row per image.
    """

    per_fold: np.ndarray
    joined: np.ndarray


def for_rules(
    extractor: str,
    predicted: FilterPredictions,
    records: Sequence[Record],
    images: np.ndarray,
    path: Path,
    device: str = "cpu",
) -> FeatureSet:
    """Return the features that the rules look at, from the filter or from another extractor, and cache them.

    Args:
        extractor: `FILTER` or another.
        predicted: what the filter says about the images.
        records: N records.
        images: (N, C, H, W) uint8.
        path: ``.npy`` file of the cache.
        device: where an extractor runs.
    """
    if extractor == FILTER:
        frozen_features.save(path, predicted.joined, records, FILTER)
        return FeatureSet(predicted.features, predicted.joined)
    values = frozen_features.extract(extractor, records, images, path, device)
    return FeatureSet(np.broadcast_to(values, (len(predicted.features), *values.shape)), values)


def of_training(
    extractor: str,
    config: FilterConfig,
    training: Sequence[Record],
    everything: Sequence[Record],
    classes: Sequence[str],
    output: Path,
    seed: int,
) -> np.ndarray:
    """Return (M, D) float32 features of unit length of real training images, cached under ``<output>/features``.

    Args:
        extractor: `FILTER`, which fits the filter under ``<output>/filter`` first, or another.
        config: of the filter; how images are decoded for any extractor.
        training: M full real training records.
        everything: all full real records, for the provenance guard.
        classes: names in the order of labels.
        output: folder of the stage.
        seed: of the run.
    """
    images = read_squares(training, config.resolution, config.channels, config.fit)
    path = output / "features" / "real.npy"
    if extractor != FILTER:
        return frozen_features.extract(extractor, training, images, path, config.device)
    fitted = fit_filter(config, training, images, everything, classes, output, seed)
    frozen_features.save(path, fitted.predicted.joined, training, FILTER)
    return fitted.predicted.joined
