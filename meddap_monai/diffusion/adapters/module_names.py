"""How adapter files spell a module: diffusers, peft, kohya-ss, LyCORIS and MEDDAP's attention processors.

A key is looked up in the module tree of the pipeline, so a name that the base does not have is an error, never skipped.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from meddap_monai.diffusion.adapters.factors import ROLES
from meddap_monai.diffusion.adapters.targets import COMPONENTS, plain_modules, takes_low_rank
from meddap_monai.errors import BadAdapter

PEFT = "base_model.model."
"""What ``PeftModel.save_pretrained`` writes before every name; its folder says which part it is for by the names."""
KOHYA = {
    "lora_unet_": "unet",
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
    "lycoris_": "unet",
}
_ROLE = re.compile(
    r"^(?P<module>.+?)[._](?:"
    + "|".join(f"(?P<{role}>{'|'.join(map(re.escape, endings))})" for role, endings in ROLES.items())
    + ")$"
)
_LEGACY_TEXT = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}
_IN_RESNET = {
    "conv1": "in_layers_2",
    "conv2": "out_layers_3",
    "time_emb_proj": "emb_layers_1",
    "conv_shortcut": "skip_connection",
}
_SGM_ENDS = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
}
_OTHER_KINDS = {
    "an OFT or BOFT": r"oft_|boft_",
    "whole differences (full training)": r"\.diff(_b)?$",
    "trained norms": r"\.[wb]_norm$",
    "a GLoRA": r"\.[ab][12]\.weight$",
    "an (IA)^3": r"\.on_input$|ia3_",
    "an AdaLoRA": r"lora_E",
    "trained vocabulary": r"lora_embedding_|bundle_emb",
    "textual-inversion vectors": r"^(emb_params|clip_[lg]|string_to_param.*|string_to_token.*|<.*>)$",
    "trained biases": r"bias$",
    "whole modules (modules_to_save)": rf"^{re.escape('base_model.model.')}.*weight$",
}


def plain_modules_of(component: nn.Module) -> dict[str, nn.Module]:
    """Return the modules of a part that take a low-rank change, by name."""
    return {name: module for name, module in plain_modules(component).items() if takes_low_rank(module)}


def spellings(component: nn.Module, part: str) -> dict[str, str]:
    """Return every spelling of a module in the known layouts -> its name in `component`."""
    table: dict[str, str] = {}
    for name in plain_modules_of(component):
        bare = name.removeprefix("text_model.")
        known = {name, bare, f"text_model.{bare}"} if part != "unet" else {name, _processor_name(name)}
        if part != "unet":
            known |= {_legacy_text_name(spelling) for spelling in known}
        flat = {name, f"text_model.{bare}"} if part != "unet" else {name, _sgm_name(name, component)}
        table |= dict.fromkeys(known, name)
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
    found = re.match(
        r"(down|up|mid)_blocks?\.(?:(\d+)\.)?(attentions|resnets|downsamplers|upsamplers)\.(\d+)\.(.+)", name
    )
    if found is None or not isinstance(per_block, int):
        return _SGM_ENDS.get(name, name)
    kind, block, inside, number, rest = found[1], int(found[2] or 0), found[3], int(found[4]), found[5]
    rest = _IN_RESNET.get(rest, rest)
    if kind == "mid":
        return f"middle_block.{1 if inside == 'attentions' else 2 * number}.{rest}"
    first = block * (per_block + 1)
    if inside == "downsamplers":
        return f"input_blocks.{first + per_block + 1}.0.op"
    if inside == "upsamplers":
        attends = unet.config["up_block_types"][block] == "CrossAttnUpBlock2D"
        return f"output_blocks.{first + per_block}.{1 + attends}.conv"
    blocks = f"input_blocks.{first + number + 1}" if kind == "down" else f"output_blocks.{first + number}"
    return f"{blocks}.{int(inside == 'attentions')}.{rest}"


def locate(key: str, tables: Mapping[str, dict[str, str]], where: str) -> tuple[str, str, str]:
    """Return (component, module name, role) of a key; the roles are those of ``factors.ROLES``.

    Args:
        key: of a tensor in an adapter file.
        tables: component -> `spellings` of it.
        where: the file's name for messages.

    Raises:
        BadAdapter: a key of another kind of adapter, or a module that the base does not have.
    """
    matched = _ROLE.match(key)
    if matched is None:
        kind = next((kind for kind, pattern in _OTHER_KINDS.items() if re.search(pattern, key)), None)
        raise BadAdapter(
            f"{where}: the key {key!r} belongs to {kind or 'no known layout'}; expected LoRA, LoCon, LoHa, LoKr or "
            "DoRA as diffusers, peft, kohya-ss, LyCORIS or MEDDAP's attention processors write them"
        )
    part, name = _split(matched["module"], tables, where)
    if part not in tables:
        raise BadAdapter(f"{where}: {key!r} is for {part}, which this base does not have; expected {', '.join(tables)}")
    if name not in tables[part]:
        raise BadAdapter(
            f"{where}: {key!r} names a module that the {part} of this base does not have; "
            "it was made for another architecture, so load it on that base"
        )
    return part, tables[part][name], next(role for role in ROLES if matched[role])


def _split(stem: str, tables: Mapping[str, dict[str, str]], where: str) -> tuple[str, str]:
    for prefix, part in KOHYA.items():
        if stem.startswith(prefix):
            return part, "/" + stem.removeprefix(prefix)
    for part in sorted(COMPONENTS, key=len, reverse=True):
        if stem.startswith(f"{part}."):
            return part, stem.removeprefix(f"{part}.")
    bare = stem.removeprefix(PEFT)
    having = [part for part, table in tables.items() if bare in table] or ["unet"]
    if len(having) > 1:
        raise BadAdapter(f"{where}: {stem!r} may be for {' or '.join(having)}; write the part before the names")
    return having[0], bare
