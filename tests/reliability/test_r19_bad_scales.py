"""R19: hostile configurations and cards, kinds that cannot be loaded and factors that do not fit are refused."""

import json
import os
import random
import time
from pathlib import Path

import pytest
import torch
from adapter_material import random_weights, write_adapter
from safetensors.torch import save_file

from meddap_monai.diffusion.adapters import adapter as adapters
from meddap_monai.diffusion.adapters.factors import assemble
from meddap_monai.diffusion.adapters.formats import to_diffusers
from meddap_monai.errors import BadAdapter

GOOD = {"peft_type": "LORA", "r": 4, "lora_alpha": 16}
SLOW = {rf"(.*)(.*)(.*)(.*)\3\4\5[!?]|{number}": 1 for number in range(5_000)}
BAD_CONFIG: dict[str, tuple[dict | str | bytes, str]] = {
    "no JSON": ("{", "line 1: not JSON"),
    "not UTF-8": (b"\xff\xfe{}", "line 1: not UTF-8"),
    "a list": ("[]", "got list, expected a JSON object"),
    "nested": ("[" * 100_000, "more than 64 nested levels"),
    "NaN alpha": (json.dumps(GOOD | {"lora_alpha": float("nan")}), "NaN is no JSON number"),
    "infinite alpha": ('{"r": 4, "lora_alpha": 1e999}', "lora_alpha says inf"),
    "negative alpha": (GOOD | {"lora_alpha": -16}, "lora_alpha says -16"),
    "zero alpha": (GOOD | {"lora_alpha": 0}, "lora_alpha says 0"),
    "huge alpha": (GOOD | {"lora_alpha": 10**12}, "lora_alpha says 1000000000000"),
    "alpha of digits": ('{"r": 4, "lora_alpha": 1' + "0" * 5000 + "}", "line 1: not JSON"),
    "alpha in words": (GOOD | {"lora_alpha": "16"}, "lora_alpha says '16'"),
    "true alpha": (GOOD | {"lora_alpha": True}, "lora_alpha says True"),
    "zero rank": (GOOD | {"r": 0}, "r says 0"),
    "negative rank": (GOOD | {"r": -4}, "r says -4"),
    "huge rank": (GOOD | {"r": 2**40}, "r says 1099511627776"),
    "broken rank": (GOOD | {"r": 4.5}, "r says 4.5"),
    "wrong rank": (GOOD | {"r": 8}, "says rank 8, its tensors have rank 4"),
    "rank pattern for all": (GOOD | {"rank_pattern": {".*": 3}}, "says rank 3, its tensors have rank 4"),
    "patterns as list": (GOOD | {"alpha_pattern": ["to_q"]}, "alpha_pattern is"),
    "pattern to nothing": (GOOD | {"alpha_pattern": {"to_q": None}}, "alpha_pattern says None"),
    "no pattern": (GOOD | {"alpha_pattern": {"(": 1}}, "no regular expression"),
    "nested pattern": (GOOD | {"alpha_pattern": {"(" * 5_000 + ")" * 5_000: 1}}, "no regular expression"),
    "catastrophic pattern": (GOOD | {"alpha_pattern": {"((.|.|.)*)*[xyz]": 1}}, "too long to match"),
    "many slow patterns": (GOOD | {"alpha_pattern": SLOW}, "too long to match"),
    "too many patterns": (GOOD | {"alpha_pattern": {str(i): 1 for i in range(20_001)}}, "expected at most 20,000"),
    "another kind": (GOOD | {"peft_type": ["LORA"]}, "peft_type is"),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if "slow" in name else name for name in BAD_CONFIG]
)
def test_r19_bad_configurations_are_refused(pipeline, tmp_path: Path, name: str) -> None:
    content, text = BAD_CONFIG[name]
    content = json.dumps(content) if isinstance(content, dict) else content
    (tmp_path / "adapter_config.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    weights = random_weights(adapters.parts_of(pipeline), {"unet": "attention"})
    tensors = {f"base_model.model.{key.removeprefix('unet.')}": t for key, t in to_diffusers(weights)[0].items()}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    start = time.monotonic()
    with pytest.raises(BadAdapter, match=text):
        adapters.load_adapter(pipeline, tmp_path)
    assert time.monotonic() - start < 30
    assert not any("lora" in module for module, _ in pipeline.unet.named_modules())


def attention_file(path: Path, pipeline, more: dict[str, torch.Tensor]) -> Path:
    """Write a whole foreign file with more tensors."""
    tensors, header = to_diffusers(random_weights(adapters.parts_of(pipeline), {"unet": "attention"}))
    save_file(tensors | more, path, header)
    return path


def test_r19_a_configuration_that_is_a_pipe_does_not_hang(pipeline, tmp_path: Path) -> None:
    path = attention_file(tmp_path / "file.safetensors", pipeline, {})
    os.mkfifo(tmp_path / "adapter_config.json")
    with pytest.raises(BadAdapter, match="not a regular file"):
        adapters.load_adapter(pipeline, path)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"alpha": -4.0}, "alpha: -4.0 is less than or equal"),
        ({"alpha": 1e300}, r"alpha: 1e\+300 is greater"),
        ({"alpha": 16.0}, "alpha is 16.0, the weights have 4.0"),
        ({"alpha": float("nan")}, "NaN is no JSON number"),
        ({"alpha": float("inf")}, "Infinity is no JSON number"),
        ({"rank": 0}, "rank: 0 is less"),
        ({"rank": 8}, "rank is 8, the weights have 4"),
        ({"rank": 10**9}, "rank: 1000000000 is greater"),
        ({"parameters": 7}, "parameters is 7, the weights have"),
        ({"parameters": "many"}, "parameters: 'many' is not of type"),
        ({"clip_skip": 10**9}, "clip_skip: 1000000000 is greater"),
        ({"clip_skip": -1}, "clip_skip: -1 is less"),
        ({"class_prompts": ["benign"]}, "class_prompts: .* is not of type"),
        ({"class_prompts": {"benign": 3}}, "class_prompts.benign: 3 is not of type"),
        ({"classes": "benign"}, "classes: 'benign' is not of type"),
        ({"method": ["uslora"]}, "method: .* is not of type .string."),
        ({"method": "../uslora"}, "method: .* does not match"),
        ({"learning_rate": -1}, "learning_rate: -1 is less"),
        ({"validation_loss": float("nan")}, "NaN is no JSON number"),
    ],
)
def test_r19_numbers_of_an_own_card_are_checked(pipeline, tmp_path: Path, values: dict, text: str) -> None:
    write_adapter(tmp_path, pipeline)
    card = json.loads((tmp_path / "adapter.json").read_text())
    (tmp_path / "adapter.json").write_text(json.dumps(card | values))
    with pytest.raises(BadAdapter, match=text):
        adapters.load_adapter(pipeline, tmp_path)


TO_Q = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
OTHER_KINDS = {
    "lora_B.bias": "trained biases",
    "oft_blocks": "an OFT",
    "oft_diag": "an OFT",
    "diff": "whole differences",
    "diff_b": "whole differences",
    "w_norm": "trained norms",
    "a1.weight": "a GLoRA",
    "on_input": r"an \(IA\)\^3",
    "lora_E": "an AdaLoRA",
    "lora_embedding_A": "trained vocabulary",
    "reshape_weight": "no known layout",
}


@pytest.mark.parametrize("ending", OTHER_KINDS)
def test_r19_other_kinds_are_refused_by_their_own_name(pipeline, tmp_path: Path, ending: str) -> None:
    path = attention_file(tmp_path / "file.safetensors", pipeline, {f"{TO_Q}.{ending}": torch.ones(4)})
    with pytest.raises(BadAdapter, match=f"{ending}' belongs to {OTHER_KINDS[ending]}"):
        adapters.load_adapter(pipeline, path)


@pytest.mark.parametrize("key", ["emb_params", "clip_l", "clip_g", "string_to_param", "<benign>"])
def test_r19_published_words_are_refused_by_their_own_name(pipeline, tmp_path: Path, key: str) -> None:
    save_file({key: torch.ones(2, 32)}, tmp_path / "word.safetensors")
    with pytest.raises(BadAdapter, match="belongs to textual-inversion vectors"):
        adapters.load_adapter(pipeline, tmp_path / "word.safetensors")


PAIR = {"lora_down.weight": (4, 16), "lora_up.weight": (16, 4)}


@pytest.mark.parametrize(
    ("tensors", "text"),
    [
        ({"hada_w1_a": (10**5, 1), "hada_w1_b": (1, 10**5), "hada_w2_a": (9, 1), "hada_w2_b": (1, 9)}, "do not fit"),
        ({"hada_w1_a": (9, 1), "hada_w1_b": (2, 9)}, "do not fit"),
        ({"lokr_w1": (4096, 4), "lokr_w2": (4096, 4)}, "do not fit"),
        ({"lokr_w1": (4, 4)}, "lokr_w2_a tensor is missing"),
        ({"lora_mid.weight": (4, 3, 3, 3), "lora_down.weight": (4, 7), "lora_up.weight": (5, 4)}, "do not fit"),
        (PAIR | {"dora_scale": (3, 1)}, "do not fit"),
        (PAIR | {"alpha": (2,)}, "expected one number"),
    ],
)
def test_r19_factors_that_do_not_fit_are_refused_before_they_are_multiplied(
    pipeline, tmp_path: Path, tensors: dict, text: str
) -> None:
    named = {f"{TO_Q}.{role}": torch.ones(shape) for role, shape in tensors.items()}
    save_file(named, tmp_path / "file.safetensors")
    with pytest.raises(BadAdapter, match=text):
        adapters.load_adapter(pipeline, tmp_path / "file.safetensors")


LINEAR, CONVOLUTION = torch.nn.Linear(6, 4), torch.nn.Conv2d(6, 4, 3)
CORES = {"hada_t1": (2, 2, 3, 3), "hada_t2": (2, 2, 3, 3)}
WHOLE: list[tuple[torch.nn.Module, dict[str, tuple[int, ...]]]] = [
    (LINEAR, {"down": (2, 6), "up": (4, 2), "alpha": ()}),
    (CONVOLUTION, {"down": (2, 6, 3, 3), "up": (4, 2, 1, 1), "dora_scale": (4, 1, 1, 1)}),
    (CONVOLUTION, {"down": (2, 6, 1, 1), "mid": (2, 2, 3, 3), "up": (4, 2, 1, 1)}),
    (LINEAR, {"hada_w1_a": (4, 2), "hada_w1_b": (2, 6), "hada_w2_a": (4, 2), "hada_w2_b": (2, 6)}),
    (CONVOLUTION, {"hada_w1_a": (2, 4), "hada_w1_b": (2, 6), "hada_w2_a": (2, 4), "hada_w2_b": (2, 6)} | CORES),
    (LINEAR, {"lokr_w1": (2, 3), "lokr_w2_a": (2, 1), "lokr_w2_b": (1, 2)}),
    (CONVOLUTION, {"lokr_w1": (2, 3), "lokr_w2_a": (1, 2), "lokr_w2_b": (1, 2), "lokr_t2": (1, 1, 3, 3)}),
    (CONVOLUTION, {"lokr_w1": (2, 3), "lokr_w2": (2, 2, 3, 3), "magnitude": (1, 4, 1, 1)}),
]


@pytest.mark.parametrize("number", range(len(WHOLE)))
def test_r19_any_shape_is_a_whole_change_or_refused(number: int) -> None:
    module, shapes = WHOLE[number]
    draw = random.Random(number)
    outcomes = []
    for turn in range(500):
        mutant = {role: list(shape) for role, shape in shapes.items()}
        shape = mutant[draw.choice(list(mutant))]
        kind = draw.randrange(4) if turn else 3
        if kind == 0 and shape:
            shape.pop(draw.randrange(len(shape)))
        elif kind == 1:
            shape.insert(draw.randint(0, len(shape)), draw.choice([1, 2, 3]))
        elif kind == 2 and shape:
            shape[draw.randrange(len(shape))] = draw.choice([1, 2, 3, 4, 6, 9, 12])
        try:
            change = assemble({role: torch.rand(s) + 0.1 for role, s in mutant.items()}, module, None, ["a"], "file")
        except BadAdapter:
            outcomes.append("refused")
        else:
            assert change.change().numel() == module.weight.numel()
            outcomes.append("whole")
    assert outcomes[0] == "whole" and "refused" in outcomes
