"""The filter's own classifier: trained by grouped K-fold on the real training images, judged where it has not trained.

Each real training image gets a prediction from the one network that never saw its patient (out of fold). These
predictions are the calibration data of every rule; no validation, test or unseen image is needed or touched. Network,
augmentation and training step are those of `meddap_monai.classifier`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from meddap_monai.classifier.data import plan_batches, to_float
from meddap_monai.classifier.engine import Criterion, TrainingStep, build_trainer
from meddap_monai.classifier.heads import initial_network
from meddap_monai.classifier.optimization import build_optimizer
from meddap_monai.classifier.scoring import views_of
from meddap_monai.core.progress import progress
from meddap_monai.core.records import Record
from meddap_monai.encoders.features import with_penultimate
from meddap_monai.errors import ConfigurationError
from meddap_monai.selection.filtering.filter_config import FilterConfig
from meddap_monai.training.handlers import Curves


@dataclass(frozen=True)
class FilterPredictions:
    """What the K networks say about N images.

    Attributes:
        logits: (K, V, N, C) float32, per network and view.
        features: (K, N, D) float32 of unit length, per network, views averaged; under a probe the same ones K times
            (a view, no copies).
    """

    logits: np.ndarray
    features: np.ndarray

    @property
    def mean_logits(self) -> np.ndarray:
        """(K, N, C) float32, views averaged."""
        return self.logits.mean(axis=1)

    @property
    def joined(self) -> np.ndarray:
        """(N, K * D) float32 of unit length: the K networks' features side by side; of a probe its one encoder's."""
        if self.features.strides[0] == 0:
            return self.features[0]
        return np.concatenate(list(self.features), axis=1) / np.sqrt(len(self.features)).astype(np.float32)

    def out_of_fold(self, fold: np.ndarray) -> np.ndarray:
        """Return (N, C) logits, each from the network that left the image out.

        Args:
            fold: (N,) int, the fold of each image.
        """
        return self.mean_logits[fold, np.arange(len(fold))]


def train_fold(
    config: FilterConfig,
    records: Sequence[Record],
    images: np.ndarray,
    classes: int,
    seed: int,
    board: Path | None = None,
) -> nn.Module:
    """Train one network.

    Args:
        config: of the filter.
        records: N real training records.
        images: (N, C, H, W) uint8, theirs.
        classes: number of classes.
        seed: of weights, batches and augmentation.
        board: folder of TensorBoard's event files for the loss; None draws nothing.

    Returns:
        The network in evaluation mode.
    """
    settings = config.settings(seed)
    with torch.random.fork_rng(devices=[]), Curves(board, "select") as curves:
        network = initial_network(settings, classes).to(config.device)
        step = TrainingStep(settings, Criterion(settings), classes)
        batches = list(_batches(records, images, plan_batches(records, settings)))
        trainer = build_trainer(settings, network, build_optimizer(settings, network), batches, step, (curves,))
        trainer.run()
    return network.eval()


def _batches(records: Sequence[Record], images: np.ndarray, plan: np.ndarray) -> Iterator[dict[str, object]]:
    stack = torch.from_numpy(images)
    labels = torch.tensor([record["label"] for record in records])
    names = [record["id"] for record in records]
    for rows in plan:
        yield {
            "image": stack[rows],
            "label": labels[rows],
            "synthetic": torch.zeros(len(rows), dtype=torch.long),
            "id": [names[row] for row in rows],
        }


@dataclass(frozen=True)
class Networks:
    """The networks of K folds, in evaluation mode.

    Attributes:
        members: K networks.
        config: of the filter.
    """

    members: Sequence[nn.Module]
    config: FilterConfig

    def predict(self, _records: Sequence[Record], images: np.ndarray, _path: Path | None = None) -> FilterPredictions:
        """Judge (N, C, H, W) uint8 images; nothing is cached, for each network sees them in its own way."""
        return predict(self.members, images, self.config)


@torch.inference_mode()
def predict(
    networks: Sequence[nn.Module], images: np.ndarray, config: FilterConfig, batch: int = 256
) -> FilterPredictions:
    """Let every network look at every image.

    Args:
        networks: the K networks in evaluation mode.
        images: (N, C, H, W) uint8.
        config: of the filter (views, device).
        batch: images at once.
    """
    collected: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in networks]
    starts = range(0, len(images), batch)
    for start in progress(starts, desc="judging", unit="batch", disable=len(images) < 2000):
        part = to_float(torch.from_numpy(images[start : start + batch]).to(config.device))
        seen = torch.cat(views_of(part, config.views))
        for number, network in enumerate(networks):
            logits, features = with_features(network, seen)
            shape = (config.views, len(part), -1)
            collected[number].append((logits.view(shape).cpu().numpy(), features.view(shape).mean(dim=0).cpu().numpy()))
    joined = np.stack([np.concatenate([pair[1] for pair in parts]) for parts in collected])
    joined /= np.maximum(np.linalg.norm(joined, axis=-1, keepdims=True), 1e-12)
    return FilterPredictions(
        np.stack([np.concatenate([pair[0] for pair in parts], axis=1) for parts in collected]), joined
    )


def with_features(network: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits (B, C) and what enters the last linear layer, (B, D).

    Raises:
        ConfigurationError: the network has no linear layer, so it has no penultimate features.
    """
    logits, features = with_penultimate(network, images)
    if features is None:
        raise ConfigurationError(
            f"the filter's encoder: {type(network).__name__} ends in no linear layer, so it has no penultimate "
            "features; choose a ResNet, DenseNet, EfficientNet or ViT"
        )
    return logits, features
