"""A GPU that is not there: tensors whose values lie on the CPU, and which behave as if they lay on ``cuda:0``.

What breaks only on a GPU breaks here too: an operation on tensors of both devices, ``numpy()`` of one on the GPU, a
result that is left where it must not be. What only the hardware does (rounding, memory, kernels) is not imitated.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

GPU = torch.device("cuda:0")
_INDEXING = ("aten::index.", "aten::index_put", "aten::_index_put", "aten::copy_", "aten::_unsafe_index")
"""What takes an index, or a source, from the CPU."""


class OnGpu(torch.Tensor):
    """A tensor that says it lies on the GPU; `held` holds its values."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> OnGpu:
        """Wrap a tensor of the CPU."""
        made = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device="cpu",
        )  # fmt: skip
        made.held = inner
        return made

    def __repr__(self, **_: Any) -> str:
        return f"OnGpu({self.held!r})"

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """The GPU, for whoever asks in Python."""
        return GPU

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        """True."""
        return True

    @property
    def is_cpu(self) -> bool:  # type: ignore[override]
        """False."""
        return False

    def get_device(self) -> int:
        """0."""
        return 0

    def numpy(self, *_: Any, **__: Any) -> Any:
        """Refuse as CUDA does."""
        raise TypeError("can't convert cuda:0 device type tensor to numpy; use Tensor.cpu() first")

    __array__ = numpy

    def tolist(self) -> Any:
        """Return the values."""
        return self.held.tolist()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return (OnGpu, (self.held.detach().clone(),))

    def __deepcopy__(self, memo: Any) -> Any:
        copied = OnGpu(self.held.detach().clone())
        made = torch.nn.Parameter(copied, self.requires_grad) if isinstance(self, torch.nn.Parameter) else copied
        memo[id(self)] = made
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation on the values, and say that its results lie on the GPU."""
        kwargs = dict(kwargs or {})
        tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, torch.Tensor)]
        _refuse_mixed(func, tensors)
        known = {id(value.held): value for value in tensors if isinstance(value, OnGpu)}
        if kwargs.get("device") is not None:
            kwargs["device"] = torch.device("cpu")
        found = func(*tree_map(_inner, args), **tree_map(_inner, kwargs))
        return tree_map(lambda value: known.get(id(value)) if id(value) in known else _wrapped(value), found)


def _inner(value: Any) -> Any:
    return value.held if isinstance(value, OnGpu) else value


def _wrapped(value: Any) -> Any:
    return OnGpu(value) if isinstance(value, torch.Tensor) and not isinstance(value, OnGpu) else value


def _refuse_mixed(func: Any, tensors: list[torch.Tensor]) -> None:
    name = func._schema.name + "." + func._schema.overload_name
    strangers = [value for value in tensors if not isinstance(value, OnGpu) and value.dim() > 0]
    allowed = name.startswith(_INDEXING) and (isinstance(tensors[0], OnGpu) or name.startswith("aten::copy_"))
    if strangers and not allowed:
        raise RuntimeError(f"Expected all tensors to be on the same device, but found cuda:0 and cpu ({name})")


class _Placing(TorchFunctionMode):
    """Reads every wish for a device: makes and moves tensors on the CPU and says where they are to lie."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name in ("to", "cpu", "cuda", "type_as") and args and isinstance(args[0], torch.Tensor):
            return _moved(name, args, kwargs)
        if name in ("__getitem__", "__setitem__") and isinstance(args[0], OnGpu):
            args = (args[0], tree_map(_wrapped, args[1]), *args[2:])  # an index may lie on the CPU
        wish = kwargs.get("device")
        if wish is None or torch.device(wish).type != "cuda":
            return func(*args, **kwargs)
        kwargs["device"] = torch.device("cpu")
        kwargs.pop("pin_memory", None)
        return tree_map(_wrapped, func(*tree_map(_inner, args), **tree_map(_inner, kwargs)))


def _moved(name: str, args: Any, kwargs: Any) -> Any:
    """Do ``to``, ``cpu`` or ``cuda``; with gradients where the tensor carries any."""
    tensor, rest = args[0], list(args[1:])
    places = [value for value in rest if isinstance(value, (torch.device, str))] + [kwargs.get("device")]
    other = next((value for value in rest if isinstance(value, torch.Tensor)), kwargs.get("other"))
    wish: Any = {"cpu": "cpu", "cuda": "cuda"}.get(name) or next((value for value in places if value is not None), None)
    if other is not None:
        wish = other.device
    wish = tensor.device if wish is None else torch.device(wish)
    rest = [other.dtype if isinstance(value, torch.Tensor) else value for value in rest]
    rest = [value for value in rest if isinstance(value, torch.dtype)]
    kwargs = {key: kwargs[key] for key in ("dtype", "memory_format") if kwargs.get(key) is not None}
    if name == "type_as":
        rest = [other.dtype]
    change = [word for word in (*rest, kwargs.get("dtype")) if word not in (None, tensor.dtype)]
    if wish == tensor.device and not change and "memory_format" not in kwargs:
        return tensor
    kept = _Shift.apply(tensor, wish.type == "cuda")
    return torch.Tensor.to(kept, *rest, **kwargs) if rest or kwargs else kept


class _Shift(torch.autograd.Function):
    """From one device to the other; gradients come back the other way."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, there: bool) -> torch.Tensor:
        ctx.back = isinstance(tensor, OnGpu)
        if there == ctx.back:
            return tensor.view_as(tensor)
        return OnGpu(tensor.detach().clone()) if there else tensor.held.detach().clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        gradient = gradients[0]
        if ctx.back and not isinstance(gradient, OnGpu):
            return OnGpu(gradient), None
        return (gradient.held if not ctx.back and isinstance(gradient, OnGpu) else gradient), None


@contextlib.contextmanager
def stand_in_gpu() -> Iterator[None]:
    """Have one GPU for as long as the context is open."""
    autocast = torch.autocast

    def on_cpu(device_type: str, *words: Any, **keys: Any) -> Any:
        return autocast("cpu" if device_type == "cuda" else device_type, *words, **keys)

    answers: dict[str, Callable[..., Any]] = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "is_bf16_supported": lambda *_: True,
        "get_device_name": lambda *_: "stand-in",
        "synchronize": lambda *_: None,
        "empty_cache": lambda: None,
        "set_device": lambda *_: None,
        "max_memory_allocated": lambda *_: 0,
        "memory_allocated": lambda *_: 0,
        "reset_peak_memory_stats": lambda *_: None,
        "device": lambda *_: contextlib.nullcontext(),
    }
    with contextlib.ExitStack() as open_:
        for name, answer in answers.items():
            open_.enter_context(patch.object(torch.cuda, name, answer))
        open_.enter_context(patch.object(torch, "autocast", on_cpu))
        # a wrapper cannot be made in inference mode, so that means "no gradients" here
        open_.enter_context(patch.object(torch.inference_mode, "__enter__", torch.no_grad.__enter__))
        open_.enter_context(patch.object(torch.inference_mode, "__exit__", torch.no_grad.__exit__))
        open_.enter_context(_Placing())
        open_.callback(torch.__future__.set_overwrite_module_params_on_conversion, False)
        torch.__future__.set_overwrite_module_params_on_conversion(True)  # `data` cannot change its kind
        yield
