"""Classical heads on frozen features, with the settings of the ORT thesis (Repetto and de Leon 2023).

A fitted head is stored as what it was fitted on, not as a pickle: fitting is deterministic and takes seconds, so
loading fits it again.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torch import nn

from meddap_monai.classifier.config import ClassifyConfig
from meddap_monai.core.seeds import derive_seed
from meddap_monai.encoders.frozen import FrozenEncoder
from meddap_monai.encoders.registry import build_network


class Head(nn.Module):
    """A frozen extractor and a fitted scikit-learn classifier: images to log probabilities.

    Args:
        extractor: images to features.
        fitted: scikit-learn classifier over the labels 0..K-1.
    """

    def __init__(self, extractor: nn.Module, fitted: Pipeline) -> None:
        super().__init__()
        self.extractor, self.fitted = extractor, fitted

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return ``(B, K)`` log probabilities of images ``(B, C, H, W)`` in 0..1."""
        return torch.from_numpy(self.score(self.extractor(images).detach().float().cpu().numpy()))

    def score(self, features: np.ndarray) -> np.ndarray:
        """Return ``(B, K)`` log probabilities, or for SVC one-against-rest decision values."""
        if hasattr(self.fitted, "predict_proba"):
            return np.log(self.fitted.predict_proba(features).clip(1e-12))
        decision = self.fitted.decision_function(features)
        return np.stack([-decision, decision], axis=1) if decision.ndim == 1 else decision


def build_head(config: ClassifyConfig) -> Pipeline:
    """Return the unfitted scikit-learn classifier of a configuration, on standardised features.

    ``ridge``: logistic regression with an L2 penalty, C 0.001 (0.01 on HOG features, the sanity arm);
    ``logistic``: elastic net, l1 ratio 0.5, saga, C 10;
    ``svc``: rbf, C 10, gamma scale; ``mlp``: 4 x 256, ReLU, L2 0.02, Adam 1e-3, batch 64, 300 epochs.
    """
    balanced = "balanced" if config.class_weights == "balanced" else None
    seed = derive_seed(config.seed, "classify/head") % 2**32
    model: Any
    if config.head == "svc":
        model = SVC(C=10, kernel="rbf", gamma="scale", class_weight=balanced, decision_function_shape="ovr")
    elif config.head == "mlp":
        model = MLPClassifier(
            (256,) * 4, alpha=0.02, learning_rate_init=1e-3, batch_size=64, max_iter=300, random_state=seed
        )
    elif config.head == "ridge":
        model = LogisticRegression(C=0.01 if config.encoder == "hog" else 0.001, max_iter=2000, class_weight=balanced)
    else:
        model = LogisticRegression(
            C=10, l1_ratio=0.5, solver="saga", max_iter=2000, tol=1e-3, class_weight=balanced, random_state=seed
        )
    return make_pipeline(StandardScaler(), model)


def fit_head(config: ClassifyConfig, features: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> Pipeline:
    """Fit a head on ``(N, D)`` features; sample weights ``(N,)`` are used where they differ."""
    head = build_head(config)
    name = head.steps[-1][0]
    plain = np.all(weights == weights[0]) or config.head == "mlp"
    options = {} if plain else {f"{name}__sample_weight": weights}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the number of iterations is part of the published setting
        return head.fit(features, labels, **options)


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


def restore_head(config: ClassifyConfig, classes: int, parts: dict[str, Any]) -> Head:
    """Return the head that `train_head` stored, fitted again on its features."""
    extractor = FrozenEncoder(empty_network(config, classes))
    extractor.load_state_dict(parts["extractor"])
    arrays = (parts[name].numpy() for name in ("features", "labels", "weights"))
    return Head(extractor, fit_head(config, *arrays))
