"""Where work runs: the one choice of a device, and the one reading of an error that says memory ran out."""

import os

import torch

from meddap_monai.errors import ConfigurationError

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Values of the settings `precision`."""
_MEMORY_WORDS = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "alloc_failed",  # of cuBLAS and cuDNN
)


def own_gpu() -> str:
    """Return the device name of this process's GPU; processes share them where there are too few."""
    return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"


def choose_device(name: str, key: str) -> torch.device:
    """Return the device that a name means.

    Args:
        name: "auto" (this process's GPU where there is one, else the CPU), "cuda" (this process's GPU), or a name of
            torch's such as "cpu" or "cuda:1".
        key: full id of the setting, for the message.

    Raises:
        ConfigurationError: a GPU is asked for and there is none, or torch knows no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigurationError(f"{key}: {name!r}, but there is no GPU here; use 'auto' or 'cpu'")
    try:
        return torch.device(own_gpu() if name == "cuda" else name)
    except RuntimeError as error:
        raise ConfigurationError(
            f"{key}: {name!r} is no device; use 'auto', 'cpu', 'cuda' or 'cuda:<number>'"
        ) from error


def take_gpu(device: torch.device | str) -> None:
    """Make a process's GPU the current one, on which NCCL and Ignite's metrics meet the other processes.

    Args:
        device: of this process; on a CPU nothing is done.
    """
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.set_device(device)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that memory ran out, on a GPU or on the CPU."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return any(words in str(error).lower() for words in _MEMORY_WORDS)
