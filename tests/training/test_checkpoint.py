"""Checkpoints: whole or not at all, exact, finite, and only of the training that reads them."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from meddap_monai.errors import NonFiniteLoss, StageError
from meddap_monai.training.checkpoint import load_checkpoint, save_checkpoint


def parts(seed: int) -> dict:
    torch.manual_seed(seed)
    network = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return {"network": network, "optimizer": optimizer}


def test_what_was_saved_comes_back_exactly(tmp_path: Path) -> None:
    left, right = parts(0), parts(1)
    save_checkpoint(tmp_path / "checkpoint.pt", 7, left)
    assert load_checkpoint(tmp_path / "checkpoint.pt", right) == 7
    assert torch.equal(left["network"].weight, right["network"].weight)
    states = [found["optimizer"].state_dict()["state"][0]["exp_avg"] for found in (left, right)]
    assert torch.equal(*states)


def test_without_a_file_nothing_changes(tmp_path: Path) -> None:
    fresh = parts(0)
    before = fresh["network"].weight.clone()
    assert load_checkpoint(tmp_path / "checkpoint.pt", fresh) == 0
    assert torch.equal(fresh["network"].weight, before)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_leave_the_old_file(tmp_path: Path, value: float) -> None:
    found = parts(0)
    save_checkpoint(tmp_path / "checkpoint.pt", 1, found)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    with torch.no_grad():
        found["network"].weight[0, 0] = value
    with pytest.raises(NonFiniteLoss, match="checkpoint.pt: network no longer finite at step 2; the last checkpoint"):
        save_checkpoint(tmp_path / "checkpoint.pt", 2, found)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def damaged(path: Path) -> None:
    save_checkpoint(path, 1, parts(0))
    path.write_bytes(path.read_bytes()[:200])


def of_another_training(path: Path) -> None:
    save_checkpoint(path, 1, {"network": nn.Linear(5, 5), "optimizer": parts(0)["optimizer"]})


def of_an_earlier_classifier(path: Path) -> None:
    torch.save({"progress": {"step": 3}, "network": parts(0)["network"].state_dict()}, path)


def of_an_earlier_adapter(path: Path) -> None:
    save_file({"parameters:a": torch.zeros(1)}, path.with_suffix(".safetensors"))


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (damaged, r"checkpoint.pt: not a checkpoint of this training \(\w+\); delete it"),
        (of_another_training, r"checkpoint.pt: not a checkpoint of this training \(RuntimeError\); delete it"),
        (of_an_earlier_classifier, r"checkpoint.pt: .* \(an earlier version's\); delete it to train from the start"),
        (of_an_earlier_adapter, r"checkpoint.safetensors: .* \(an earlier version's\); delete it"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, write, said: str) -> None:
    write(tmp_path / "checkpoint.pt")
    with pytest.raises(StageError, match=said):
        load_checkpoint(tmp_path / "checkpoint.pt", parts(1))
