"""Adapter file layouts: diffusers / peft, kohya-ss and the attention-processor layout that MEDDAP published.

All three are read into `AdapterWeights` by looking the key up in the module tree of the pipeline, so a name that does
not exist in the base is an error and never skipped. diffusers 0.42 loads MEDDAP's layout without a word and without
an effect; here it loads exactly.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from meddap_monai.diffusion.injection import LowRank, shapes
from meddap_monai.diffusion.targets import COMPONENTS, plain_modules, suffixes, takes_low_rank
from meddap_monai.errors import BadAdapter

LAYOUTS = ("diffusers", "kohya", "legacy")
HEADER = "lora_adapter_metadata"
_KOHYA = {"lora_unet_": "unet", "lora_te_": "text_encoder", "lora_te1_": "text_encoder", "lora_te2_": "text_encoder_2"}
_KOHYA_OUT = {"unet": "lora_unet_", "text_encoder": "lora_te_", "text_encoder_2": "lora_te2_"}
_ROLE = re.compile(
    r"^(?P<module>.+?)(?P<join>\.|_)(?:"
    r"(?P<down>lora_A\.weight|lora\.down\.weight|lora_linear_layer\.down\.weight|lora_down\.weight)|"
    r"(?P<up>lora_B\.weight|lora\.up\.weight|lora_linear_layer\.up\.weight|lora_up\.weight)|(?P<alpha>alpha))$"
)
_LEGACY_TEXT = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}


@dataclass(frozen=True)
class AdapterWeights:
    """What an adapter file says, in one shape whatever its layout.

    Attributes:
        parts: component ("unet", "text_encoder", "text_encoder_2") -> module name -> change.
        layout: one of `LAYOUTS`.
        header: the file's metadata.
    """

    parts: dict[str, dict[str, LowRank]]
    layout: str = "diffusers"
    header: dict[str, str] = field(default_factory=dict)

    @property
    def parameters(self) -> int:
        """Number of trained values."""
        return sum(change.parameters for part in self.parts.values() for change in part.values())

    @property
    def ranks(self) -> list[int]:
        """The distinct ranks, ascending."""
        return sorted({change.rank for part in self.parts.values() for change in part.values()})

    @property
    def alphas(self) -> list[float]:
        """The distinct alphas, ascending."""
        return sorted({change.alpha for part in self.parts.values() for change in part.values()})

    def modules(self) -> Iterator[tuple[str, str, LowRank]]:
        """Yield (component, module name, change)."""
        for part, changes in self.parts.items():
            for name, change in changes.items():
                yield part, name, change


# ------------------------------------------------------------------------------------------------------------- read
def read_layout(
    tensors: Mapping[str, torch.Tensor], header: Mapping[str, str], components: Mapping[str, nn.Module], where: str
) -> AdapterWeights:
    """Turn the tensors of an adapter file into `AdapterWeights`.

    Args:
        tensors: as in the file.
        header: the file's metadata; diffusers keeps ranks and alphas there.
        components: "unet", "text_encoder", ... -> model part that the adapter is for; meta tensors will do.
        where: the file's name for messages.

    Raises:
        BadAdapter: an unknown key, a module that the base does not have, a half pair, or a wrong shape.
    """
    if not tensors:
        raise BadAdapter(f"{where}: holds no tensors, expected the low-rank pairs of an adapter; get the file again")
    tables = {part: _names(component, part) for part, component in components.items()}
    pairs: dict[tuple[str, str], dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        part, name, role = _locate(key, tables, where)
        if role in pairs.setdefault((part, name), {}):
            raise BadAdapter(f"{where}: {part} {name} has two {role} tensors (the second is {key!r}), expected one")
        pairs[part, name][role] = tensor
    alphas = _header_alphas(header, where)
    parts: dict[str, dict[str, LowRank]] = {}
    modules = {part: plain_modules_of(component) for part, component in components.items()}
    for (part, name), pair in pairs.items():
        module = modules[part][name]
        parts.setdefault(part, {})[name] = _pair(pair, module, alphas, f"{where}: {part} {name}", part, name)
    ordered = {
        part: {name: parts[part][name] for name in modules[part] if name in parts[part]}
        for part in COMPONENTS
        if part in parts
    }
    return AdapterWeights(ordered, _layout_of(next(iter(tensors))), dict(header))


def plain_modules_of(component: nn.Module) -> dict[str, nn.Module]:
    """Return the modules of a part that take a low-rank change, by name."""
    return {name: module for name, module in plain_modules(component).items() if takes_low_rank(module)}


def _layout_of(key: str) -> str:
    if key.startswith(tuple(_KOHYA)):
        return "kohya"
    return "legacy" if ".processor." in key else "diffusers"


def _names(component: nn.Module, part: str) -> dict[str, str]:
    """Return every spelling of a module in the known layouts -> its name in `component`."""
    table: dict[str, str] = {}
    for name in plain_modules_of(component):
        bare = name.removeprefix("text_model.")
        spellings = {name, bare, f"text_model.{bare}"} if part != "unet" else {name, _processor_name(name)}
        if part != "unet":
            spellings |= {_legacy_text_name(spelling) for spelling in spellings}
        flat = {name, f"text_model.{bare}"} if part != "unet" else {name, _sgm_name(name, component)}
        table |= dict.fromkeys(spellings, name)
        table |= {"/" + item.replace(".", "_"): name for item in flat}
    return table


def _processor_name(name: str) -> str:
    block, _, leaf = name.removesuffix(".0").rpartition(".")
    return f"{block}.processor.{leaf}" if leaf in _LEGACY_TEXT else name


def _legacy_text_name(name: str) -> str:
    block, _, leaf = name.rpartition(".")
    old = {new: old for old, new in _LEGACY_TEXT.items()}.get(leaf)
    return f"{block}.{old}" if old else name


def _sgm_name(name: str, unet: Any) -> str:
    """Return the name kohya-ss gives a UNet module of SDXL (the original repository's block numbers)."""
    per_block = unet.config["layers_per_block"]
    found = re.match(r"(down_blocks|up_blocks|mid_block)\.(\d+\.)?attentions\.(\d+)\.(.+)", name)
    if found is None or not isinstance(per_block, int):
        return name
    kind, block, number, rest = found[1], int((found[2] or "0.")[:-1]), int(found[3]), found[4]
    if kind == "mid_block":
        return f"middle_block.1.{rest}"
    index = block * (per_block + 1) + number
    return f"input_blocks.{index + 1}.1.{rest}" if kind == "down_blocks" else f"output_blocks.{index}.1.{rest}"


def _locate(key: str, tables: Mapping[str, dict[str, str]], where: str) -> tuple[str, str, str]:
    """Return (component, module name, role) of a key; role is "down", "up" or "alpha"."""
    matched = _ROLE.match(key)
    if matched is None:
        raise BadAdapter(
            f"{where}: the key {key!r} belongs to no known layout; expected diffusers, peft, kohya-ss or MEDDAP's "
            "attention processors with plain low-rank pairs (no LoHa, LoKr or DoRA)"
        )
    part, name = _split(matched["module"], tables)
    role = next(role for role in ("down", "up", "alpha") if matched[role])
    if part not in tables:
        raise BadAdapter(f"{where}: {key!r} is for {part}, which this base does not have; expected {', '.join(tables)}")
    if name not in tables[part]:
        raise BadAdapter(
            f"{where}: {key!r} names a module that the {part} of this base does not have; "
            "it was made for another architecture, so load it on that base"
        )
    return part, tables[part][name], role


def _split(stem: str, tables: Mapping[str, dict[str, str]]) -> tuple[str, str]:
    for prefix, part in _KOHYA.items():
        if stem.startswith(prefix):
            return part, "/" + stem.removeprefix(prefix)
    for part in sorted(COMPONENTS, key=len, reverse=True):
        if stem.startswith(f"{part}."):
            return part, stem.removeprefix(f"{part}.")
    return "unet", stem.removeprefix("base_model.model.")


def _header_alphas(header: Mapping[str, str], where: str) -> dict[str, Any]:
    raw = header.get(HEADER)
    if raw is None:
        return {}
    try:
        settings = json.loads(raw)
    except ValueError as error:
        raise BadAdapter(f"{where}: the header's {HEADER} is not JSON ({error}); get the file again") from error
    if not isinstance(settings, dict):
        raise BadAdapter(f"{where}: the header's {HEADER} is {type(settings).__name__}, expected a JSON object")
    return settings


def _pair(
    pair: Mapping[str, torch.Tensor], module: nn.Module, header: Mapping[str, Any], where: str, part: str, name: str
) -> LowRank:
    if not {"down", "up"} <= set(pair):
        lacking = "up" if "down" in pair else "down"
        raise BadAdapter(f"{where}: the {lacking} tensor is missing, expected a (down, up) pair; get the whole file")
    down, up = pair["down"], pair["up"]
    rank = down.shape[0] if down.ndim else 0
    alpha = float(pair["alpha"].flatten()[0]) if "alpha" in pair and pair["alpha"].numel() == 1 else None
    if "alpha" in pair and alpha is None:
        raise BadAdapter(f"{where}: alpha has shape {tuple(pair['alpha'].shape)}, expected one number")
    wanted = shapes(module, rank)
    if rank == 0 or not (_same(down, wanted[0]) and _same(up, wanted[1])):
        raise BadAdapter(
            f"{where}: down {tuple(down.shape)} and up {tuple(up.shape)} do not fit, expected {wanted[0]} and "
            f"{wanted[1]} at rank {rank}; the adapter is of another base"
        )
    if alpha is None:
        pattern = header.get(f"{part}.alpha_pattern") or {}
        alpha = float(pattern.get(name, header.get(f"{part}.lora_alpha", rank)))
    return LowRank(down.reshape(wanted[0]), up.reshape(wanted[1]), alpha)


def _same(tensor: torch.Tensor, wanted: tuple[int, ...]) -> bool:
    """Shapes agree up to the trailing 1x1 of a convolution, which the layouts write or drop."""
    got = tuple(tensor.shape)
    return got[:2] == wanted[:2] and set(got[2:]) <= {1}


# ------------------------------------------------------------------------------------------------------------ write
def to_diffusers(weights: AdapterWeights) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return (tensors, header) that ``load_lora_weights`` of diffusers reads with the right alpha."""
    tensors: dict[str, torch.Tensor] = {}
    settings: dict[str, Any] = {}
    for part, name, change in weights.modules():
        stem = f"{part}.{_written(part, name)}"
        tensors[f"{stem}.lora_A.weight"] = change.down.contiguous()
        tensors[f"{stem}.lora_B.weight"] = change.up.contiguous()
    endings = {ending for kind in ("transformer", "text") for ending in suffixes(kind)}
    for part, changes in weights.parts.items():
        first = next(iter(changes.values()))
        settings[f"{part}.r"] = first.rank
        settings[f"{part}.lora_alpha"] = first.alpha
        settings[f"{part}.rank_pattern"] = {n: c.rank for n, c in changes.items() if c.rank != first.rank}
        settings[f"{part}.alpha_pattern"] = {n: c.alpha for n, c in changes.items() if c.alpha != first.alpha}
        settings[f"{part}.target_modules"] = sorted(
            {next(ending for ending in sorted(endings) if name.endswith(f".{ending}")) for name in changes}
        )
    return dict(sorted(tensors.items())), {HEADER: json.dumps(settings, sort_keys=True)}


def to_kohya(weights: AdapterWeights) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return (tensors, header) in kohya-ss layout, alpha per module; what AUTOMATIC1111, ComfyUI and diffusers read."""
    two = "text_encoder_2" in weights.parts
    tensors = {}
    for part, name, change in weights.modules():
        prefix = "lora_te1_" if two and part == "text_encoder" else _KOHYA_OUT[part]
        stem = prefix + _written(part, name).replace(".", "_")
        tensors[f"{stem}.lora_down.weight"] = change.down.contiguous()
        tensors[f"{stem}.lora_up.weight"] = change.up.contiguous()
        tensors[f"{stem}.alpha"] = torch.tensor(float(change.alpha))
    return dict(sorted(tensors.items())), {}


def _written(part: str, name: str) -> str:
    return name if part == "unet" or name.startswith("text_model.") else f"text_model.{name}"
