"""LoCon, LoHa, LoKr and DoRA against their definitions, written out element by element where no library is at hand."""

import itertools

import pytest
import torch
from adapter_material import sdxl_unet
from torch import nn

from meddap_monai.diffusion.adapters.factors import assemble
from meddap_monai.diffusion.adapters.module_names import spellings
from meddap_monai.diffusion.adapters.targets import target_modules
from meddap_monai.errors import BadAdapter


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


CONV, WIDE, LINEAR = nn.Conv2d(6, 4, 3), nn.Conv2d(2, 24, 3), nn.Linear(6, 4)


def change(module: nn.Module, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the change that a peft layer of ours makes, in the shape of the weight."""
    return assemble(tensors, module, None, ["module"], "file").change().reshape(module.weight.shape)


def tucker(core: torch.Tensor, outputs: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """W[o, c, y, x] = sum over i, j of core[i, j, y, x] outputs[i, o] inputs[j, c] (LyCORIS, equation 5)."""
    whole = torch.zeros(outputs.shape[1], inputs.shape[1], *core.shape[2:])
    for i, j in itertools.product(range(core.shape[0]), range(core.shape[1])):
        whole += core[i, j] * (outputs[i][:, None] * inputs[j][None])[..., None, None]
    return whole


@pytest.mark.parametrize("module", [CONV, WIDE])
def test_locon_is_two_convolutions_one_after_the_other(module: nn.Conv2d) -> None:
    down, up = draw(2, module.in_channels, 3, 3), draw(module.out_channels, 2, 1, 1)
    image = draw(1, module.in_channels, 8, 8)
    expected = 0.75 * nn.functional.conv2d(nn.functional.conv2d(image, down), up)
    found = nn.functional.conv2d(image, change(module, {"down": down, "up": up, "alpha": torch.tensor(1.5)}))
    assert torch.allclose(found, expected, atol=1e-4)


def test_locon_with_a_core() -> None:
    down, mid, up = draw(2, 6, 1, 1), draw(2, 2, 3, 3), draw(4, 2, 1, 1)
    found = change(CONV, {"down": down, "mid": mid, "up": up, "alpha": torch.tensor(1.0)})
    expected = 0.5 * tucker(mid, up[:, :, 0, 0].T, down[:, :, 0, 0])
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("module", [CONV, WIDE, LINEAR])
def test_loha_is_the_product_of_the_elements(module: nn.Module) -> None:
    rows, columns = module.weight.flatten(1).shape
    factors = {"hada_w1_a": draw(rows, 2), "hada_w1_b": draw(2, columns), "hada_w2_a": draw(rows, 2) + 1}
    factors["hada_w2_b"] = draw(2, columns) - 1
    expected = torch.zeros(rows, columns)
    for i, j in itertools.product(range(2), range(2)):
        left = factors["hada_w1_a"][:, i, None] * factors["hada_w1_b"][i]
        expected += 3 / 2 * left * factors["hada_w2_a"][:, j, None] * factors["hada_w2_b"][j]
    found = change(module, factors | {"alpha": torch.tensor(3.0)})
    assert torch.allclose(found, expected.reshape(module.weight.shape), atol=1e-5)


def test_loha_with_cores() -> None:
    factors = {f"hada_{name}": draw(2, size) for name, size in (("w1_a", 4), ("w1_b", 6), ("w2_a", 4), ("w2_b", 6))}
    cores = {"hada_t1": draw(2, 2, 3, 3), "hada_t2": draw(2, 2, 3, 3) + 1}
    left, right = (
        tucker(cores[f"hada_t{n}"], factors[f"hada_w{n}_a"], factors[f"hada_w{n}_b"]) for n in (1, 2)
    )  # fmt: skip
    assert torch.allclose(change(CONV, factors | cores), left * right, atol=1e-4)


@pytest.mark.parametrize(
    ("module", "right"),
    [
        (LINEAR, {"lokr_w2_a": draw(2, 1), "lokr_w2_b": draw(1, 2)}),
        (CONV, {"lokr_w2_a": draw(2, 1), "lokr_w2_b": draw(1, 18)}),
        (CONV, {"lokr_w2_a": draw(1, 2), "lokr_w2_b": draw(1, 2), "lokr_t2": draw(1, 1, 3, 3)}),
        (CONV, {"lokr_w2": draw(2, 2, 3, 3)}),
        (LINEAR, {"lokr_w2": draw(2, 2)}),
    ],
)
def test_lokr_is_blocks_of_the_large_factor(module: nn.Module, right: dict[str, torch.Tensor]) -> None:
    small = draw(2, 3)
    large = right.get("lokr_w2")
    scale = 5.0 if large is None else 1.0  # LyCORIS: whole factors have a scale of 1, whatever alpha says
    if large is None and "lokr_t2" in right:
        large = tucker(right["lokr_t2"], right["lokr_w2_a"], right["lokr_w2_b"])
    elif large is None:
        large = right["lokr_w2_a"] @ right["lokr_w2_b"]
    large = large.reshape(2, 2, *module.weight.shape[2:])
    expected = torch.cat([torch.cat([scale * small[i, j] * large for j in range(3)], dim=1) for i in range(2)])
    found = change(module, {"lokr_w1": small, "alpha": torch.tensor(5.0)} | right)
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(("module", "axis"), [(LINEAR, 0), (CONV, 0), (LINEAR, 1), (CONV, 1)])
def test_dora_sets_the_length_of_each_output_or_input(module: nn.Module, axis: int) -> None:
    down, up = draw(2, *module.weight.shape[1:]), draw(4, 2, *[1] * (module.weight.ndim - 2))
    size = module.weight.shape[axis]
    scale = draw(size).abs().reshape([size if at == axis else 1 for at in range(module.weight.ndim)])
    with torch.no_grad():
        whole = module.weight + change(module, {"down": down, "up": up, "dora_scale": scale})
        direction = module.weight + (up.flatten(1) @ down.flatten(1)).reshape(module.weight.shape)
    for part, line, length in zip(whole.unbind(axis), direction.unbind(axis), scale.flatten(), strict=True):
        assert part.norm() == pytest.approx(float(length), rel=1e-5)
        assert torch.allclose(part / part.norm(), line / line.norm(), atol=1e-5)


def test_dora_without_the_bases_weights_is_refused() -> None:
    with torch.device("meta"):
        module = nn.Linear(6, 4)
    with pytest.raises(BadAdapter, match="no change without the weights of its base"):
        change(module, {"down": draw(2, 6), "up": draw(4, 2), "magnitude": draw(4)})


def test_names_of_xl_are_those_that_diffusers_reads() -> None:
    from diffusers.loaders.lora_conversion_utils import (
        _convert_unet_lora_key,
        _maybe_map_sgm_blocks_to_diffusers,
    )

    unet = sdxl_unet()
    table = {key: name for key, name in spellings(unet, "unet").items() if key.startswith("/")}
    names = set(target_modules(unet, "everything"))
    original = {f"lora_unet_{key[1:]}.lora_down.weight": name for key, name in table.items() if name in names}
    original = {key: name for key, name in original.items() if not key[10:].startswith(("down_", "mid_", "up_"))}
    assert set(original.values()) == names
    mapped = _maybe_map_sgm_blocks_to_diffusers({key: key for key in original}, unet.config)
    for theirs, key in mapped.items():
        read = _convert_unet_lora_key(theirs).removesuffix(".lora.down.weight").removesuffix("_lora.down.weight")
        expected = original[key].replace(".processor", "").removesuffix(".0")
        assert read.replace(".processor", "").removesuffix(".0") == expected, key
