"""Networks by name: shapes, grey and colour, local weights, errors that name the nearest."""

from pathlib import Path

import numpy as np
import pytest
import torch

from meddap_monai.classifier.config import ClassifyConfig
from meddap_monai.classifier.scoring import load_classifier
from meddap_monai.classifier.stage import classify
from meddap_monai.core.records import read_records
from meddap_monai.encoders.networks import MONAI, GreyToColour
from meddap_monai.encoders.registry import build_network
from meddap_monai.encoders.weights import load_pretrained
from meddap_monai.errors import ConfigurationError

QUICK = ["resnet10_tiny", "resnet10_narrow", "vit_tiny", "efficientnet_b0"]


@pytest.mark.parametrize("name", QUICK)
@pytest.mark.parametrize("channels", [1, 3])
def test_small_networks_map_images_to_logits(name: str, channels: int) -> None:
    network = build_network(name, classes=5, channels=channels, size=32).eval()
    with torch.inference_mode():
        assert network(torch.rand(2, channels, 32, 32)).shape == (2, 5)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(MONAI) - set(QUICK)))
def test_large_networks_map_images_to_logits(name: str) -> None:
    network = build_network(name, classes=3, channels=1, size=64).eval()
    with torch.inference_mode():
        assert network(torch.rand(2, 1, 64, 64)).shape == (2, 3)


def test_the_baseline_network_has_the_size_of_the_baselines() -> None:
    assert sum(p.numel() for p in build_network("resnet10", classes=3).parameters()) == 4_901_955


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("efficientnet", "did you mean 'efficientnet_b0'"),
        ("nonsense", "expected one of biomedclip, densenet121"),
        ("densenet_121", "did you mean 'densenet121'"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(name: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        build_network(name, classes=3)


def test_a_transformer_says_which_sizes_fit() -> None:
    with pytest.raises(ConfigurationError, match="got 30, expected a multiple of 8"):
        build_network("vit_tiny", classes=3, size=30)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_local_weights_start_a_network_of_other_classes_and_channels(tmp_path: Path, suffix: str) -> None:
    source = build_network("resnet10_tiny", classes=9, channels=3).network
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pt":
        torch.save({"state_dict": source.state_dict()}, path)
    else:
        from safetensors.torch import save_file

        save_file({name: tensor.contiguous() for name, tensor in source.state_dict().items()}, path)
    network = build_network("resnet10_tiny", classes=3, channels=1, weights=path)
    own, given = network.state_dict(), source.state_dict()
    assert torch.equal(own["network.layer1.0.conv1.weight"], given["layer1.0.conv1.weight"])
    assert torch.allclose(own["network.conv1.weight"], given["conv1.weight"].sum(1, keepdim=True))
    assert load_pretrained(network.network, path) == ["fc.bias", "fc.weight"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no weights", "cannot be read as plain tensors"),
        (None, "cannot be read as plain tensors"),
        ({"other.weight": torch.zeros(3)}, "0 of .* tensors fit"),
    ],
)
def test_foreign_weights_are_refused(tmp_path: Path, content: object, message: str) -> None:
    path = tmp_path / "weights.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(ConfigurationError, match=message):
        build_network("resnet10_tiny", classes=3, weights=path)


def test_grey_is_repeated_for_colour_networks() -> None:
    images = torch.rand(2, 1, 4, 4)
    assert torch.equal(GreyToColour()(images), images.repeat(1, 3, 1, 1))


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("torchvision:squeezenet1_1", 1),
        ("torchvision:squeezenet1_1", 3),
        ("torchvision:mobilenet_v2", 1),
        ("timm:mobilenetv3_small_050", 1),
        ("timm:legacy_xception", 3),
    ],
)
def test_networks_of_the_extra_vision_train_and_load(name: str, channels: int, tmp_path: Path, make_records) -> None:
    """SqueezeNet 1.1 and MobileNetV2 are those of the published studies; skipped where the extra is not installed."""
    pytest.importorskip(name.partition(":")[0], reason="needs the extra `vision` (docs/install.md)")
    records = make_records({"train": 4, "val": 2, "test": 2}, size=64)
    config = ClassifyConfig(
        encoder=name,
        mode="scratch",
        channels=channels,
        resolution=64,
        steps=2,
        batch=4,
        validation_every=1,
        augmentation="classical",
    )
    model = load_classifier(classify(config, tmp_path / "model", records=records))
    found = model.probabilities(read_records(records, split="test"))
    assert found.shape == (6, 3) and np.isfinite(found).all()
    weights = tmp_path / "weights.pt"
    torch.save(build_network(name, 3, channels, 64).network.state_dict(), weights)
    head = ClassifyConfig(
        encoder=name, weights=weights, channels=channels, resolution=64, mode="probe", head="svc", pictures=False
    )
    fitted = load_classifier(classify(head, tmp_path / "head", records=records))
    assert np.isfinite(fitted.probabilities(read_records(records, split="test"))).all()
