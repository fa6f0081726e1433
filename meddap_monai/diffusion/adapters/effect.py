"""Prove that an adapter changes what its model computes: run a fixed small input with and without it."""

from collections.abc import Mapping
from typing import Any

import torch

from meddap_monai.diffusion.adapters import injection
from meddap_monai.errors import BadAdapter

_SIDE = 16


def check_effect(parts: Mapping[str, Any], name: str, where: str) -> float:
    """Return the largest absolute change of any part's output caused by all its adapters' layers.

    Args:
        parts: model parts that carry the adapter.
        name: the adapter's name; others are weighed 0 meanwhile.
        where: for messages.

    Raises:
        BadAdapter: some part's output does not change, or it is not finite.
    """
    return max(_change(part, component, name, where) for part, component in parts.items())


@torch.no_grad()
def _change(part: str, component: Any, name: str, where: str) -> float:
    others = {id(layer): dict(layer.scaling) for layer in injection.layers(component).values()}
    try:
        for layer in injection.layers(component).values():
            layer.scaling.update(dict.fromkeys((other for other in layer.scaling if other != injection.key(name)), 0.0))
        with_adapter = run_once(component)
        injection.enable(component, False)
        without = run_once(component)
    finally:
        injection.enable(component, True)
        for layer in injection.layers(component).values():
            layer.scaling.update(others[id(layer)])
    change = float((with_adapter.float() - without.float()).abs().max())
    if not change > 0 or change == float("inf"):
        raise BadAdapter(
            f"{where}: the output of the {part} changes by {change} with it, expected a finite number above 0; "
            "the adapter has no usable effect on this base, train it again"
        )
    return change


def run_once(component: Any) -> torch.Tensor:
    """Return a model part's output on a fixed small input.

    Args:
        component: a ``UNet2DConditionModel`` or CLIP text encoder.
    """
    parameter = next(component.parameters())
    where: dict[str, Any] = {"device": parameter.device, "dtype": parameter.dtype}
    config = component.config
    if not hasattr(config, "cross_attention_dim"):
        ids = torch.arange(min(8, config.vocab_size), device=parameter.device)[None]
        return component(ids)[0]
    draw = torch.Generator().manual_seed(0)
    sample = torch.randn(1, config.in_channels, _SIDE, _SIDE, generator=draw).to(**where)
    width = config.cross_attention_dim
    text = torch.randn(1, 8, width if isinstance(width, int) else width[-1], generator=draw).to(**where)
    extra = None
    if config.addition_embed_type == "text_time":
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        extra = {"text_embeds": torch.zeros(1, pooled, **where), "time_ids": torch.ones(1, 6, **where)}
    return component(sample, 500, encoder_hidden_states=text, added_cond_kwargs=extra, return_dict=False)[0]
