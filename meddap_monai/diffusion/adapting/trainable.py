"""What a method trains: named parameters, their learning rates, and how they become an adapter."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from meddap_monai.diffusion.adapters import injection
from meddap_monai.diffusion.adapters.formats import AdapterWeights
from meddap_monai.diffusion.adapters.injection import LowRank
from meddap_monai.diffusion.adapters.targets import target_modules
from meddap_monai.diffusion.adapting.batches import initial_down

NAME = "train"
"""Name of the adapter under training inside the pipeline."""

Result = AdapterWeights | dict[str, torch.Tensor]


@dataclass
class Trainable:
    """The trained part of a pipeline.

    Attributes:
        parameters: name -> parameter; nothing else carries gradients.
        rates: name -> learning rate.
        trains_text: the text encoder changes during training, so prompts are encoded at every step.
        result: turns name -> tensor into what is saved.
        full: the result is a whole base and not an adapter.
    """

    parameters: dict[str, nn.Parameter]
    rates: dict[str, float]
    trains_text: bool
    result: Callable[[Mapping[str, torch.Tensor]], Result]
    full: bool = False

    def groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Return the optimizer's parameter groups, one per learning rate."""
        rates = sorted(set(self.rates.values()))
        return [
            {
                "params": [parameter for name, parameter in self.parameters.items() if self.rates[name] == rate],
                "lr": rate,
                "factor": rate,
                "weight_decay": weight_decay,
            }
            for rate in rates
        ]

    def copy(self) -> dict[str, torch.Tensor]:
        """Return detached copies of all parameters."""
        return {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    @torch.no_grad()
    def assign(self, values: Mapping[str, torch.Tensor]) -> None:
        """Write values into the parameters."""
        for name, parameter in self.parameters.items():
            parameter.copy_(values[name])


def train_low_rank(
    parts: Mapping[str, nn.Module],
    sets: Mapping[str, str],
    rank: int,
    alpha: float,
    rates: Mapping[str, float],
    seed: int,
    kaiming: bool = False,
) -> Trainable:
    """Put trainable low-rank layers into model parts; ``up`` starts at zero, so training starts at the base.

    Args:
        parts: name -> model part of the pipeline.
        sets: name of a part -> target set of ``targets``.
        rank: inner width.
        alpha: scale numerator.
        rates: name of a part -> learning rate.
        seed: of the initial values.
        kaiming: kaiming-uniform start as kohya-ss instead of N(0, 1/rank).
    """
    parameters: dict[str, nn.Parameter] = {}
    speed: dict[str, float] = {}
    for part, kind in sets.items():
        modules = target_modules(parts[part], kind)
        start = {}
        for name, module in modules.items():
            down, up = injection.shapes(module, rank)
            start[name] = LowRank(initial_down(f"{part}.{name}", down, seed, kaiming), torch.zeros(up), alpha)
        injection.inject(parts[part], start, NAME)
        for name, change in start.items():
            layer: Any = parts[part].get_submodule(name)
            for role, holder, value in (("down", layer.lora_A, change.down), ("up", layer.lora_B, change.up)):
                device = holder[injection.key(NAME)].weight.device
                holder[injection.key(NAME)].weight = nn.Parameter(value.to(device=device, dtype=torch.float32))
                parameters[f"{part}/{name}/{role}"] = holder[injection.key(NAME)].weight
                speed[f"{part}/{name}/{role}"] = rates[part]

    def result(values: Mapping[str, torch.Tensor]) -> AdapterWeights:
        changes: dict[str, dict[str, LowRank]] = {part: {} for part in sets}
        for key in values:
            part, name, role = key.split("/")
            if role == "down":
                pair = (values[key].detach().cpu(), values[f"{part}/{name}/up"].detach().cpu())
                changes[part][name] = LowRank(*pair, alpha)
        return AdapterWeights(changes)

    return Trainable(parameters, speed, any(part != "unet" for part in sets), result)
