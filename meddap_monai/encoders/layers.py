"""The layers of an encoder from its input to its output, for learning rates that differ by depth."""

from torch import nn

WHOLE = 0.8
"""A part with more than this share of all parameters is taken apart."""


def layers(network: nn.Module) -> list[list[nn.Parameter]]:
    """Return a network's parameters by layer, from its input on; the last layer is its last linear one.

    A layer is a block of a ResNet, an EfficientNet or a transformer: sequences, lists and whatever holds nearly all
    parameters is taken apart, and nothing else. Parameters that lie beside the layers (such as a class token) belong to
    the first.
    """
    linears = [module for module in network.modules() if isinstance(module, nn.Linear)]
    head = list(linears[-1].parameters()) if linears else []
    placed = {id(parameter) for parameter in head}
    found = []
    for module in blocks(network):
        found.append([parameter for parameter in module.parameters() if id(parameter) not in placed])
        placed |= {id(parameter) for parameter in found[-1]}
    found = [layer for layer in found if layer] or [[]]
    found[0] = [*(one for one in network.parameters() if id(one) not in placed), *found[0]]
    return [layer for layer in (*found, head) if layer]


def blocks(network: nn.Module) -> list[nn.Module]:
    """Return the modules behind `layers`, from the input on; the last linear layer is one of them, or in one."""
    return _unfold(network, WHOLE * _count(network))


def _unfold(module: nn.Module, whole: float) -> list[nn.Module]:
    parts = [part for part in module.children() if _count(part)]
    opens = type(module) in (nn.Sequential, nn.ModuleList) or len(parts) == 1 or _count(module) > whole
    return [layer for part in parts for layer in _unfold(part, whole)] if parts and opens else [module]


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
