"""R11, R14, R16, R26, R27 for adapter training: killed, interrupted or out of space, the result is the same bytes."""

from __future__ import annotations

import errno
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from adapter_material import quick
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from meddap_monai import store
from meddap_monai.diffusion.adapting.stage import adapt
from meddap_monai.errors import DiskFull, ForeignOutput
from meddap_monai.training.checkpoint import NAME
from tests.reliability.forked import finish, kill_when, start

CONFIG = quick(steps=16, ema=0.9, caption_dropout=0.2)


@pytest.fixture(scope="module")
def run(make_records: Callable[..., Path], tiny_base: Path) -> Callable[[Path], Path]:
    records = make_records({"train": 3, "val": 1}, size=32)
    return lambda folder: adapt(CONFIG, folder, records=records, base=tiny_base)


@pytest.fixture(scope="module")
def expected(run, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, float]:
    """Hashes of the uninterrupted run, and how long it took."""
    folder = tmp_path_factory.mktemp("whole") / "a"
    started = time.monotonic()
    run(folder)
    return (*hashes(folder), time.monotonic() - started)


def hashes(folder: Path) -> tuple[str, str]:
    return store.sha256_file(folder / "adapter.safetensors"), store.sha256_file(folder / "adapter.json")


def kill_until_done(run, folder: Path, draw: random.Random, longest: float, kills: int) -> int:
    """Start the run, kill it at random times `kills` times, then let it finish; return how often it was killed."""
    killed = 0
    for _ in range(kills):
        process = start(lambda: run(folder), folder.with_name("log"))
        time.sleep(draw.uniform(0.0, longest))
        process.kill()
        killed += finish(process) == -signal.SIGKILL
        for file in folder.glob("*.safetensors"):
            load_file(file)
    run(folder)
    return killed


def test_r11_three_kills_change_nothing(run, expected, tmp_path: Path) -> None:
    killed = kill_until_done(run, tmp_path / "a", random.Random(1), expected[2], kills=3)
    assert killed >= 1
    assert hashes(tmp_path / "a") == expected[:2]
    assert not (tmp_path / "a" / NAME).exists()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_r11_twenty_kills_change_nothing(run, expected, tmp_path: Path) -> None:
    """A kill that comes after the end does not count, so it is drawn again in another folder."""
    killed = runs = 0
    while killed < 20:
        assert runs < 40
        folder, runs = tmp_path / str(runs), runs + 1
        killed += kill_until_done(run, folder, random.Random(runs), expected[2], kills=2)
        assert hashes(folder) == expected[:2]
        assert [path.name for path in folder.rglob(".*")] == [".lock"]


def test_r11_at_most_one_checkpoint_interval_is_lost(run, expected, tmp_path: Path) -> None:
    checkpoint = tmp_path / "a" / NAME
    process = start(lambda: run(tmp_path / "a"), tmp_path / "log")
    assert kill_when(process, checkpoint.exists)
    finish(process)
    assert torch.load(checkpoint, weights_only=True)["step"] % CONFIG.checkpoint_every == 0
    board = str(tmp_path / "a" / "tensorboard")
    with SummaryWriter(board) as writer:
        writer.add_scalar("adapt/loss", 99.0, CONFIG.steps - 1)  # as if the killed run had drawn a step it never saved
    run(tmp_path / "a")
    curves = EventAccumulator(board).Reload()
    assert 99.0 not in [event.value for event in curves.Scalars("adapt/loss")]
    assert hashes(tmp_path / "a") == expected[:2]


def test_r26_the_same_configuration_gives_the_same_bytes(run, expected, tmp_path: Path) -> None:
    assert hashes(run(tmp_path / "a")) == expected[:2]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_r27_a_signal_ends_the_step_and_resume_is_exact(run, expected, tmp_path: Path, number: int) -> None:
    process = start(lambda: run(tmp_path / "a"), tmp_path / "log")
    assert kill_when(process, (tmp_path / "a" / NAME).exists, number)
    asked = time.monotonic()
    assert finish(process) == 3
    assert time.monotonic() - asked < 10
    assert "errors.Interrupted" in (tmp_path / "log").read_text()
    assert (tmp_path / "a" / NAME).exists()
    assert store.read_stage(tmp_path / "a")["state"] == "running"
    run(tmp_path / "a")
    assert hashes(tmp_path / "a") == expected[:2]


def test_r14_a_full_disk_keeps_the_old_checkpoint(run, expected, tmp_path: Path, monkeypatch) -> None:
    replace, seen = os.replace, []

    def full(source, target) -> None:
        if Path(target).name == NAME:
            seen.append(target)
            if len(seen) == 3:
                raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(DiskFull, match=rf"{NAME}: the disk is full: [\d,]+ bytes needed"):
        run(tmp_path / "a")
    assert (tmp_path / "a" / NAME).stat().st_size > 0
    run(tmp_path / "a")
    assert hashes(tmp_path / "a") == expected[:2]


def test_r16_a_folder_of_something_else_is_refused(run, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/thesis.tex").write_text("mine")
    with pytest.raises(ForeignOutput, match=r"thesis\.tex"):
        run(tmp_path / "a")
    assert (tmp_path / "a/thesis.tex").read_text() == "mine"
