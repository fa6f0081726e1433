"""R30: every published way to say a scale gives the weight change of peft and diffusers within 1e-5, or is refused."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_material import random_weights
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from meddap_monai.diffusion.adapters import adapter as adapters
from meddap_monai.diffusion.adapters import injection
from meddap_monai.diffusion.adapters.formats import to_diffusers, to_kohya
from meddap_monai.diffusion.adapters.targets import target_modules
from meddap_monai.diffusion.adapters.tools import merge_adapters
from meddap_monai.diffusion.bases.base import load_base
from meddap_monai.errors import BadAdapter

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
Matrices = dict[str, torch.Tensor]


@pytest.fixture
def pipeline(tiny_base: Path) -> Any:
    return load_base(tiny_base)


def randomise(model: torch.nn.Module) -> None:
    """Fill what is zero at the start, and move the magnitudes of a DoRA, so that every adapter acts."""
    draw = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if any(kind in name for kind in ("lora_", "hada_", "lokr_")):
            noise = torch.randn(parameter.shape, generator=draw)
            parameter.data = parameter.data + 0.05 * noise if "magnitude" in name else 0.3 * noise


@torch.no_grad()
def true_changes(model: torch.nn.Module) -> Matrices:
    """Return module name -> change of the weight as peft itself merges it."""
    adapted = {
        name.removeprefix("base_model.model."): module
        for name, module in model.named_modules()
        if hasattr(module, "base_layer") and hasattr(module, "get_delta_weight")
    }
    before = {name: module.base_layer.weight.clone() for name, module in adapted.items()}
    for module in adapted.values():
        module.merge()
    return {name: (module.base_layer.weight - before[name]).flatten(1) for name, module in adapted.items()}


@torch.no_grad()
def acting(pipeline: Any, part: str = "unet") -> Matrices:
    """Return the change of every weight that the loaded adapters make."""
    return {name: change.flatten(1) for name, _, change in injection.fused_layers(getattr(pipeline, part))}


def assert_equal(found: Matrices, true: Matrices) -> None:
    assert found.keys() == true.keys()
    for name, change in true.items():
        assert change.abs().max() > 1e-3
        assert (found[name] - change).abs().max() <= 1e-5 * max(1.0, float(change.abs().max())), name


def save_peft(folder: Path, base: Path, config: Any, part: str = "unet") -> Matrices:
    """Write peft's folder for a configuration and return the true changes."""
    model = get_peft_model(getattr(load_base(base), part), config).eval()
    randomise(model)
    model.save_pretrained(folder)
    return true_changes(model)


def everything(base: Path, kind: str) -> list[str]:
    return list(target_modules(load_base(base).unet, kind))


LORA: dict[str, dict[str, Any]] = {
    "alpha": {"lora_alpha": 16},
    "alpha below rank": {"lora_alpha": 1},
    "rsLoRA": {"lora_alpha": 16, "use_rslora": True},
    "rank pattern": {"lora_alpha": 8, "rank_pattern": {"to_q": 2, r".*attn2\.to_k": 8}},
    "alpha pattern": {"lora_alpha": 4, "alpha_pattern": {"to_q": 16, r"to_out\.0": 1}},
    "the first pattern wins": {"alpha_pattern": {r"attn1\.to_q": 2, "to_q": 32, "to_[kv]": 3}},
    "anchored pattern": {"alpha_pattern": {r"^down_blocks\..*to_q": 2}},
    "pattern for none": {"lora_alpha": 12, "alpha_pattern": {"nowhere": 99}},
    "pattern for all": {"lora_alpha": 12, "alpha_pattern": {".*": 3}},
    "rsLoRA with both patterns": {"use_rslora": True, "rank_pattern": {"to_q": 9}, "alpha_pattern": {"to_k": 5}},
    "DoRA": {"lora_alpha": 8, "use_dora": True},
    "DoRA, rsLoRA": {"lora_alpha": 8, "use_dora": True, "use_rslora": True},
    "dropout": {"lora_alpha": 16, "lora_dropout": 0.5},
    "orthogonal start": {"lora_alpha": 16, "init_lora_weights": "orthogonal"},
    "fan_in_fan_out, off for Linear": {"lora_alpha": 16, "fan_in_fan_out": True},
}

HEADER = ["alpha", "rsLoRA", "rank pattern", "alpha pattern", "anchored pattern", "rsLoRA with both patterns", "DoRA"]


@pytest.mark.parametrize("name", LORA)
@pytest.mark.filterwarnings("ignore")
def test_r30_peft_folder(pipeline: Any, tiny_base: Path, tmp_path: Path, name: str) -> None:
    true = save_peft(tmp_path, tiny_base, LoraConfig(r=4, target_modules=ATTENTION, **LORA[name]))
    adapters.load_adapter(pipeline, tmp_path)
    assert_equal(acting(pipeline), true)


@pytest.mark.parametrize(
    "config",
    [
        LoHaConfig(r=4, alpha=12),
        LoHaConfig(r=4, alpha=12, use_effective_conv2d=True, alpha_pattern={"conv1": 3}),
        LoKrConfig(r=4, alpha=12),
        LoKrConfig(r=2, alpha=12, decompose_both=True, decompose_factor=4, use_effective_conv2d=True),
        LoraConfig(r=4, lora_alpha=12, rank_pattern={"conv1": 2}),
        LoraConfig(r=4, lora_alpha=12, use_dora=True),
    ],
    ids=["LoHa", "LoHa, Tucker", "LoKr", "LoKr, decomposed, Tucker", "LoCon", "LoCon, DoRA"],
)
@pytest.mark.filterwarnings("ignore")
def test_r30_peft_folder_on_convolutions(pipeline: Any, tiny_base: Path, tmp_path: Path, config: Any) -> None:
    config.target_modules = everything(tiny_base, "everything")
    true = save_peft(tmp_path, tiny_base, config)
    found = adapters.load_adapter(pipeline, tmp_path)
    assert found.sets == {"unet": "everything"}
    assert found.parameters == sum(
        tensor.numel() for tensor in load_file(tmp_path / "adapter_model.safetensors").values()
    )
    assert_equal(acting(pipeline), true)


@pytest.mark.filterwarnings("ignore")
def test_r30_peft_folder_of_a_text_encoder(pipeline: Any, tiny_base: Path, tmp_path: Path) -> None:
    modules = ["q_proj", "k_proj", "v_proj", "out_proj"]
    true = save_peft(tmp_path, tiny_base, LoraConfig(r=4, lora_alpha=16, target_modules=modules), "text_encoder")
    assert adapters.load_adapter(pipeline, tmp_path).sets == {"text_encoder": "text_attention"}
    assert_equal(acting(pipeline, "text_encoder"), true)


def save_diffusers(folder: Path, base: Path, settings: dict[str, dict[str, Any]]) -> None:
    """Write ``pytorch_lora_weights.safetensors`` as the training scripts of diffusers do."""
    from diffusers import StableDiffusionPipeline
    from diffusers.training_utils import _collate_lora_metadata
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft.utils import get_peft_model_state_dict

    pipe = load_base(base)
    layers = {}
    for part, more in settings.items():
        component = getattr(pipe, part)
        component.add_adapter(LoraConfig(r=4, **more))
        randomise(component)
        layers[f"{part}_lora_layers"] = convert_state_dict_to_diffusers(get_peft_model_state_dict(component))
    header = _collate_lora_metadata({part: getattr(pipe, part) for part in settings})
    StableDiffusionPipeline.save_lora_weights(folder, **layers, **header)


@pytest.mark.parametrize("name", HEADER)
@pytest.mark.filterwarnings("ignore")
def test_r30_diffusers_header(pipeline: Any, tiny_base: Path, tmp_path: Path, name: str) -> None:
    text = {
        "target_modules": ["q_proj", "k_proj", "v_proj", "out_proj"],
        "lora_alpha": 2,
        "alpha_pattern": {"q_proj": 8},
    }
    save_diffusers(tmp_path, tiny_base, {"unet": LORA[name] | {"target_modules": ATTENTION}, "text_encoder": text})
    theirs = load_base(tiny_base)
    theirs.load_lora_weights(str(tmp_path / "pytorch_lora_weights.safetensors"))
    adapters.load_adapter(pipeline, tmp_path)
    for part in ("unet", "text_encoder"):
        assert_equal(acting(pipeline, part), true_changes(getattr(theirs, part)))


@pytest.mark.filterwarnings("ignore")
def test_r30_header_of_a_single_part(pipeline: Any, tiny_base: Path, tmp_path: Path) -> None:
    unet = load_base(tiny_base).unet
    unet.add_adapter(LoraConfig(r=4, lora_alpha=16, use_rslora=True, target_modules=ATTENTION))
    randomise(unet)
    unet.save_lora_adapter(tmp_path)
    adapters.load_adapter(pipeline, tmp_path)
    assert_equal(acting(pipeline), true_changes(unet))


@pytest.mark.parametrize("write", [to_kohya, to_diffusers])
@pytest.mark.parametrize("kind", ["transformer", "transformer_and_convolutions"])
@pytest.mark.filterwarnings("ignore")
def test_r30_what_we_write_has_the_same_strength_in_diffusers(
    pipeline: Any, tiny_base: Path, tmp_path: Path, write: Any, kind: str
) -> None:
    sets = {"unet": kind, "text_encoder": "text"}
    weights = random_weights(adapters.parts_of(pipeline), sets, rank=4, alpha=2.0)
    for number, (part, name, change) in enumerate(weights.modules()):
        rank = 1 + number % 3
        down, up = change.down[:rank], change.up[:, :rank]
        weights.parts[part][name] = injection.LowRank(down, up, 1.0 + number % 5)
    tensors, header = write(weights)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "file.safetensors", header)
    theirs = load_base(tiny_base)
    theirs.load_lora_weights(str(tmp_path / "file.safetensors"))
    adapters.load_adapter(pipeline, tmp_path / "file.safetensors")
    for part in sets:
        true = {name: change.change() for name, change in weights.parts[part].items()}
        assert_equal(acting(pipeline, part), true)
        assert_equal(true_changes(getattr(theirs, part)), true)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "biases": ({"bias": "all"}, "biases were trained"),
    "biases of the pairs": ({"lora_bias": True}, "biases were trained"),
    "whole modules": ({"modules_to_save": ["conv_in"]}, "whole modules were trained"),
    "PiSSA": ({"init_lora_weights": "pissa"}, "changes the base's own weights"),
    "PiSSA, fast": ({"init_lora_weights": "pissa_niter_4"}, "changes the base's own weights"),
    "OLoRA": ({"init_lora_weights": "olora"}, "changes the base's own weights"),
    "CorDA": ({"init_lora_weights": "corda"}, "changes the base's own weights"),
    "LoftQ": ({"init_lora_weights": "loftq"}, "changes the base's own weights"),
    "QALoRA": ({"use_qalora": True}, "use_qalora is True"),
    "doubled layers": ({"layer_replication": [[0, 4], [2, 5]]}, "layers doubled"),
    "vocabulary": ({"trainable_token_indices": [0, 1]}, "rows of the vocabulary"),
    "a field of tomorrow": ({"use_tomorrow": 3}, "use_tomorrow is 3"),
    "(IA)^3": ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
    "DoRA without its magnitudes": ({"use_dora": True}, "use_dora True, its tensors are LORA with 0 magnitude"),
    "LoHa without its factors": ({"peft_type": "LOHA"}, "says LOHA"),
    "another rank": ({"r": 8}, "says rank 8, its tensors have rank 4"),
    "another rank by pattern": ({"rank_pattern": {"to_q": 2}}, "says rank 2, its tensors have rank 4"),
}


@pytest.fixture(scope="module")
def peft_folder(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("peft")
    save_peft(folder, tiny_base, LoraConfig(r=4, lora_alpha=16, target_modules=ATTENTION))
    return folder


def edited(folder: Path, copy: Path, more: dict[str, Any]) -> Path:
    """Copy peft's folder with other settings."""
    shutil.copytree(folder, copy)
    config = json.loads((copy / "adapter_config.json").read_text()) | more
    (copy / "adapter_config.json").write_text(json.dumps(config))
    return copy


@pytest.mark.parametrize("name", REFUSED)
def test_r30_what_is_more_than_a_scale_is_refused(pipeline: Any, peft_folder: Path, tmp_path: Path, name: str) -> None:
    settings, text = REFUSED[name]
    with pytest.raises(BadAdapter, match=re.escape(text)):
        adapters.read_weights(pipeline, edited(peft_folder, tmp_path / "a", settings) / "adapter_model.safetensors")


def test_r30_a_scale_that_is_lost_or_said_twice_is_refused(pipeline: Any, peft_folder: Path, tmp_path: Path) -> None:
    file = "adapter_model.safetensors"
    tensors = load_file(peft_folder / file)
    save_file(tensors, tmp_path / file)
    with pytest.raises(BadAdapter, match="keeps the scale in adapter_config.json"):
        adapters.read_weights(pipeline, tmp_path / file)
    shutil.copy(peft_folder / "adapter_config.json", tmp_path)
    assert set(adapters.read_weights(pipeline, tmp_path / file).alphas) == {16.0}
    save_file(tensors, tmp_path / file, {"lora_adapter_metadata": json.dumps({"unet.r": 4, "unet.lora_alpha": 4})})
    with pytest.raises(BadAdapter, match="both its header and adapter_config.json"):
        adapters.read_weights(pipeline, tmp_path / file)
    first = next(iter(tensors)).removesuffix(".lora_A.weight")
    save_file(tensors | {f"{first}.alpha": torch.tensor(4.0)}, tmp_path / file)
    with pytest.raises(BadAdapter, match="says scale 4, its alpha says 1"):
        adapters.read_weights(pipeline, tmp_path / file)


def test_r30_kohya_without_its_alphas_is_refused_where_its_header_says_one(pipeline: Any, tmp_path: Path) -> None:
    tensors, _ = to_kohya(random_weights(adapters.parts_of(pipeline), {"unet": "attention"}, rank=4, alpha=1.0))
    bare = {name: tensor for name, tensor in tensors.items() if not name.endswith("alpha")}
    save_file(bare, tmp_path / "a.safetensors", {"ss_network_alpha": "4.0", "ss_network_dim": "4"})
    assert adapters.read_weights(pipeline, tmp_path / "a.safetensors").alphas == [4.0]
    save_file(bare, tmp_path / "a.safetensors", {"ss_network_alpha": "1.0", "ss_network_dim": "4"})
    with pytest.raises(BadAdapter, match="its alpha tensors are lost"):
        adapters.read_weights(pipeline, tmp_path / "a.safetensors")


@pytest.mark.filterwarnings("ignore")
def test_r30_weight_fuse_and_sum_of_adapters_of_unlike_rank_and_alpha(
    pipeline: Any, tiny_base: Path, tmp_path: Path
) -> None:
    first = save_peft(tmp_path / "a", tiny_base, LoraConfig(r=4, lora_alpha=16, target_modules=ATTENTION))
    unlike = LoraConfig(r=2, lora_alpha=3, use_rslora=True, use_dora=True, target_modules=ATTENTION)
    second = save_peft(tmp_path / "b", tiny_base, unlike)
    adapters.load_adapter(pipeline, tmp_path / "a", 0.5)
    adapters.load_adapter(pipeline, tmp_path / "b", 2.0)
    summed = {name: 0.5 * first[name] + 2.0 * second[name] for name in first}
    assert_equal(acting(pipeline), summed)
    folder = merge_adapters([tmp_path / "a", tmp_path / "b"], tmp_path / "merged", tiny_base, [0.5, 2.0])
    plain, merged = (dict(load_base(base).unet.named_parameters()) for base in (tiny_base, folder))
    assert_equal({name: (merged[f"{name}.weight"] - plain[f"{name}.weight"]).detach() for name in summed}, summed)
