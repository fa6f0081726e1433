"""The filter's networks: features before the last layer, views, folds of any classifier."""

import numpy as np
import pytest
import torch
from torch import nn

from meddap_monai.encoders.registry import build_network
from meddap_monai.errors import ConfigurationError
from meddap_monai.selection.filtering.crossfit import predict, train_fold, with_features
from meddap_monai.selection.filtering.filter_config import FilterConfig


@pytest.mark.parametrize("name", ["resnet10_tiny", "densenet121", "vit_tiny", "efficientnet_b0", "seresnet50"])
def test_features_are_what_the_last_layer_sees(name: str) -> None:
    network = build_network(name, 3, 1, 64).eval()
    images = torch.randn(2, 1, 64, 64)
    with torch.inference_mode():
        logits, features = with_features(network, images)
        last = [part for part in network.modules() if isinstance(part, nn.Linear)][-1]
        assert torch.allclose(last(features), logits, atol=1e-5)
    assert not last._forward_pre_hooks


def test_a_network_without_linear_layer_is_refused() -> None:
    network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ConfigurationError, match="ends in no linear layer"):
        with_features(network, torch.zeros(1, 1, 8, 8))


@pytest.mark.parametrize("views", [1, 2, 4])
def test_judging_does_not_depend_on_the_batch(views: int) -> None:
    config = FilterConfig(encoder="resnet10_tiny", mode="scratch", resolution=32, views=views)
    networks = [build_network("resnet10_tiny", 3, 1, 32).eval() for _ in range(2)]
    images = np.random.default_rng(0).integers(0, 256, (7, 1, 32, 32), dtype=np.uint8)
    whole, parts = predict(networks, images, config), predict(networks, images, config, batch=3)
    assert whole.logits.shape == (2, views, 7, 3) and whole.features.shape[:2] == (2, 7)
    assert np.allclose(whole.logits, parts.logits, atol=1e-5) and np.allclose(whole.features, parts.features, atol=1e-5)
    assert np.linalg.norm(whole.joined, axis=1) == pytest.approx(np.ones(7), abs=1e-5)
    fold = np.array([0, 1, 0, 1, 1, 0, 0])
    expected = whole.mean_logits[fold, np.arange(7)]
    assert (whole.out_of_fold(fold) == expected).all()


def test_training_learns_and_repeats() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(24) % 2
    images = rng.integers(0, 60, (24, 1, 32, 32)).astype(np.uint8)
    images[labels == 1, :, 8:24, 8:24] += 150
    records = [{"id": str(n), "label": int(label), "source": "real"} for n, label in enumerate(labels)]
    config = FilterConfig(encoder="resnet10_tiny", mode="scratch", resolution=32, steps=30, batch=8)
    first, again, other = (train_fold(config, records, images, 2, seed) for seed in (1, 1, 2))
    found = predict([first, again, other], images, config).mean_logits
    assert (found[0].argmax(axis=1) == labels).mean() > 0.9
    assert (found[0] == found[1]).all() and not np.allclose(found[0], found[2])
