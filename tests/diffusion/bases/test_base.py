"""One door to a base: what opens, what is refused and with which words; the shipped base keeps its promises."""

import json
import shutil
import time
from pathlib import Path

import pytest
import torch

from meddap_monai.core import resources
from meddap_monai.diffusion.bases.base import load_base, open_base
from meddap_monai.diffusion.bases.prompts import load_prompt_table
from meddap_monai.errors import BadBase, MeddapError


def test_loads_frozen(tiny_base: Path) -> None:
    pipeline = load_base(tiny_base)
    assert not any(p.requires_grad for p in pipeline.unet.parameters())
    assert not pipeline.vae.training


def test_missing_parts_are_named(tiny_base: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_base, tmp_path / "b")
    shutil.rmtree(tmp_path / "b" / "vae")
    with pytest.raises(BadBase, match="vae missing; expected a folder with model_index.json, tokenizer/"):
        load_base(tmp_path / "b")


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "nowhere"])
def test_no_such_folder(name: str) -> None:
    with pytest.raises(BadBase, match="missing; expected a folder with"):
        open_base(name)


def test_a_hub_id_without_network_is_a_clear_error() -> None:
    with pytest.raises(BadBase, match="someone/something: it is not in the local cache, and HF_HUB_OFFLINE forbids"):
        load_base("someone/something")


def test_truncated_weights_are_refused(tiny_base: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_base, tmp_path / "b")
    weights = tmp_path / "b" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    with pytest.raises(MeddapError, match="cannot be opened as a base"):
        load_base(tmp_path / "b")


def test_hash_covers_weights_and_vocabulary_only(tiny_base: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_base, tmp_path / "b")
    (tmp_path / "b" / "base.json").write_text("{}")
    assert open_base(tmp_path / "b").sha256 == open_base(tiny_base).sha256
    (tmp_path / "b" / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    assert open_base(tmp_path / "b").sha256 != open_base(tiny_base).sha256


# ------------------------------------------------------------------------------------------------------ the shipped one
@pytest.fixture(scope="module")
def embedded() -> Path:
    return resources.find("data/base")


def test_embedded_is_small_and_describes_itself(embedded: Path) -> None:
    weights = sum(path.stat().st_size for path in embedded.rglob("*.safetensors"))
    assert weights <= 16 * 2**20
    card = open_base().card
    assert card["sha256"] == open_base("embedded").sha256
    for name in card["prompts"]:
        assert card["prompts_sha256"][name] == load_prompt_table(name).sha256, f"prompts/{name}.yaml changed"
    assert (embedded / "train_sha256.txt").read_text().strip()
    assert "CC BY 4.0" in (embedded / "card.md").read_text()
    schema = json.loads(resources.find("schemas/base.json").read_text())
    assert set(schema["required"]) <= set(card)


def test_embedded_loads_fast_and_separates_classes() -> None:
    load_base()
    started = time.monotonic()
    pipeline = load_base()
    assert time.monotonic() - started < 2.0
    means = []
    for prompt in ("an ultrasound photo of benign tumor in breast", "a photo of fetal femur"):
        generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
        images = pipeline(
            [prompt] * 2, num_inference_steps=8, guidance_scale=2.0, generator=generators, output_type="np"
        )
        assert images.images.shape == (2, 128, 128, 3)
        assert images.images.std(axis=-1).max() < 1e-3
        means.append(images.images.mean())
    assert means[0] > means[1] + 0.1


def test_the_default_adapter_fits_the_embedded_base(embedded: Path) -> None:
    from meddap_monai.diffusion.adapters.adapter import load_adapter
    from meddap_monai.diffusion.adapters.file import read_card

    card = read_card(resources.find("data/adapter"))
    assert card["base_sha256"] == open_base("embedded").sha256
    assert card["prompts_sha256"] == load_prompt_table("breast").sha256
    assert card["classes"] == ["benign", "malignant", "normal"]
    adapter = load_adapter(load_base(), "embedded")
    assert adapter.effect > 0 and adapter.sets == {"unet": "attention"}
    seen = set((embedded / "train_sha256.txt").read_text().split())
    assert seen <= set((resources.find("data/adapter") / "train_sha256.txt").read_text().split())
