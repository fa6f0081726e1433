"""Extractors by name, whose weights they are, and features of every level."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from meddap_monai import store
from meddap_monai.encoders.extractors import build_extractor
from meddap_monai.encoders.features import Levels
from meddap_monai.encoders.frozen import FrozenEncoder
from meddap_monai.encoders.registry import ENCODERS, build_network
from meddap_monai.errors import ConfigurationError

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 1, 32, 32), dtype=np.uint8)


@pytest.mark.parametrize(("name", "width"), [("efficientnet_lite0", 1280), ("hog", 1764)])
def test_a_name_of_the_registry_is_enough(name: str, width: int) -> None:
    extractor = build_extractor(name, 1, 32)
    found = extractor.extract(IMAGES, lambda images: [images, images.flip(-1)])
    assert found.shape == (2, 3, width) and found.dtype == np.float32
    assert (extractor.extract(IMAGES[..., ::-1].copy())[0] == found[1]).all()


def test_an_extractor_is_named_with_the_hash_of_its_weights_and_without_their_path(tmp_path: Path) -> None:
    embedded = ENCODERS["efficientnet_lite0"].weights
    assert embedded and build_extractor("efficientnet_lite0").identity == (
        f"efficientnet_lite0 (weights {embedded.sha256[:12]})"
    )
    path = tmp_path / "net.safetensors"
    save_file(build_network("resnet10_tiny", 3, 1, 32).state_dict(), path)
    found = build_extractor(f"resnet10_tiny:{path}", 1, 32)
    assert found.sha256 == store.sha256_file(path)
    assert found.identity == f"resnet10_tiny (weights {found.sha256[:12]})"
    assert build_extractor("hog").identity == "hog"


def test_features_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    network = build_network("resnet10_tiny", 3, 1, 32)
    state = network.state_dict()
    state["network.bn1.running_var"].fill_(-1)
    save_file(state, tmp_path / "net.safetensors")
    with pytest.raises(ConfigurationError, match="NaN or infinite"):
        build_extractor(f"resnet10_tiny:{tmp_path / 'net.safetensors'}", 1, 32).extract(IMAGES)


@pytest.mark.parametrize(
    ("name", "width"),
    [
        ("efficientnet_lite0", 2 * (32 + 16 + 24 + 40 + 80 + 112 + 192 + 320)),
        ("resnet10_tiny", None),
        ("vit_tiny", 192),
    ],
)
def test_levels_are_means_and_deviations_of_maps(name: str, width: int | None) -> None:
    network = build_network(name, 3, 1, 64).eval()
    images = torch.rand(2, 1, 64, 64)
    with torch.inference_mode():
        found = Levels(network)(images)
        alone = Levels(network)(images[1:])
    assert torch.isfinite(found).all() and len(found) == 2
    assert torch.allclose(found[1:], alone, atol=1e-4)
    assert width is None or found.shape[1] == width
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_levels_of_histograms_are_the_histograms() -> None:
    network, images = build_network("hog", 3, 1, 64), torch.rand(2, 1, 64, 64)
    assert torch.equal(Levels(network)(images), network(images))


def test_levels_of_the_first_convolution_are_what_they_say() -> None:
    network = build_network("efficientnet_lite0", 3, 1, 64).eval()
    images = torch.rand(2, 1, 64, 64)
    seen: list[torch.Tensor] = []
    handle = network.network.stem.register_forward_hook(lambda _part, _inputs, out: seen.append(out))
    with torch.inference_mode():
        found = Levels(network)(images)
    handle.remove()
    assert torch.allclose(found[:, :32], seen[0].mean((2, 3)), atol=1e-5)
    assert torch.allclose(found[:, 32:64], seen[0].flatten(2).std(2, correction=0), atol=1e-5)


def test_all_who_ask_share_the_features_of_an_image_whatever_their_new_last_layer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = torch.rand(2, 1, 32, 32)
    first, other = (
        FrozenEncoder(build_network("efficientnet_lite0", count, 1, 32, pretrained=True)) for count in (2, 5)
    )
    found = first(images)
    monkeypatch.setattr(other, "_extract", None)  # nothing is left to compute
    assert (other(images) == found).all()
    scratch = FrozenEncoder(build_network("efficientnet_lite0", 2, 1, 32))
    assert not torch.allclose(scratch(images), found)
    levels = FrozenEncoder(build_network("efficientnet_lite0", 2, 1, 32, pretrained=True), Levels)
    assert levels(images).shape != found.shape
