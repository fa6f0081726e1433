"""Adapter file layouts: diffusers, peft, kohya-ss / LyCORIS and the attention-processor layout that MEDDAP published.

All are read into `AdapterWeights` by looking the key up in the module tree of the pipeline, so a name that does
not exist in the base is an error and never skipped. diffusers 0.42 loads MEDDAP's layout without a word and without
an effect; here it loads exactly.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from meddap_monai.diffusion.adapters.factors import assemble
from meddap_monai.diffusion.adapters.injection import LowRank
from meddap_monai.diffusion.adapters.module_names import KOHYA, PEFT, locate, plain_modules_of, spellings
from meddap_monai.diffusion.adapters.scale import CONFIG, HEADER, check_kohya, scale_of
from meddap_monai.diffusion.adapters.targets import COMPONENTS, suffixes
from meddap_monai.errors import BadAdapter

LAYOUTS = ("diffusers", "kohya", "legacy")
_KOHYA_OUT = {"unet": "lora_unet_", "text_encoder": "lora_te_", "text_encoder_2": "lora_te2_"}


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
    tensors: Mapping[str, torch.Tensor],
    header: Mapping[str, str],
    components: Mapping[str, nn.Module],
    where: str,
    config: Mapping[str, Any] | None = None,
) -> AdapterWeights:
    """Turn the tensors of an adapter file into `AdapterWeights`.

    Args:
        tensors: as in the file.
        header: the file's metadata; diffusers keeps ranks and alphas there.
        components: "unet", "text_encoder", ... -> model part that the adapter is for; meta tensors will do.
        where: the file's name for messages.
        config: peft's ``adapter_config.json`` beside the file.

    Raises:
        BadAdapter: an unknown key, a module that the base does not have, a half pair, a wrong shape, or a scale that
            is out of range, contradicted or cannot be known.
    """
    if not tensors:
        raise BadAdapter(f"{where}: holds no tensors, expected the low-rank pairs of an adapter; get the file again")
    tables = {part: spellings(component, part) for part, component in components.items()}
    found: dict[str, dict[str, dict[str, torch.Tensor]]] = {}
    for key, tensor in tensors.items():
        part, name, role = locate(key, tables, where)
        roles = found.setdefault(part, {}).setdefault(name, {})
        if role in roles:
            raise BadAdapter(f"{where}: {part} {name} has two {role} tensors (the second is {key!r}), expected one")
        roles[role] = tensor
    _check_scale_given(tensors, header, config, where)
    parts: dict[str, dict[str, LowRank]] = {}
    for part in (part for part in COMPONENTS if part in found):
        adapter_scale = scale_of(header, config, part, where)
        modules = {name: module for name, module in plain_modules_of(components[part]).items() if name in found[part]}
        parts[part] = {
            name: assemble(found[part][name], module, adapter_scale, _names(part, name), f"{where}: {part} {name}")
            for name, module in modules.items()
        }
    return AdapterWeights(parts, _layout_of(next(iter(tensors))), dict(header))


def _check_scale_given(
    tensors: Mapping[str, torch.Tensor], header: Mapping[str, str], config: Mapping[str, Any] | None, where: str
) -> None:
    alphas = any(key.endswith(".alpha") for key in tensors)
    if config is None and HEADER not in header and not alphas and any(key.startswith(PEFT) for key in tensors):
        raise BadAdapter(
            f"{where}: peft wrote it and keeps the scale in {CONFIG}, which is not beside it; get the whole folder"
        )
    if not alphas:
        check_kohya(header, where)


def _names(part: str, name: str) -> tuple[str, ...]:
    """Return the names a pattern may mean: those of this and of older releases of transformers."""
    return (name,) if part == "unet" else (name, _written(part, name))


def _layout_of(key: str) -> str:
    if key.startswith(tuple(KOHYA)):
        return "kohya"
    return "legacy" if ".processor." in key else "diffusers"


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
            {next((ending for ending in sorted(endings) if name.endswith(f".{ending}")), name) for name in changes}
        )
    return dict(sorted(tensors.items())), {HEADER: json.dumps(settings, sort_keys=True)}


def to_kohya(weights: AdapterWeights) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return (tensors, header) in kohya-ss layout; what AUTOMATIC1111, ComfyUI and diffusers read.

    diffusers 0.42 loses the alphas of attention modules when they differ, so all get the first module's alpha and
    ``up`` carries the rest.
    """
    two = "text_encoder_2" in weights.parts
    tensors = {}
    alpha = next(weights.modules())[2].alpha
    for part, name, change in weights.modules():
        prefix = "lora_te1_" if two and part == "text_encoder" else _KOHYA_OUT[part]
        stem = prefix + _written(part, name).replace(".", "_")
        tensors[f"{stem}.lora_down.weight"] = change.down.contiguous()
        tensors[f"{stem}.lora_up.weight"] = (change.up * (change.alpha / alpha)).contiguous()
        tensors[f"{stem}.alpha"] = torch.tensor(float(alpha))
    return dict(sorted(tensors.items())), {}


def _written(part: str, name: str) -> str:
    return name if part == "unet" or name.startswith("text_model.") else f"text_model.{name}"
