"""R11 and R14 for pre-training: killed at random times or out of space, the resumed weights are the same bytes."""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from meddap_monai import store
from meddap_monai.diffusion.pretraining.config import PretrainConfig, RefinementConfig
from meddap_monai.diffusion.pretraining.parts import AutoencoderConfig, DenoiserConfig, TextEncoderConfig, ViewsConfig
from meddap_monai.diffusion.pretraining.stage import pretrain
from meddap_monai.errors import DiskFull, ForeignOutput
from tests.reliability.forked import finish, start

CONFIG = PretrainConfig(
    resolution=32,
    prompts=("breast",),
    views=ViewsConfig(clean=1, changed=1),
    autoencoder=AutoencoderConfig(
        channels=(8, 16, 16), latents=4, groups=4, steps=16, batch=2, crop=32, corner_steps=8
    ),
    text_encoder=TextEncoderConfig(width=32, layers=1, steps=16, batch=8),
    unet=DenoiserConfig(channels=(16, 32), heads=2, groups=8, steps=16, batch=4, warmup=2),
    refinement=RefinementConfig(steps=8, drawn=4, sampling_steps=2, batch=2, crop=16),
    checkpoint_every=3,
    pictures_every=1000,
    precision="fp32",
)


PHASES = ("text", "autoencoder", "unet", "refinement", "corners")


@pytest.fixture(scope="module")
def run(make_records: Callable[..., Path]) -> Callable[[Path], Path]:
    records = make_records({"train": 2, "val": 1}, size=32)
    return lambda folder: pretrain(CONFIG, folder, records=records)


@pytest.fixture(scope="module")
def expected(run, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Hashes of the uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole") / "p"
    run(folder)
    return hashes(folder)


def hashes(folder: Path) -> list[str]:
    return [store.sha256_file(path) for path in sorted((folder / "base").rglob("*.safetensors"))]


def kill_until_done(run, folder: Path, draw: random.Random, phases: list[int]) -> int:
    """Start the run and kill it a random moment after each phase's first checkpoint, then let it finish."""
    killed = 0
    for phase in (PHASES[number] for number in phases):
        process = start(lambda: run(folder), folder.with_name("log"))
        while process.is_alive() and not (folder / "phases" / f"{phase}.pt").exists():
            time.sleep(0.01)
        time.sleep(draw.uniform(0.0, 0.05))
        process.kill()
        killed += finish(process) == -signal.SIGKILL
        for file in folder.glob("phases/[!.]*.pt"):  # a temporary that the kill left is swept when the run goes on
            torch.load(file, weights_only=True)
    run(folder)
    return killed


def test_r11_three_kills_change_nothing(run, expected, tmp_path: Path) -> None:
    assert kill_until_done(run, tmp_path / "p", random.Random(2), [0, 1, 2, 3]) >= 1
    assert hashes(tmp_path / "p") == expected


@pytest.mark.slow
@pytest.mark.parametrize("number", range(10))
def test_r11_twenty_kills_change_nothing(run, expected, tmp_path: Path, number: int) -> None:
    draw = random.Random(number)
    assert kill_until_done(run, tmp_path / "p", draw, sorted(draw.choices(range(5), k=2))) >= 1
    assert hashes(tmp_path / "p") == expected


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="needs Linux' full device")
def test_r14_disk_full_keeps_the_old_checkpoint(run, expected, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save, calls = torch.save, []

    def full(document, stream) -> None:
        calls.append(stream)
        if len(calls) == 9:
            patched.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
            save(document, "/dev/full")  # raises what torch raises on a full disk
        save(document, stream)

    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", full)
        with pytest.raises(DiskFull, match=r"phases/\w+\.pt: the disk is full: [\d,]+ bytes needed"):
            run(tmp_path / "p")
    for file in (tmp_path / "p").glob("phases/*.pt"):
        torch.load(file, weights_only=True)
    run(tmp_path / "p")
    assert hashes(tmp_path / "p") == expected


def test_r16_another_configuration_is_refused(run, make_records, tmp_path: Path) -> None:
    run(tmp_path / "p")
    with pytest.raises(ForeignOutput, match="another run of pretrain: inputs records"):
        pretrain(CONFIG, tmp_path / "p", records=make_records({"train": 3}, size=32))
