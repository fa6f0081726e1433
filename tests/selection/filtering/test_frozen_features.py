"""Extractors by name and their cache."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from meddap_monai.encoders.extractors import build_extractor
from meddap_monai.encoders.registry import build_network
from meddap_monai.errors import ConfigurationError
from meddap_monai.selection.filtering.frozen_features import extract, load, save

RECORDS = [{"id": f"r{n}", "sha256": f"{n:064x}"} for n in range(6)]
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 1, 32, 32), dtype=np.uint8)


@pytest.fixture
def name(request: pytest.FixtureRequest, tmp_path: Path, tiny_base: Path) -> str:
    if request.param == "vae":
        return f"vae:{tiny_base}"
    save_file(build_network("resnet10_tiny", 3, 1, 32).state_dict(), tmp_path / "net.safetensors")
    return f"resnet10_tiny:{tmp_path / 'net.safetensors'}"


@pytest.mark.parametrize("name", ["vae", "network"], indirect=True)
def test_features_are_of_unit_length_and_cached(name: str, tmp_path: Path) -> None:
    path = tmp_path / "cache" / "real.npy"
    values = extract(name, RECORDS, IMAGES, path)
    assert values.shape[0] == 6 and values.dtype == np.float32
    assert np.linalg.norm(values, axis=1) == pytest.approx(np.ones(6), abs=1e-5)
    np.save(path, np.load(path)[..., ::-1].copy(), allow_pickle=False)
    assert np.allclose(extract(name, RECORDS, IMAGES, path), values[:, ::-1], atol=1e-6)


@pytest.mark.parametrize("change", ["another image", "another extractor", "fewer"])
def test_the_cache_of_something_else_is_not_used(tmp_path: Path, change: str) -> None:
    path = tmp_path / "real.npy"
    save(path, np.eye(6, dtype=np.float32), RECORDS, "vae")
    assert load(path, RECORDS, "vae") is not None
    records = {"another image": [RECORDS[0] | {"sha256": "f" * 64}, *RECORDS[1:]], "fewer": RECORDS[:5]}
    assert load(path, records.get(change, RECORDS), "clip" if change == "another extractor" else "vae") is None


@pytest.mark.parametrize(
    "name, text",
    [
        ("vea", "unknown extractor 'vea'; did you mean 'vae'"),
        ("resnet10_tiny:/nowhere.safetensors", "cannot be used"),
        ("clip:/nowhere", "cannot be used"),
    ],
)
def test_errors(name: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        build_extractor(name, 1, 32)


def test_features_of_other_weights_in_the_same_file_are_not_taken_from_the_cache(tmp_path: Path) -> None:
    name, path = f"resnet10_tiny:{tmp_path / 'net.safetensors'}", tmp_path / "real.npy"
    found = []
    for _ in range(2):
        save_file(build_network("resnet10_tiny", 3, 1, 32).state_dict(), tmp_path / "net.safetensors")
        found.append(extract(name, RECORDS, IMAGES, path))
    assert not np.allclose(*found, atol=1e-3)


class Writes(torch.nn.Module):
    def __init__(self, place: str) -> None:
        super().__init__()
        self.place = place

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        torch.from_file(self.place, shared=True, size=4, dtype=torch.uint8).fill_(65)
        return images


def test_a_torchscript_file_is_not_run_without_its_hash(tmp_path: Path) -> None:
    torch.jit.script(Writes(str(tmp_path / "written"))).save(str(tmp_path / "net.pt"))
    with pytest.raises(ConfigurationError, match="is a program and runs only when its SHA-256 is stated"):
        extract(f"torchscript:{tmp_path / 'net.pt'}", RECORDS, IMAGES)
    assert not (tmp_path / "written").exists()
