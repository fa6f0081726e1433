"""A filter that learns in seconds: one frozen encoder for all folds, and a linear head for each."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from meddap_monai import store
from meddap_monai.classifier.fitting import fit_scorer
from meddap_monai.core.records import Record
from meddap_monai.core.tensors import read_weights
from meddap_monai.encoders.extractors import Extractor, build_extractor
from meddap_monai.errors import StageError
from meddap_monai.selection.filtering.crossfit import FilterPredictions
from meddap_monai.selection.filtering.filter_config import FilterConfig
from meddap_monai.selection.filtering.frozen_features import extract_views, unit_length

ABSENT = -1e3
"""Logit of a class without training images."""


@dataclass(frozen=True)
class LinearHead:
    """A linear layer on raw features.

    Attributes:
        weight: (C, D) float64.
        bias: (C,) float64.
    """

    weight: np.ndarray
    bias: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Return logits (..., C) float64 of features (..., D)."""
        return features.astype(np.float64) @ self.weight.T + self.bias


@dataclass(frozen=True)
class Probe:
    """A frozen encoder with the heads of K folds.

    Attributes:
        extractor: the encoder.
        views: of an image, whose features are averaged.
        heads: K.
        mean: (D,) of the real training images, by which the features of the rules are standardised.
        deviation: (D,) of them; 1 where a feature never changes.
    """

    extractor: Extractor
    views: int
    heads: list[LinearHead]
    mean: np.ndarray
    deviation: np.ndarray

    def predict(self, records: Sequence[Record], images: np.ndarray, path: Path | None = None) -> FilterPredictions:
        """Judge N images.

        Args:
            records: N records.
            images: (N, C, H, W) uint8, theirs.
            path: ``.npy`` file that caches their features; None does not cache.
        """
        seen = extract_views(self.extractor, records, images, self.views, path)
        logits = np.stack([head(seen) for head in self.heads]).astype(np.float32)
        shared = unit_length((seen.mean(axis=0) - self.mean) / self.deviation)
        return FilterPredictions(logits, np.broadcast_to(shared, (len(self.heads), *shared.shape)))


def fit_probe(
    config: FilterConfig,
    training: Sequence[Record],
    images: np.ndarray,
    fold: np.ndarray,
    classes: int,
    seeds: Sequence[int],
    folder: Path | None = None,
    cache: Path | None = None,
) -> Probe:
    """Fit one head per fold, or load those that an interrupted run has fitted.

    Args:
        config: of the filter.
        training: M real training records.
        images: (M, C, H, W) uint8, theirs.
        fold: (M,) int, the fold that each image is left out of.
        classes: number of classes; one without images is never named.
        seeds: of each head.
        folder: where the heads go; None keeps none.
        cache: ``.npy`` file of the features; None does not cache.
    """
    extractor = build_extractor(
        config.encoder, config.channels, config.resolution, config.device, config.features == "levels"
    )
    seen = extract_views(extractor, training, images, config.views, cache)
    labels = np.array([record["label"] for record in training])
    heads = []
    for number, seed in enumerate(seeds):
        path = folder / f"fold_{number}.safetensors" if folder else None
        rows = fold != number
        heads.append(_head(config, seen[:, rows], labels[rows], classes, path, seed))
    whole = seen.mean(axis=0)
    deviation = whole.std(axis=0)
    return Probe(extractor, config.views, heads, whole.mean(axis=0), np.where(deviation > 0, deviation, 1))


def _head(
    config: FilterConfig, seen: np.ndarray, labels: np.ndarray, classes: int, path: Path | None, seed: int
) -> LinearHead:
    if path is not None and path.is_file():
        found = read_weights(path, StageError)
        return LinearHead(found["weight"].numpy(), found["bias"].numpy())
    views = len(seen)
    head = _fit(config, np.concatenate(list(seen)), np.tile(labels, views), classes, seed)
    if path is not None:
        with store.atomic_path(path) as temporary:
            save_file({"weight": torch.from_numpy(head.weight), "bias": torch.from_numpy(head.bias)}, temporary)
    return head


def _fit(config: FilterConfig, features: np.ndarray, labels: np.ndarray, classes: int, seed: int) -> LinearHead:
    """Fit a head; its standardisation of features (N, D) becomes part of the layer."""
    present, numbers = np.unique(labels, return_inverse=True)
    scorer, _ = fit_scorer(config.head, config.settings(seed), features, numbers, np.ones(len(labels)))
    learnt = {name: tensor.numpy() for name, tensor in scorer.named_buffers()}
    weight, bias = learnt["coefficients"], learnt["intercepts"]
    if len(weight) == 1:  # the logit of the second class against a first one at 0
        weight, bias = np.concatenate([np.zeros_like(weight), weight]), np.concatenate([[0.0], bias])
    weight = weight / learnt["scale"]
    whole, start = np.zeros((classes, features.shape[1])), np.full(classes, ABSENT)
    whole[present], start[present] = weight, bias - weight @ learnt["mean"]
    return LinearHead(whole, start)
