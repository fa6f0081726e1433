"""TorchScript files run only for who states the SHA-256 of the very file they trust."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from meddap_monai.classifier.config import ClassifyConfig
from meddap_monai.classifier.scoring import load_classifier
from meddap_monai.classifier.stage import classify
from meddap_monai.core.records import read_records
from meddap_monai.encoders import program as module
from meddap_monai.encoders.features import Penultimate
from meddap_monai.encoders.layers import layers
from meddap_monai.encoders.registry import build_network
from meddap_monai.errors import ConfigurationError


class Maps(nn.Module):
    """Feature maps (B, 8, 2, 2)."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(channels, 4, 3, 2, 1), nn.Conv2d(4, 8, 3, 2, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return nn.functional.adaptive_avg_pool2d(self.second(self.first(images).relu()), 2)


def written(network: nn.Module, path: Path) -> str:
    """Write a network as TorchScript and return the encoder's name, SHA-256 included."""
    torch.jit.script(network.eval()).save(path)
    return f"torchscript:{path}#{hashlib.sha256(path.read_bytes()).hexdigest()}"


def test_features_are_what_the_program_gives_for_grey_values_in_0_to_1(tmp_path: Path) -> None:
    source = Maps()
    network = build_network(written(source, tmp_path / "maps.pt"), 3, 1, 32, pretrained=True).eval()
    images = torch.rand(2, 1, 32, 32)
    with torch.inference_mode():
        assert torch.allclose(Penultimate(network)(images), source(images).flatten(1), atol=1e-6)
        assert network(images).shape == (2, 3)
    found = layers(network)
    assert sorted(map(id, sum(found, []))) == sorted(map(id, network.parameters()))
    assert [tuple(one.shape) for one in found[-1]] == [(3, 32), (3,)]


@pytest.mark.parametrize("stated", ["", "#", "#" + "0" * 64])
def test_without_its_sha256_it_is_not_opened(tmp_path: Path, stated: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = written(Maps(), tmp_path / "maps.pt")
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("the program was opened"))
    with pytest.raises(ConfigurationError, match=f"is a program .*; if you trust this very file, give {name}$"):
        build_network(f"torchscript:{tmp_path / 'maps.pt'}{stated}", 3, 1, 32, pretrained=True)


def test_a_file_that_changed_is_another_one(tmp_path: Path) -> None:
    name = written(Maps(), tmp_path / "maps.pt")
    assert build_network(name[:-64] + name[-64:].upper(), 3, 1, 32)
    other = written(Maps(), tmp_path / "maps.pt")
    with pytest.raises(ConfigurationError, match=f"got {name[-64:]}; .*{other[-64:]}"):
        build_network(name, 3, 1, 32)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Maps(3), "does not map images \\(2, 1, 32, 32\\) to one tensor of features .*try channels 3"),
        (nn.Linear(7, 2), "does not map images"),
    ],
)
def test_a_program_of_another_input_is_one_clear_error(tmp_path: Path, network: nn.Module, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        build_network(written(network, tmp_path / "other.pt"), 3, 1, 32)


def test_files_that_are_missing_or_no_programs(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="gone.pt': cannot be read"):
        module.from_torchscript(str(tmp_path / "gone.pt"))
    (tmp_path / "text.pt").write_bytes(b"no program")
    sha256 = hashlib.sha256(b"no program").hexdigest()
    with pytest.raises(ConfigurationError, match="does not map images"):
        build_network(f"torchscript:{tmp_path / 'text.pt'}#{sha256}", 3, 1, 32)


@pytest.mark.parametrize("mode", ["finetune", "probe"])
def test_it_trains_and_is_loaded_again(mode: str, tmp_path: Path, make_records: Callable[..., Path]) -> None:
    (tmp_path / "hospital").mkdir()
    name = written(Maps(), tmp_path / "hospital" / "maps.pt")
    records = make_records({"train": 4, "val": 2, "test": 2}, size=32)
    config = ClassifyConfig(encoder=name, mode=mode, resolution=32, steps=2, batch=4, ema=0.5, pictures=False)
    output = classify(config, tmp_path / "model", records=records)
    assert "hospital" not in (output / "stage.json").read_text() and name[-64:] in (output / "stage.json").read_text()
    model = load_classifier(output)
    found = model.probabilities(read_records(records, split="test"))
    assert found.shape == (6, 3) and np.isfinite(found).all()
    if mode == "finetune":
        before = torch.jit.load(tmp_path / "hospital" / "maps.pt").state_dict()["second.weight"]
        after = model.network.state_dict()["network.program.second.weight"]
        assert 0 < (before - after).abs().max() < 0.01


def test_it_has_no_random_weights() -> None:
    with pytest.raises(ConfigurationError, match="classify#mode: a TorchScript file has its weights"):
        ClassifyConfig(encoder="torchscript:maps.pt#00", mode="scratch")
