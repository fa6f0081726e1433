"""Processes of a bundle under torchrun."""

import pytest
import torch

from meddap_monai.core.devices import take_gpu


def test_a_process_makes_its_own_gpu_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    for device in ("cpu", torch.device("cuda:1"), "cuda:2"):
        take_gpu(device)
    assert taken == [torch.device("cuda:1"), torch.device("cuda:2")]
