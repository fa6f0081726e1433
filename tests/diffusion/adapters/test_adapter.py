from pathlib import Path

import pytest
import torch
from adapter_material import card_of, random_weights, state_hash, write_adapter
from safetensors.torch import load_file

from meddap_monai.diffusion.adapters import adapter as adapters
from meddap_monai.diffusion.adapters.effect import run_once
from meddap_monai.diffusion.adapters.file import save_adapter
from meddap_monai.diffusion.bases.base import load_base
from meddap_monai.errors import BadAdapter


@pytest.fixture
def pipeline(tiny_base: Path):
    return load_base(tiny_base)


@torch.no_grad()
def outputs(pipeline) -> torch.Tensor:
    return torch.cat([run_once(part).flatten() for part in adapters.parts_of(pipeline).values()])


BOTH = {"unet": "transformer", "text_encoder": "text"}


def test_what_is_saved_is_loaded(pipeline, tmp_path: Path) -> None:
    weights = write_adapter(tmp_path / "a", pipeline, BOTH, rank=2, alpha=1.0)
    adapter = adapters.load_adapter(pipeline, tmp_path / "a")
    assert (adapter.sets, adapter.base, adapter.rank) == (BOTH, "tiny", 2)
    assert adapter.parameters == weights.parameters
    assert adapter.effect > 0
    assert adapter.prompt("benign") == "an ultrasound photo of benign tumor in breast"
    assert adapter.prompt("unknown") is None
    layer = pipeline.unet.get_submodule(next(iter(weights.parts["unet"])))
    with torch.no_grad():
        expected = next(iter(weights.parts["unet"].values())).change().flatten()
        assert torch.allclose(layer.get_delta_weight("a_layers").flatten(), expected, atol=1e-6)
    assert not any(parameter.requires_grad for parameter in pipeline.unet.parameters())


def test_the_file_is_equal_for_equal_weights(pipeline, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_adapter(tmp_path / name, pipeline, BOTH)
    assert (tmp_path / "a/adapter.safetensors").read_bytes() == (tmp_path / "b/adapter.safetensors").read_bytes()


def test_several_adapters_add_up_switch_and_leave(pipeline, tmp_path: Path) -> None:
    plain = outputs(pipeline)
    for number, name in enumerate("ab"):
        write_adapter(tmp_path / name, pipeline, BOTH, seed=number)
    adapters.load_adapter(pipeline, tmp_path / "a")
    only_a = outputs(pipeline)
    adapters.load_adapter(pipeline, tmp_path / "b", weight=0.5)
    both = outputs(pipeline)
    assert not torch.equal(both, only_a)
    adapters.set_weights(pipeline, {"b": 0.0})
    assert torch.allclose(outputs(pipeline), only_a, atol=1e-6)
    adapters.set_weights(pipeline, {"a": 0.0, "b": 0.5})
    only_b = outputs(pipeline)
    adapters.unload_adapter(pipeline, "a")
    assert torch.allclose(outputs(pipeline), only_b, atol=1e-6)
    assert list(adapters.loaded(pipeline)) == ["b"]
    adapters.unload_adapter(pipeline)
    assert torch.equal(outputs(pipeline), plain)


@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_fused_computes_the_same_and_restores_the_copy(pipeline, tmp_path: Path, weight: float) -> None:
    before = state_hash(pipeline)
    write_adapter(tmp_path / "a", pipeline, BOTH)
    adapters.load_adapter(pipeline, tmp_path / "a", weight=weight)
    apart, inside = outputs(pipeline), state_hash(pipeline)
    with adapters.fuse(pipeline):
        assert not any("lora" in name for name, _ in pipeline.unet.named_modules())
        assert torch.allclose(outputs(pipeline), apart, atol=1e-5)
    assert state_hash(pipeline) == inside
    assert torch.equal(outputs(pipeline), apart)
    with pytest.raises(RuntimeError, match="stop"), adapters.fuse(pipeline):
        raise RuntimeError("stop")
    assert state_hash(pipeline) == inside
    adapters.unload_adapter(pipeline)
    assert state_hash(pipeline) == before


def test_a_name_that_torch_uses_itself(pipeline, tmp_path: Path) -> None:
    write_adapter(tmp_path / "train", pipeline)
    write_adapter(tmp_path / "keys.v2", pipeline)
    for name in ("train", "keys.v2"):
        adapters.load_adapter(pipeline, tmp_path / name)
    assert list(adapters.loaded(pipeline)) == ["train", "keys"]


def test_new_words_come_and_go(pipeline, tmp_path: Path) -> None:
    plain, vocabulary = state_hash(pipeline), pipeline.tokenizer.get_vocab()
    draw = torch.Generator().manual_seed(0)
    for word in ("<benign>", "<malignant>"):
        vector = torch.randn(pipeline.text_encoder.config.hidden_size, generator=draw)
        save_adapter(tmp_path / word[1:-1], {word: vector}, card_of(pipeline, "textual_inversion"))
        adapters.load_adapter(pipeline, tmp_path / word[1:-1])
    number = pipeline.tokenizer.convert_tokens_to_ids("<malignant>")
    saved = load_file(tmp_path / "malignant/embeddings.safetensors")["<malignant>"]
    assert torch.equal(pipeline.text_encoder.get_input_embeddings().weight[number], saved)
    assert pipeline.tokenizer("<malignant>").input_ids.count(number) == 1
    adapters.unload_adapter(pipeline, "benign")
    number = pipeline.tokenizer.convert_tokens_to_ids("<malignant>")
    assert torch.equal(pipeline.text_encoder.get_input_embeddings().weight[number], saved)
    assert "<benign>" not in pipeline.tokenizer.get_vocab()
    adapters.unload_adapter(pipeline)
    assert state_hash(pipeline) == plain
    assert pipeline.tokenizer.get_vocab() == vocabulary


@pytest.mark.parametrize(
    ("act", "text"),
    [
        (lambda p, f: adapters.load_adapter(p, f / "a", name="x"), "named 'x' is loaded already"),
        (lambda p, f: adapters.load_adapter(p, f / "a", weight=-1.0), "expected 0 or more"),
        (lambda p, f: adapters.load_adapter(p, f / "a", weight=float("nan")), "expected 0 or more"),
        (lambda p, f: adapters.load_adapter(p, f / "a", weight=1e6), "at most 100"),
        (lambda p, f: adapters.set_weights(p, {"x": float("nan")}), "expected 0 or more"),
        (lambda p, f: adapters.set_weights(p, {"x": -0.5}), "expected 0 or more"),
        (lambda p, f: adapters.set_weights(p, {"y": 1.0}), r"no adapter 'y' is loaded; loaded are \['x'\]"),
        (lambda p, f: adapters.unload_adapter(p, "y"), "no adapter 'y' is loaded"),
        (adapters.load_adapter, "holds 0 .safetensors files"),
        (lambda p, f: adapters.load_adapter(p, f / "nowhere"), "does not exist"),
    ],
)
def test_misuse_is_named(pipeline, tmp_path: Path, act, text: str) -> None:
    write_adapter(tmp_path / "a", pipeline)
    adapters.load_adapter(pipeline, tmp_path / "a", name="x")
    with pytest.raises(BadAdapter, match=text):
        act(pipeline, tmp_path)
    assert list(adapters.loaded(pipeline)) == ["x"]


def test_an_untrained_module_is_refused(pipeline, tmp_path: Path) -> None:
    weights = random_weights(adapters.parts_of(pipeline), {"unet": "attention"})
    next(iter(weights.parts["unet"].values())).up.zero_()
    save_adapter(tmp_path, weights, card_of(pipeline))
    with pytest.raises(BadAdapter, match="1 of 56 modules of the unet change nothing"):
        adapters.load_adapter(pipeline, tmp_path)
