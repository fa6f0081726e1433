"""Several processes pre-train one base: the weights of one process, exact resume, and no waiting for a dead one."""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from meddap_monai import store
from meddap_monai.diffusion.denoiser import DenoiserTraining
from meddap_monai.diffusion.pretrain import PretrainConfig, pretrain
from tests.diffusion.test_pretrain import SMALL, weights
from tests.reliability.forked import finish, start


@pytest.fixture(scope="module")
def records(make_records: Callable[..., Path]) -> Path:
    return make_records({"train": 3, "val": 1}, size=32)


@pytest.fixture(scope="module")
def alone(records: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stage folder that one process made."""
    return pretrain(SMALL, tmp_path_factory.mktemp("alone") / "out", records=records).parent


@pytest.fixture(scope="module")
def both(alone: Path, records: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stage folder that two processes made; what each of them trained on stands in ``count0`` and ``count1``."""
    folder = tmp_path_factory.mktemp("both")
    whole = DenoiserTraining._loss

    def counted(self, chosen, *others):
        with (folder / f"count{os.environ['RANK']}").open("a") as stream:
            stream.write(f"{len(chosen)}\n")
        return whole(self, chosen, *others)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(DenoiserTraining, "_loss", counted)
        assert together(SMALL, folder / "out", records) == [0, 0], logs(folder)
    return folder / "out"


def together(config: PretrainConfig, output: Path, records: Path) -> list[int]:
    """Pre-train in two processes and return their exit codes; what they raise stands in ``log0`` and ``log1``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "GLOO_SOCKET_IFNAME": "lo"}
    work = [lambda: pretrain(config, output, records=records)] * 2
    pair = [start(work[rank], output.parent / f"log{rank}", RANK=str(rank), **common) for rank in range(2)]
    return [finish(process) for process in pair]


def logs(folder: Path) -> list[str]:
    return [path.read_text() if (path := folder / f"log{rank}").exists() else "" for rank in range(2)]


def test_two_processes_train_the_unet_of_one(alone: Path, both: Path) -> None:
    """All but one tensor: softmax ignores a bias of the keys, so its gradient is rounding, whose sign Adam follows."""
    one, two = (torch.load(folder / "phases" / "unet.pt", weights_only=True) for folder in (alone, both))
    for part in ("unet", "average"):
        for name, tensor in one[part].items():
            if not name.endswith("k_proj.bias"):
                assert torch.allclose(tensor, two[part][name], atol=5e-5), f"{part}.{name}"
    hashes = [weights(folder / "base") for folder in (alone, both)]
    assert {name for name in hashes[0] if hashes[0][name] != hashes[1][name]} <= {"unet"}
    assert store.read_stage(both)["state"] == "done"


def test_each_process_takes_half_of_every_batch(both: Path) -> None:
    counts = [(both.parent / f"count{rank}").read_text().split() for rank in range(2)]
    assert counts == [[str(SMALL.unet.batch // 2)] * SMALL.unet.steps] * 2


def test_a_signal_to_one_process_stops_both_and_the_resumed_base_is_the_same(
    both: Path, records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = DenoiserTraining.advance

    def signalled(self, number):
        if number == 3 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, number)

    monkeypatch.setattr(DenoiserTraining, "advance", signalled)
    assert together(SMALL, tmp_path / "out", records) == [3, 3]
    assert all("Interrupted: interrupted: phase 'unet' stopped at step 4" in text for text in logs(tmp_path))
    monkeypatch.setattr(DenoiserTraining, "advance", step)
    assert together(SMALL, tmp_path / "out", records) == [0, 0], logs(tmp_path)
    assert weights(tmp_path / "out" / "base") == weights(both / "base")


def test_a_killed_process_ends_the_other_with_a_reason(
    both: Path, records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = DenoiserTraining.advance

    def killed(self, number):
        if number == 3 and os.environ["RANK"] == "0":
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, number)

    monkeypatch.setattr(DenoiserTraining, "advance", killed)
    assert together(SMALL, tmp_path / "out", records) == [-signal.SIGKILL, 3]
    assert "StageError: another process has ended, its own message says why" in logs(tmp_path)[1]
    monkeypatch.setattr(DenoiserTraining, "advance", step)
    assert together(SMALL, tmp_path / "out", records) == [0, 0], logs(tmp_path)
    assert weights(tmp_path / "out" / "base") == weights(both / "base")


def test_a_done_folder_is_skipped_and_another_configuration_refused_by_both(both: Path, records: Path) -> None:
    assert together(SMALL, both, records) == [0, 0]
    assert together(dataclasses.replace(SMALL, seed=5), both, records) == [3, 3]
    assert "configuration seed was 0, now 5" in logs(both.parent)[0]
    assert "StageError: another process has ended" in logs(both.parent)[1]


def test_a_batch_that_cannot_be_divided_is_refused(records: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, unet=dataclasses.replace(SMALL.unet, batch=3))
    assert together(config, tmp_path / "out", records) == [3, 3]
    assert "pretrain#unet#batch is 3, expected a multiple of the 2 processes" in logs(tmp_path)[0]
