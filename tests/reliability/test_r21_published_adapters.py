"""R21: the published files load exactly: MEDDAP's attention processors (256 tensors, 797,184 values) and kohya-ss."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_material import clip_text, legacy_file, random_weights, sd14_unet, write_adapter
from safetensors.torch import save_file

from meddap_monai.diffusion.adapters import adapter as adapters
from meddap_monai.diffusion.adapters import injection
from meddap_monai.diffusion.adapters.file import find_file
from meddap_monai.diffusion.adapters.formats import to_kohya
from meddap_monai.diffusion.adapters.targets import sizes, target_modules
from meddap_monai.diffusion.bases.base import load_base


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


def lcm_lora(unet: Any, layout: str) -> dict[str, torch.Tensor]:
    """Return the tensors of an LCM-LoRA: rank 64, alpha 8, transformers and residual blocks, in 16 bit.

    The names are those that diffusers' distillation script writes (``get_module_kohya_state_dict``), and those of its
    own layout.
    """
    draw, tensors = torch.Generator().manual_seed(0), {}
    for name, module in target_modules(unet, "transformer_and_convolutions").items():
        down, up = injection.shapes(module, 64)
        stem = f"lora_unet_{name.replace('.', '_')}" if layout == "kohya" else f"unet.{name}"
        roles = ("lora_down", "lora_up") if layout == "kohya" else ("lora_A", "lora_B")
        for role, shape in zip(roles, (down, up), strict=True):
            tensors[f"{stem}.{role}.weight"] = (torch.randn(shape, generator=draw) / 8).half()
        if layout == "kohya":
            tensors[f"{stem}.alpha"] = torch.tensor(8.0).half()
    return tensors


@pytest.mark.parametrize("layout", ["kohya", "diffusers"])
def test_r21_lcm_lora_loads_exactly_and_combines_by_weight(layout: str, tiny_base: Path, tmp_path: Path) -> None:
    """The change is that of diffusers' own loader; with another adapter both add up, each at its weight."""
    tensors, oracle, ours = lcm_lora(load_base(tiny_base).unet, layout), load_base(tiny_base), load_base(tiny_base)
    named = sorted(target_modules(ours.unet, "transformer_and_convolutions"))
    settings = json.dumps({"unet.r": 64, "unet.lora_alpha": 8, "unet.target_modules": named})
    header = {"format": "pt"} if layout == "kohya" else {"lora_adapter_metadata": settings}
    save_file(tensors, tmp_path / "pytorch_lora_weights.safetensors", header)
    start = {name: value.clone() for name, value in oracle.unet.state_dict().items()}
    oracle.load_lora_weights(tmp_path, weight_name="pytorch_lora_weights.safetensors")
    oracle.fuse_lora()
    oracle.unload_lora_weights()
    with pytest.warns(UserWarning, match="recorded as base: unverified"):
        found = adapters.load_adapter(ours, tmp_path)
    assert (found.sets, found.rank) == ({"unet": "transformer_and_convolutions"}, 64)
    with adapters.fuse(ours):
        fused = {name: value.clone() for name, value in ours.unet.state_dict().items()}
        assert all(torch.allclose(fused[name], value, atol=1e-5) for name, value in oracle.unet.state_dict().items())
    weights = write_adapter(tmp_path / "own", ours)
    adapters.load_adapter(ours, tmp_path / "own", weight=0.5)
    adapters.set_weights(ours, {found.name: 0.75})
    with adapters.fuse(ours):
        for name, value in ours.unet.state_dict().items():
            wanted = start[name] + 0.75 * (fused[name] - start[name])
            change = weights.parts["unet"].get(name.removesuffix(".weight"))
            wanted += 0 if change is None else 0.5 * change.change().reshape(wanted.shape)
            assert torch.allclose(value, wanted, atol=1e-5)


def test_r21_lcm_lora_of_stable_diffusion_15_has_the_published_size(full: Full) -> None:
    """In 16 bit 134.5 MB; with its header ``latent-consistency/lcm-lora-sdv1-5`` is a file of 134,621,556 bytes."""
    modules = target_modules(full.unet, "transformer_and_convolutions").values()
    assert 64 * sum(sum(sizes(module)) for module in modules) == 67_252_224
