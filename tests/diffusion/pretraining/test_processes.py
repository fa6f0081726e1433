"""Several processes pre-train one base: the weights of one process, exact resume, and no waiting for a dead one."""

import dataclasses
import os
import signal
from pathlib import Path

import pytest
import torch

from meddap_monai import store
from meddap_monai.diffusion.pretraining.config import PretrainConfig
from meddap_monai.diffusion.pretraining.stage import pretrain
from meddap_monai.diffusion.pretraining.unet import DenoiserTraining
from tests.pretrain_material import SMALL, weights
from tests.reliability.forked import read_logs, run_pair


@pytest.fixture(scope="module")
def both(few_records: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stage folder that two processes made; what each of them trained on stands in ``count0`` and ``count1``."""
    folder = tmp_path_factory.mktemp("both")
    whole = DenoiserTraining._loss

    def counted(self, chosen, *others):
        with (folder / f"count{os.environ['RANK']}").open("a") as stream:
            stream.write(f"{len(chosen)}\n")
        return whole(self, chosen, *others)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(DenoiserTraining, "_loss", counted)
        assert together(SMALL, folder / "out", few_records) == [0, 0], read_logs(folder)
    return folder / "out"


def together(config: PretrainConfig, output: Path, records: Path) -> list[int]:
    """Pre-train in two processes and return their exit codes; what they raise is in the logs beside the output."""
    return run_pair(lambda: pretrain(config, output, records=records), output.parent)


def test_two_processes_train_the_unet_of_one(small_base: Path, both: Path) -> None:
    """All but one tensor: softmax ignores a bias of the keys, so its gradient is rounding, whose sign Adam follows."""
    files = [folder / "phases" / "unet.pt" for folder in (small_base.parent, both)]
    one, two = (torch.load(file, weights_only=True)["state"] for file in files)
    for part in ("unet", "average"):
        for name, tensor in one[part].items():
            if not name.endswith("k_proj.bias"):
                assert torch.allclose(tensor, two[part][name], atol=5e-5), f"{part}.{name}"
    hashes = [weights(folder / "base") for folder in (small_base.parent, both)]
    assert {name for name in hashes[0] if hashes[0][name] != hashes[1][name]} <= {"unet"}
    assert store.read_stage(both)["state"] == "done"


def test_each_process_takes_half_of_every_batch(both: Path) -> None:
    counts = [(both.parent / f"count{rank}").read_text().split() for rank in range(2)]
    assert counts == [[str(SMALL.unet.batch // 2)] * SMALL.unet.steps] * 2


@pytest.mark.parametrize(
    ("rank", "number", "codes", "told"),
    [
        (1, signal.SIGTERM, [3, 3], ["Interrupted: interrupted: unet stopped at step 4"] * 2),
        (
            0,
            signal.SIGKILL,
            [-signal.SIGKILL, 3],
            ["", "StageError: another process has ended, its own message says why"],
        ),
    ],
    ids=["interrupted", "killed"],
)
def test_a_signal_to_one_process_ends_both_and_the_resumed_base_is_the_same(
    rank: int,
    number: int,
    codes: list[int],
    told: list[str],
    both: Path,
    few_records: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step = DenoiserTraining.advance

    def signalled(self, at):
        if at == 3 and os.environ["RANK"] == str(rank):
            os.kill(os.getpid(), number)
        return step(self, at)

    monkeypatch.setattr(DenoiserTraining, "advance", signalled)
    assert together(SMALL, tmp_path / "out", few_records) == codes
    assert all(sentence in text for sentence, text in zip(told, read_logs(tmp_path), strict=True))
    monkeypatch.setattr(DenoiserTraining, "advance", step)
    assert together(SMALL, tmp_path / "out", few_records) == [0, 0], read_logs(tmp_path)
    assert weights(tmp_path / "out" / "base") == weights(both / "base")


def test_a_done_folder_is_skipped_and_another_configuration_refused_by_both(both: Path, few_records: Path) -> None:
    assert together(SMALL, both, few_records) == [0, 0]
    assert together(dataclasses.replace(SMALL, seed=5), both, few_records) == [3, 3]
    assert "configuration seed was 0, now 5" in read_logs(both.parent)[0]
    assert "StageError: " in read_logs(both.parent)[1]
    assert "the first process was refused: ForeignOutput: " in read_logs(both.parent)[1]


def test_a_batch_that_cannot_be_divided_is_refused(few_records: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, unet=dataclasses.replace(SMALL.unet, batch=3))
    assert together(config, tmp_path / "out", few_records) == [3, 3]
    assert "pretrain#unet#batch is 3, expected a multiple of the 2 processes" in read_logs(tmp_path)[0]
