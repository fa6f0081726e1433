"""Classical heads on frozen features: an extractor that does not learn, and a fitted scorer behind it."""

from typing import Any

import torch
from torch import nn

from meddap_monai.classifier.config import ClassifyConfig, identity
from meddap_monai.classifier.scorers import SCORERS, Scorer, restore_scorer
from meddap_monai.core.seeds import derive_seed
from meddap_monai.encoders.frozen import FrozenEncoder
from meddap_monai.encoders.registry import build_network, find_encoder


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
        """Return ``(B, K)`` float64 log probabilities of images ``(B, C, H, W)`` in 0..1."""
        return self.scorer(self.extractor(images).to(self.scorer.mean.device))

    def parts(self) -> dict[str, Any]:
        """Return what `restore_head` makes it from again: a name and tensors."""
        tensors = {name: tensor.cpu() for name, tensor in self.extractor.state_dict().items()}
        learnt = {name: tensor.cpu() for name, tensor in self.scorer.state_dict().items()}
        kind = next(name for name, scorer in SCORERS.items() if type(self.scorer) is scorer)
        return {"kind": kind, "scorer": learnt, "extractor": tensors}


def initial_network(config: ClassifyConfig, classes: int) -> nn.Module:
    """Return the network with the initial weights of this seed, the same in every arm; pre-trained but for scratch."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, "classify/weights"))
        return build_network(
            config.encoder,
            classes,
            config.channels,
            config.resolution,
            config.weights,
            config.mode != "scratch",
            config.normalise,
        )


def empty_network(config: ClassifyConfig, classes: int) -> nn.Module:
    """Return the network of a configuration for weights that are loaded next."""
    return build_network(config.encoder, classes, config.channels, config.resolution, normalise=config.normalise)


def build_extractor(config: ClassifyConfig, classes: int) -> nn.Module:
    """Return the frozen encoder of a configuration, with its weights or the user's."""
    return FrozenEncoder(initial_network(config, classes))


def describe_extractor(config: ClassifyConfig) -> str:
    """Return in words which weights the features of a head come from; a user's file by its content."""
    own, shown = find_encoder(config.encoder).weights, identity(config)
    if shown.weights is not None:
        return f"{shown.encoder} with the weights {shown.weights.name}"
    if own is not None:
        return f"{shown.encoder} with its own weights, {own.sha256[:12]}"
    return f"{shown.encoder} (has no weights)"


def restore_head(config: ClassifyConfig, classes: int, parts: dict[str, Any]) -> Head:
    """Return the head that `Head.parts` described.

    Raises:
        ValueError: it was stored in the way of before, or its tensors do not make a head of these classes.
    """
    if "scorer" not in parts:
        raise ValueError("the head was stored by an earlier version of this package")
    extractor = FrozenEncoder(empty_network(config, classes))
    extractor.load_state_dict(parts["extractor"])
    return Head(extractor, restore_scorer(parts["kind"], parts["scorer"], classes))
