"""R21: the published files load exactly: MEDDAP's attention processors (256 tensors, 797,184 values) and kohya-ss."""

from pathlib import Path

import pytest
import torch
from adapter_material import clip_text, legacy_file, random_weights, sd14_unet
from safetensors.torch import save_file

from meddap_monai.diffusion.adapters import adapter as adapters
from meddap_monai.diffusion.adapters.file import find_file
from meddap_monai.diffusion.adapters.formats import to_kohya


class Full:
    """Stable Diffusion 1.x architecture on the meta device."""

    def __init__(self) -> None:
        self.unet, self.text_encoder = sd14_unet(), clip_text()


@pytest.fixture(scope="module")
def full() -> Full:
    return Full()


def test_r21_meddaps_file(full: Full, tmp_path: Path) -> None:
    weights = random_weights({"unet": full.unet}, {"unet": "attention"})
    tensors = legacy_file(weights)
    for kind, projection, width in ((1, "q", 320), (2, "k", 768)):
        stem = f"down_blocks.0.attentions.0.transformer_blocks.0.attn{kind}.processor.to_{projection}_lora"
        assert tensors[f"{stem}.down.weight"].shape == (4, width)
    save_file(tensors, tmp_path / "pytorch_lora_weights.safetensors", {"format": "pt"})
    found = adapters.read_weights(full, find_file(tmp_path))
    assert (found.layout, found.parameters, found.ranks, found.alphas) == ("legacy", 797_184, [4], [4.0])
    assert 2 * len(found.parts["unet"]) == len(tensors) == 256
    for name, change in weights.parts["unet"].items():
        assert torch.equal(found.parts["unet"][name].down, change.down)
        assert torch.equal(found.parts["unet"][name].up, change.up)


def test_r21_kohya_file_with_text_encoder_and_alpha(full: Full, tmp_path: Path) -> None:
    parts = {"unet": full.unet, "text_encoder": full.text_encoder}
    weights = random_weights(parts, {"unet": "transformer", "text_encoder": "text"}, rank=2, alpha=1.0)
    for change in list(weights.parts["text_encoder"].values())[-6:]:
        change.up.zero_()  # what clip skip leaves untrained
    tensors, _ = to_kohya(weights)
    assert tensors["lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight"].shape == (2, 320, 1, 1)
    assert "lora_te_text_model_encoder_layers_11_mlp_fc2.lora_up.weight" in tensors
    save_file({name: tensor.half() for name, tensor in tensors.items()}, tmp_path / "fetal.safetensors")
    found = adapters.read_weights(full, tmp_path / "fetal.safetensors")
    assert {part: len(changes) for part, changes in found.parts.items()} == {"unet": 192, "text_encoder": 72}
    assert (found.layout, found.ranks, found.alphas, len(tensors)) == ("kohya", [2], [1.0], 3 * (192 + 72))
    for part, name, change in weights.modules():
        assert torch.equal(found.parts[part][name].down, change.down.half().float())
        assert torch.equal(found.parts[part][name].up, change.up.half().float())


@pytest.mark.parametrize(("kind", "modules"), [("transformer_and_convolutions", 278), ("everything", 282)])
def test_r21_locon_has_the_modules_that_kohya_and_lycoris_create(
    full: Full, tmp_path: Path, kind: str, modules: int
) -> None:
    """LyCORIS reports 278 modules for the UNet of Stable Diffusion 1.x, and 4 by name in its preset "full"."""
    weights = random_weights({"unet": full.unet}, {"unet": kind}, rank=1, alpha=0.5)
    tensors, _ = to_kohya(weights)
    assert tensors["lora_unet_down_blocks_0_resnets_0_conv1.lora_down.weight"].shape == (1, 320, 3, 3)
    assert tensors["lora_unet_down_blocks_0_resnets_0_conv1.lora_up.weight"].shape == (320, 1, 1, 1)
    save_file(tensors, tmp_path / "locon.safetensors")
    found = adapters.read_weights(full, tmp_path / "locon.safetensors")
    assert (len(found.parts["unet"]), found.alphas) == (modules, [0.5])
    for name, change in weights.parts["unet"].items():
        assert torch.equal(found.parts["unet"][name].down, change.down)
        assert torch.equal(found.parts["unet"][name].up, change.up)
