"""From the tensors of one module to its weight change: LoRA, Tucker LoCon, LoHa, LoKr and DoRA.

Sources: LoRA (arXiv 2106.09685), LoHa, LoKr and the Tucker form (LyCORIS, arXiv 2309.14859, section 3), DoRA (arXiv
2402.09353, equation 5). What is no product of two matrices becomes its dense matrix times the identity.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from meddap_monai.diffusion.adapters.injection import LowRank, shapes
from meddap_monai.diffusion.adapters.scale import AdapterScale, stated_alpha
from meddap_monai.diffusion.adapters.targets import sizes
from meddap_monai.errors import BadAdapter

ROLES = {
    "down": ("lora_A.weight", "lora.down.weight", "lora_linear_layer.down.weight", "lora_down.weight"),
    "up": ("lora_B.weight", "lora.up.weight", "lora_linear_layer.up.weight", "lora_up.weight"),
    "mid": ("lora_mid.weight",),
    "alpha": ("alpha",),
    "magnitude": ("lora_magnitude_vector", "lora_magnitude_vector.weight"),
    "dora_scale": ("dora_scale",),
} | {role: (role,) for role in (
    "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2",
    "lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t1", "lokr_t2",
)}  # fmt: skip
"""What a tensor is -> the endings of its key in the known layouts."""
_STARTS = {"LOHA": "hada_", "LOKR": "lokr_"}
_OF_ALL = {"alpha", "magnitude", "dora_scale"}
_NOT_TOGETHER = (
    {"magnitude", "dora_scale"},
    *({"lokr_w1", other} for other in ("lokr_w1_a", "lokr_w1_b", "lokr_t1")),
    *({"lokr_w2", other} for other in ("lokr_w2_a", "lokr_w2_b", "lokr_t2")),
)


def assemble(
    tensors: Mapping[str, torch.Tensor],
    module: Any,
    adapter_scale: AdapterScale | None,
    names: Sequence[str],
    where: str,
) -> LowRank:
    """Return the weight change of one module.

    Args:
        tensors: role of `ROLES` -> tensor.
        module: Linear or convolution of the base; a meta tensor will do, except for DoRA.
        adapter_scale: by a configuration, about the scale.
        names: the spellings of the module's name.
        where: file and module for messages.

    Raises:
        BadAdapter: tensors that are missing, do not fit, or contradict what is said.
    """
    decomposed = {"magnitude", "dora_scale"} & set(tensors)
    _check_one_kind(set(tensors), where)
    kind = next((kind for kind, start in _STARTS.items() if any(role.startswith(start) for role in tensors)), "LORA")
    if adapter_scale and (adapter_scale.kind, adapter_scale.dora) != (kind, bool(decomposed)):
        raise BadAdapter(
            f"{where}: the configuration says {adapter_scale.kind} and use_dora {adapter_scale.dora}, "
            f"its tensors are {kind} with {len(decomposed)} magnitude; get the whole folder again"
        )
    if kind == "LORA":
        pair = _low_rank(tensors, module, adapter_scale, names, where)
        if not decomposed:
            return pair
        matrix = pair.change()
    else:
        matrix = (_hadamard if kind == "LOHA" else _kronecker)(tensors, module, adapter_scale, names, where)
    if decomposed:
        matrix = _decompose(matrix, tensors, module, where)
    return _dense(matrix, module, sum(tensor.numel() for role, tensor in tensors.items() if role != "alpha"))


def _check_one_kind(roles: set[str], where: str) -> None:
    """Raise when a tensor would not be used."""
    kinds = {role.split("_")[0] if role.startswith(tuple(_STARTS.values())) else "lora" for role in roles - _OF_ALL}
    extra = next((sorted(pair) for pair in _NOT_TOGETHER if pair <= roles), sorted(kinds) if len(kinds) > 1 else None)
    if extra:
        raise BadAdapter(f"{where}: has {' and '.join(extra)} together, expected one kind; get the file again")


def _low_rank(
    tensors: Mapping[str, torch.Tensor],
    module: Any,
    adapter_scale: AdapterScale | None,
    names: Sequence[str],
    where: str,
) -> LowRank:
    down, up = (_need(tensors, role, "a (down, up) pair", where) for role in ("down", "up"))
    rank = down.shape[0] if down.ndim else 0
    if "mid" in tensors and down.ndim in (2, 4):  # Tucker: ranks first, then the kernel
        mid, flat = tensors["mid"], down.flatten(1)
        if mid.ndim != 4 or mid.shape[1] != rank or down.numel() != flat.shape[0] * flat.shape[1]:
            raise _shape_error(where, tensors)
        rank, down = mid.shape[0], torch.einsum("ijkl,jp->ipkl", mid, flat)
    wanted = shapes(module, rank)
    if rank == 0 or not (_same(down, wanted[0]) and _same(up, wanted[1])):
        raise BadAdapter(
            f"{where}: down {tuple(down.shape)} and up {tuple(up.shape)} do not fit, expected {wanted[0]} and "
            f"{wanted[1]} at rank {rank}; the adapter is of another base"
        )
    alpha, _ = stated_alpha(adapter_scale, tensors.get("alpha"), names, rank, where)
    return LowRank(down.reshape(wanted[0]), up.reshape(wanted[1]), alpha)


def _same(tensor: torch.Tensor, wanted: tuple[int, ...]) -> bool:
    """Shapes agree up to the trailing 1x1 of a convolution, which the layouts write or drop."""
    got = tuple(tensor.shape)
    return got == wanted or (got[:2] == wanted[:2] and set(got[2:]) | set(wanted[2:]) <= {1})


def _hadamard(
    tensors: Mapping[str, torch.Tensor],
    module: Any,
    adapter_scale: AdapterScale | None,
    names: Sequence[str],
    where: str,
) -> torch.Tensor:
    """LoHa: the element-wise product of two low-rank matrices."""
    factors = [_product(tensors, f"hada_w{number}", f"hada_t{number}", module, where) for number in (1, 2)]
    if factors[0].shape != factors[1].shape:
        raise _shape_error(where, tensors)
    rank = tensors["hada_w1_b"].shape[0]
    alpha, of = stated_alpha(adapter_scale, tensors.get("alpha"), names, rank, where)
    return _as_matrix(alpha / of * factors[0] * factors[1], tensors, module, where)


def _kronecker(
    tensors: Mapping[str, torch.Tensor],
    module: Any,
    adapter_scale: AdapterScale | None,
    names: Sequence[str],
    where: str,
) -> torch.Tensor:
    """LoKr: the Kronecker product of a small and a large matrix, each whole or of low rank."""
    left = tensors["lokr_w1"] if "lokr_w1" in tensors else _product(tensors, "lokr_w1", "lokr_t1", module, where)
    right = tensors["lokr_w2"] if "lokr_w2" in tensors else _product(tensors, "lokr_w2", "lokr_t2", module, where)
    if left.ndim != 2 or right.ndim not in (2, 4) or left.numel() * right.numel() != _values(module):
        raise _shape_error(where, tensors)
    inner = next((tensors[role] for role in ("lokr_w1_b", "lokr_w2_b") if role in tensors), None)
    rank = inner.shape[0] if inner is not None else None
    alpha, of = stated_alpha(adapter_scale, tensors.get("alpha"), names, rank, where)
    blocks = torch.einsum("ab,cd...->acbd...", left, right).reshape(left.shape[0] * right.shape[0], -1)
    return _as_matrix(alpha / of * blocks, tensors, module, where)


def _product(tensors: Mapping[str, torch.Tensor], stem: str, core: str, module: Any, where: str) -> torch.Tensor:
    """Return ``a @ b`` or the Tucker form ``core x a x b``, (outputs, inputs, ...); bounded before it is made."""
    first, second = (_need(tensors, f"{stem}_{side}", f"{stem}_a and {stem}_b", where) for side in "ab")
    middle = tensors.get(core)
    if first.ndim != 2 or second.ndim != 2:
        raise _shape_error(where, tensors)
    if middle is None:
        if first.shape[1] != second.shape[0] or first.shape[0] * second.shape[1] > _values(module):
            raise _shape_error(where, tensors)
        return first @ second
    rank = (first.shape[0], second.shape[0])
    if (
        middle.ndim != 4
        or middle.shape[:2] != rank
        or (first.shape[1] * second.shape[1] * middle[0, 0].numel() > _values(module))
    ):
        raise _shape_error(where, tensors)
    return torch.einsum("ijkl,ip,jr->prkl", middle, first, second)


def _as_matrix(change: torch.Tensor, tensors: Mapping[str, torch.Tensor], module: Any, where: str) -> torch.Tensor:
    if change.shape[0] != sizes(module)[1] or change.numel() != _values(module):
        raise _shape_error(where, tensors)
    return change.reshape(change.shape[0], -1)


def _decompose(change: torch.Tensor, tensors: Mapping[str, torch.Tensor], module: Any, where: str) -> torch.Tensor:
    """DoRA: return ``m (W + change) / norm(W + change) - W``; the norm is that of each output, or of each input."""
    if module.weight.is_meta:
        raise BadAdapter(f"{where}: a DoRA is no change without the weights of its base; name the base with --base")
    weight = module.weight.detach().float().cpu()
    whole = weight + change.reshape(weight.shape)
    magnitude = tensors["magnitude"] if "magnitude" in tensors else tensors["dora_scale"]
    outputs, inputs = weight.shape[:2]
    per_output = "magnitude" in tensors or magnitude.shape[:1] == (outputs,)
    if magnitude.numel() != (outputs if per_output else inputs):
        raise _shape_error(where, tensors)
    axes = tuple(axis for axis in range(weight.ndim) if axis != (0 if per_output else 1))
    norm = torch.linalg.vector_norm(whole, dim=axes, keepdim=True)
    if not (norm > 0).all():
        raise BadAdapter(f"{where}: the weight has a norm of 0, so its DoRA says nothing; get the file again")
    return (magnitude.reshape(norm.shape) / norm * whole - weight).flatten(1)


def _dense(matrix: torch.Tensor, module: Any, trained: int) -> LowRank:
    """Return a change of full rank: the matrix times the identity."""
    outputs, inputs = matrix.shape
    rank = min(outputs, inputs)
    pair = (matrix, torch.eye(outputs)) if outputs <= inputs else (torch.eye(inputs), matrix)
    down, up = (tensor.reshape(shape).contiguous() for tensor, shape in zip(pair, shapes(module, rank), strict=True))
    return LowRank(down, up, float(rank), trained)


def _need(tensors: Mapping[str, torch.Tensor], role: str, what: str, where: str) -> torch.Tensor:
    if role not in tensors:
        raise BadAdapter(f"{where}: the {role} tensor is missing, expected {what}; get the whole file")
    return tensors[role]


def _values(module: Any) -> int:
    inputs, outputs = sizes(module)
    return inputs * outputs


def _shape_error(where: str, tensors: Mapping[str, torch.Tensor]) -> BadAdapter:
    found = ", ".join(f"{role} {tuple(tensor.shape)}" for role, tensor in sorted(tensors.items()))
    return BadAdapter(f"{where}: {found} do not fit the module; the adapter is of another base")
