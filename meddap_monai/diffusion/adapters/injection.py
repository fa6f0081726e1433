"""Low-rank layers inside a model part: put in, switch, fuse, take out - the base's own tensors are never written.

``W' = W + weight * alpha / rank * up @ down`` (Hu et al. 2021, arXiv 2106.09685, section 4.1); peft computes it.
"""

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from meddap_monai.diffusion.adapters.targets import sizes


@dataclass(frozen=True)
class LowRank:
    """The low-rank change of one module.

    Attributes:
        down: ``(rank, inputs)``, for a convolution ``(rank, inputs, *kernel)``.
        up: ``(outputs, rank)`` or ``(outputs, rank, 1, 1)``.
        alpha: the change is scaled by ``alpha / rank``.
        trained: number of trained values where it is not that of `down` and `up` (LoHa, LoKr, DoRA).
    """

    down: torch.Tensor
    up: torch.Tensor
    alpha: float
    trained: int | None = None

    @property
    def rank(self) -> int:
        """Inner width."""
        return self.down.shape[0]

    @property
    def parameters(self) -> int:
        """Number of trained values."""
        return self.trained if self.trained is not None else self.down.numel() + self.up.numel()

    def change(self) -> torch.Tensor:
        """Return ``alpha / rank * up @ down`` as a float32 matrix ``(outputs, inputs * kernel places)``."""
        return self.alpha / self.rank * (self.up.flatten(1).float() @ self.down.flatten(1).float())


def key(name: str) -> str:
    """Return the name of an adapter's layers: letters that a module name may have, and none of torch's own words."""
    return "".join(letter if letter.isalnum() else "_" for letter in name) + "_layers"


def shapes(module: Any, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shapes of (down, up) that `module` takes at `rank`."""
    if isinstance(module, nn.Conv2d):
        return (rank, module.in_channels, *module.kernel_size), (module.out_channels, rank, 1, 1)
    inputs, outputs = sizes(module)
    return (rank, inputs), (outputs, rank)


def inject(component: Any, changes: Mapping[str, LowRank], name: str) -> None:
    """Put the low-rank layers of one adapter into a model part, frozen and active beside those already there.

    Args:
        component: UNet or text encoder.
        changes: module name -> change; shapes were checked.
        name: of the adapter, not yet used in `component`.
    """
    from peft import LoraConfig

    name = key(name)
    config = LoraConfig(
        r=1,
        lora_alpha=1,
        rank_pattern={module: change.rank for module, change in changes.items()},
        alpha_pattern={module: change.alpha for module, change in changes.items()},
        target_modules=list(changes),
        init_lora_weights=False,
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # several adapters are meant
        component.add_adapter(config, adapter_name=name)
    dtype = next(component.parameters()).dtype
    for module, change in changes.items():
        layer = component.get_submodule(module)
        layer.lora_A[name].weight.data = change.down.to(layer.lora_A[name].weight.device, dtype, copy=True).contiguous()
        layer.lora_B[name].weight.data = change.up.to(layer.lora_B[name].weight.device, dtype, copy=True).contiguous()
    activate_all(component)


def layers(component: Any) -> dict[str, Any]:
    """Return module name -> peft layer of every wrapped module."""
    return {name: module for name, module in component.named_modules() if hasattr(module, "lora_A")}


def activate_all(component: Any) -> None:
    """Make every adapter of every layer active and frozen, and leave the part in evaluation mode."""
    for layer in layers(component).values():
        layer.enable_adapters(True)
        layer.set_adapter(list(layer.lora_A.keys()))
        layer.requires_grad_(False)
    component.eval()


def set_weight(component: Any, name: str, weight: float) -> None:
    """Scale one adapter; 0 switches it off."""
    for layer in layers(component).values():
        if key(name) in layer.lora_A:
            layer.set_scale(key(name), weight)


def enable(component: Any, on: bool) -> None:
    """Switch all adapters of a part on or off without touching their weights."""
    for layer in layers(component).values():
        layer.enable_adapters(on)
        layer.requires_grad_(False)


@contextlib.contextmanager
def switched_off(component: Any) -> Iterator[None]:
    """Run a part as its base is, also one under training: what learns keeps its gradients."""
    learning = [parameter for parameter in component.parameters() if parameter.requires_grad]
    enable(component, False)
    try:
        yield
    finally:
        enable(component, True)
        for parameter in learning:
            parameter.requires_grad_(True)


def remove(component: Any, name: str) -> None:
    """Take one adapter out; a module without any adapter is the base's own module object again."""
    name = key(name)
    for module, layer in layers(component).items():
        if name in layer.lora_A:
            layer.delete_adapter(name)
        if not layer.lora_A:
            _put(component, module, layer.base_layer)
        else:
            layer.requires_grad_(False)
    settings = getattr(component, "peft_config", {})
    settings.pop(name, None)
    if not settings:
        component._hf_peft_config_loaded = False
        vars(component).pop("peft_config", None)


def fused_layers(component: Any) -> Iterator[tuple[str, Any, torch.Tensor]]:
    """Yield (module name, base module, summed change in float32, shaped as its weight) of every wrapped module."""
    for module, layer in layers(component).items():
        total = sum(
            layer.scaling[name]
            * (layer.lora_B[name].weight.flatten(1).float() @ layer.lora_A[name].weight.flatten(1).float())
            for name in layer.lora_A
        )
        yield module, layer.base_layer, torch.as_tensor(total).reshape(layer.base_layer.weight.shape)


def unwrap(component: Any) -> dict[str, Any]:
    """Replace every peft layer by its base module and return the layers, for `rewrap`."""
    taken = layers(component)
    for module, layer in taken.items():
        _put(component, module, layer.base_layer)
    return taken


def rewrap(component: Any, taken: Mapping[str, Any]) -> None:
    """Put the layers that `unwrap` took back."""
    for module, layer in taken.items():
        _put(component, module, layer)


def _put(component: Any, name: str, module: Any) -> None:
    parent, _, child = name.rpartition(".")
    setattr(component.get_submodule(parent), child, module)
