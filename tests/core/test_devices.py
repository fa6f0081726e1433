"""Processes of a bundle under torchrun."""

import pytest
import torch

from meddap_monai.core.devices import is_out_of_memory, take_gpu


def test_a_process_makes_its_own_gpu_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    for device in ("cpu", torch.device("cuda:1"), "cuda:2"):
        take_gpu(device)
    assert taken == [torch.device("cuda:1"), torch.device("cuda:2")]


@pytest.mark.parametrize(
    ("error", "ran_out"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("Expected all tensors to be on the same device"), False),
    ],
)
def test_memory_that_ran_out_is_told_from_other_errors(error: BaseException, ran_out: bool) -> None:
    assert is_out_of_memory(error) is ran_out
