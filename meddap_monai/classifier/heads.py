"""Classical heads on frozen features: an extractor that does not learn, and a fitted scorer behind it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from meddap_monai.classifier.config import EXTRACTOR_HOG, ClassifyConfig
from meddap_monai.classifier.features import Hog, Penultimate
from meddap_monai.classifier.networks import build_network
from meddap_monai.classifier.scorers import SCORERS, Scorer, restore_scorer
from meddap_monai.core.seeds import derive_seed


class Head(nn.Module):
    """A frozen extractor and a fitted scorer: images to log probabilities.

    Args:
        extractor: images to features.
        scorer: features to log probabilities.
    """

    def __init__(self, extractor: nn.Module, scorer: Scorer) -> None:
        super().__init__()
        self.extractor, self.scorer = extractor, scorer

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return ``(B, K)`` float64 log probabilities of normalised images ``(B, C, H, W)``."""
        return self.scorer(self.extractor(images).to(self.scorer.mean.device))

    @torch.inference_mode()
    def score(self, features: np.ndarray) -> np.ndarray:
        """Return ``(B, K)`` float64 log probabilities of features ``(B, D)``."""
        return self.scorer(torch.from_numpy(features).to(self.scorer.mean.device)).cpu().numpy()

    def parts(self) -> dict[str, Any]:
        """Return what `restore_head` makes it from again: a name and tensors."""
        tensors = {name: tensor.cpu() for name, tensor in self.extractor.state_dict().items()}
        learnt = {name: tensor.cpu() for name, tensor in self.scorer.state_dict().items()}
        kind = next(name for name, scorer in SCORERS.items() if type(self.scorer) is scorer)
        return {"kind": kind, "scorer": learnt, "extractor": tensors}


def build_extractor(config: ClassifyConfig, classes: int) -> nn.Module:
    """Return the frozen extractor: HOG, or a network from local weights or from this seed's initial ones."""
    if config.network == EXTRACTOR_HOG:
        return Hog()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, "classify/weights"))
        network = build_network(config.network, classes, config.channels, config.resolution, config.weights)
    return Penultimate(network.eval()).requires_grad_(False)


def describe_extractor(config: ClassifyConfig) -> str:
    """Return in words which weights the features of a head come from."""
    if config.network == EXTRACTOR_HOG:
        return "hog (has no weights)"
    if config.weights is None:
        return f"{config.network} with random weights"
    return f"{config.network} with the weights {config.weights.name}"


def restore_head(config: ClassifyConfig, classes: int, parts: dict[str, Any]) -> Head:
    """Return the head that `Head.parts` described.

    Raises:
        ValueError: it was stored in the way of before, or its tensors do not make a head of these classes.
    """
    if "scorer" not in parts:
        raise ValueError("the head was stored by an earlier version of this package")
    extractor = build_extractor(config, classes)
    extractor.load_state_dict(parts["extractor"])
    return Head(extractor, restore_scorer(parts["kind"], parts["scorer"], classes))
