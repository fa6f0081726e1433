"""Which modules of a UNet and a text encoder an adapter may sit on: the complete, published sets and nothing else.

Sets are found in the module tree, not in a list of names, so they hold for Stable Diffusion 1.x, 2.x, XL and the
embedded base alike. On the Stable Diffusion 1.x architecture they give the published counts: `ATTENTION` 128 modules
(797,184 parameters at rank 4, MEDDAP), `TRANSFORMER` 192 modules (54,263,808 parameters at rank 128, FU-LoRA) and
`TEXT` 72 modules. kohya-ss's `conv_dim` and LyCORIS add `CONVOLUTIONS` and `EVERYTHING`.
"""

from collections.abc import Iterable

from torch import nn

from meddap_monai.errors import BadAdapter

ATTENTION = "attention"
FEED_FORWARD = "attention_and_feed_forward"
TRANSFORMER = "transformer"
CONVOLUTIONS = "transformer_and_convolutions"
EVERYTHING = "everything"
TEXT = "text"
TEXT_ATTENTION = "text_attention"

COMPONENTS = ("unet", "text_encoder", "text_encoder_2")
_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
_FEED_FORWARD = (*_ATTENTION, "ff.net.0.proj", "ff.net.2")
_TRANSFORMER = (*_FEED_FORWARD, "proj_in", "proj_out")
_BLOCKS = {"resnets", "downsamplers", "upsamplers"}
"""kohya-ss: ``ResnetBlock2D``, ``Downsample2D``, ``Upsample2D``, with all their Linear and convolutions."""
_ENDS = {"conv_in", "conv_out", "time_embedding.linear_1", "time_embedding.linear_2"}
"""LyCORIS: ``unet_target_name`` of its preset "full"."""
_SUFFIXES = {
    ATTENTION: _ATTENTION,
    FEED_FORWARD: _FEED_FORWARD,
    TRANSFORMER: _TRANSFORMER,
    CONVOLUTIONS: _TRANSFORMER,
    EVERYTHING: _TRANSFORMER,
    TEXT: ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
    TEXT_ATTENTION: ("q_proj", "k_proj", "v_proj", "out_proj"),
}
_SETS_OF = {"unet": (ATTENTION, FEED_FORWARD, TRANSFORMER, CONVOLUTIONS, EVERYTHING)} | dict.fromkeys(
    COMPONENTS[1:], (TEXT, TEXT_ATTENTION)
)


def suffixes(kind: str) -> tuple[str, ...]:
    """Return the module name endings of a target set, as peft's ``target_modules`` takes them."""
    return _SUFFIXES[kind]


def target_modules(component: nn.Module, kind: str) -> dict[str, nn.Module]:
    """Return name -> module of a target set, in the order of the module tree.

    Args:
        component: a ``UNet2DConditionModel`` or a ``CLIPTextModel`` (also one that already carries peft layers).
        kind: `ATTENTION` to `EVERYTHING` for a UNet; `TEXT`, `TEXT_ATTENTION` for a text encoder.
    """
    return {
        name: module
        for name, module in plain_modules(component).items()
        if takes_low_rank(module) and _belongs(name, kind)
    }


def _belongs(name: str, kind: str) -> bool:
    inside = set(name.split("."))
    if kind in (CONVOLUTIONS, EVERYTHING) and inside & _BLOCKS:
        return True
    if kind == EVERYTHING and name in _ENDS:
        return True
    place = "attentions" if kind in _SETS_OF["unet"] else "layers"
    return place in inside and name.endswith(tuple(f".{suffix}" for suffix in _SUFFIXES[kind]))


def plain_modules(component: nn.Module) -> dict[str, nn.Module]:
    """Return name -> module as if no peft layer were there: wrapped layers under their own name, no ``base_layer``."""
    found = {}
    for name, module in component.named_modules():
        if {"base_layer", "lora_A", "lora_B", "lora_dropout"} & set(name.split(".")):
            continue
        found[name] = getattr(module, "base_layer", module)
    return found


def takes_low_rank(module: nn.Module) -> bool:
    """Tell whether a module is a Linear or a convolution of one group."""
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)


def recognise(component: nn.Module, part: str, names: Iterable[str]) -> str:
    """Return the complete target set that `names` are.

    Args:
        component: the model part they belong to.
        part: its name in the pipeline, e.g. ``"unet"``.
        names: module names.

    Raises:
        BadAdapter: the names are no complete known set; the message says how far they are from the nearest.
    """
    names = set(names)
    nearest = []
    for kind in _SETS_OF[part]:
        complete = set(target_modules(component, kind))
        if names == complete:
            return kind
        nearest.append((len(names ^ complete), kind, sorted(complete - names), sorted(names - complete)))
    _, kind, missing, extra = min(nearest)
    raise BadAdapter(
        f"{part}: {len(names)} modules are no complete target set; the nearest is {kind!r}, of which {len(missing)} "
        f"are missing{_first(missing)} and {len(extra)} do not belong{_first(extra)}; "
        "expected all modules of one set, so get the whole file again or train the adapter on this base"
    )


def _first(names: list[str]) -> str:
    return f" (such as {names[0]!r})" if names else ""


def sizes(module: nn.Module) -> tuple[int, int]:
    """Return how many (inputs, outputs) the matrix of a Linear or a convolution has; each kernel place is an input."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if isinstance(module, nn.Conv2d):
        return module.in_channels * module.kernel_size[0] * module.kernel_size[1], module.out_channels
    raise TypeError(f"{type(module).__name__} takes no low-rank adapter, expected Linear or Conv2d")
