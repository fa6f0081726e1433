import warnings
from pathlib import Path

import pytest
import torch
from adapter_material import clip_text, legacy_file, random_weights, sd14_unet, sdxl_unet
from safetensors.torch import save_file

from meddap_monai.diffusion.adapters import adapter as adapters
from meddap_monai.diffusion.adapters.effect import run_once
from meddap_monai.diffusion.adapters.formats import AdapterWeights, read_layout, to_diffusers, to_kohya
from meddap_monai.diffusion.adapters.scale import HEADER
from meddap_monai.diffusion.adapters.targets import recognise
from meddap_monai.diffusion.bases.base import load_base
from meddap_monai.errors import BadAdapter


def same(left: AdapterWeights, right: AdapterWeights) -> bool:
    return [(p, n, c.alpha) for p, n, c in left.modules()] == [(p, n, c.alpha) for p, n, c in right.modules()] and all(
        torch.equal(a.down, b.down) and torch.equal(a.up, b.up)
        for (_, _, a), (_, _, b) in zip(left.modules(), right.modules(), strict=True)
    )


@pytest.fixture(scope="module")
def full() -> dict:
    return {"unet": sd14_unet(), "text_encoder": clip_text()}


def test_kohya_of_sdxl_in_the_original_block_numbers() -> None:
    parts = {"unet": sdxl_unet()}
    weights = random_weights(parts, {"unet": "attention"}, rank=1, alpha=1.0)
    tensors = {}
    for _, name, change in weights.modules():
        first, rest = name.split(".attentions.")
        number, leaf = rest.split(".", 1)
        kind, *block = first.split(".")
        index = 3 * int(block[0]) + int(number) if block else 1
        start = {
            "down_blocks": f"input_blocks.{index + 1}",
            "mid_block": "middle_block",
            "up_blocks": f"output_blocks.{index}",
        }
        stem = f"lora_unet_{start[kind]}.1.{leaf}".replace(".", "_")
        tensors[f"{stem}.lora_down.weight"], tensors[f"{stem}.lora_up.weight"] = change.down, change.up
    assert "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.lora_down.weight" in tensors
    assert same(read_layout(tensors, {}, parts, "xl"), weights)


@pytest.mark.parametrize("write", [to_diffusers, to_kohya])
@pytest.mark.parametrize("alpha", [4.0, 0.5])
def test_round_trip(full: dict, write, alpha: float) -> None:
    weights = random_weights(full, {"unet": "attention", "text_encoder": "text_attention"}, rank=4, alpha=alpha)
    tensors, header = write(weights)
    assert same(read_layout(tensors, header, full, "file"), weights)


def test_diffusers_loads_nothing_from_the_published_layout_and_we_load_all(tiny_base: Path, tmp_path: Path) -> None:
    ours, theirs = load_base(tiny_base), load_base(tiny_base)
    weights = random_weights(adapters.parts_of(ours), {"unet": "attention"})
    save_file(legacy_file(weights), tmp_path / "pytorch_lora_weights.safetensors", {"format": "pt"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapters.load_adapter(ours, tmp_path)
        theirs.load_lora_weights(str(tmp_path / "pytorch_lora_weights.safetensors"))
    with torch.no_grad():
        plain = run_once(load_base(tiny_base).unet)
        assert torch.equal(run_once(theirs.unet), plain)
        assert not torch.equal(run_once(ours.unet), plain)


KEY = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
GOOD = {f"{KEY}.lora_A.weight": torch.ones(4, 320), f"{KEY}.lora_B.weight": torch.ones(320, 4)}


@pytest.mark.parametrize(
    ("tensors", "header", "text"),
    [
        ({}, {}, "holds no tensors"),
        ({"something.else": torch.ones(1)}, {}, "belongs to no known layout"),
        ({f"{KEY}.hada_w1_a": torch.ones(1)}, {}, "hada_w1_b tensor is missing"),
        ({"unet.nowhere.to_q.lora_A.weight": torch.ones(4, 320)}, {}, "does not have"),
        ({"text_encoder_2.layers.0.lora_A.weight": torch.ones(4, 320)}, {}, "for text_encoder_2, which this base"),
        ({f"{KEY}.lora_A.weight": torch.ones(4, 320)}, {}, "up tensor is missing"),
        (GOOD | {f"{KEY}.lora_A.weight": torch.ones(4, 640)}, {}, r"expected \(4, 320\) and \(320, 4\)"),
        (GOOD | {f"{KEY}.lora_B.weight": torch.ones(320, 8)}, {}, "do not fit"),
        (GOOD | {f"{KEY}.alpha": torch.ones(3)}, {}, "expected one number"),
        (GOOD | {f"{KEY}.alpha": torch.tensor(-4.0)}, {}, "alpha says -4.0"),
        (GOOD | {f"{KEY}.alpha": torch.tensor(0.0)}, {}, "alpha says 0.0"),
        (GOOD | {f"{KEY}.alpha": torch.tensor(1e9)}, {}, "alpha says 1000000000.0"),
        (GOOD, {HEADER: '{"unet.lora_alpha": NaN, "unet.r": 4}'}, "lora_alpha says nan"),
        (GOOD, {HEADER: '{"unet.lora_alpha": 4, "unet.r": 8}'}, "says rank 8, its tensors have rank 4"),
        (GOOD, {HEADER: '{"unet.lora_alpha": 4, "unet.r": 4, "unet.bias": "all"}'}, "biases were trained"),
        (GOOD, {HEADER: "[" * 100_000}, "is not JSON"),
        (GOOD | {f"{KEY}.lora.down.weight": torch.ones(4, 320)}, {}, "has two down tensors"),
        (GOOD, {HEADER: "{"}, "is not JSON"),
        (GOOD, {HEADER: "[]"}, "expected a JSON object"),
    ],
)
def test_wrong_files_are_named(full: dict, tensors: dict, header: dict, text: str) -> None:
    with pytest.raises(BadAdapter, match=text):
        read_layout(tensors, header, full, "file")


def test_names_without_a_part_that_two_text_encoders_have_are_refused() -> None:
    parts = {"text_encoder": clip_text(), "text_encoder_2": clip_text()}
    stem = "base_model.model.text_model.encoder.layers.0.self_attn.q_proj"
    with pytest.raises(BadAdapter, match="may be for text_encoder or text_encoder_2"):
        read_layout({f"{stem}.lora_A.weight": torch.ones(4, 768)}, {}, parts, "file", {"r": 4})


def test_an_incomplete_set_says_what_is_missing(full: dict) -> None:
    names = list(random_weights(full, {"unet": "attention"}, rank=1).parts["unet"])
    with pytest.raises(BadAdapter, match=r"nearest is 'attention', of which 64 are missing"):
        recognise(full["unet"], "unet", names[:64])
