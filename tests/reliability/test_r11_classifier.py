"""R11, R14, R15, R18, R27 for the classifier: killed, out of space, raced, poisoned or interrupted."""

from __future__ import annotations

import errno
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from meddap_monai import store
from meddap_monai.classifier import stage as classifier_stage
from meddap_monai.classifier.config import ClassifyConfig
from meddap_monai.classifier.stage import classify
from meddap_monai.errors import DiskFull
from meddap_monai.training.checkpoint import NAME as CHECKPOINT
from tests.reliability.forked import finish, kill_when, start
from tests.reliability.writers import before, race

CONFIG = ClassifyConfig(
    encoder="resnet10_tiny",
    mode="scratch",
    resolution=32,
    steps=120,
    batch=4,
    validation_every=20,
    checkpoint_every=5,
    augmentation="classical",
    pictures=False,
)


@pytest.fixture(scope="module")
def records(make_records: Callable[..., Path]) -> Path:
    return make_records({"train": 4, "val": 2, "test": 2}, size=32)


@pytest.fixture(scope="module")
def whole(records: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return classify(CONFIG, tmp_path_factory.mktemp("whole") / "model", records=records)


def reached(folder: Path) -> int:
    """Steps of the checkpoint that lies in a folder; 0 without one."""
    path = folder / CHECKPOINT
    return torch.load(path, weights_only=True)["step"] if path.exists() else 0


def killed_and_resumed(records: Path, folder: Path, kills: int, seed: int) -> None:
    """Kill the training `kills` times at random times after a checkpoint, then let it end."""
    rng = random.Random(seed)
    last = 0
    for number in range(kills):
        process = start(lambda: classify(CONFIG, folder, records=records), folder.with_name(f"log{number}"))
        changed = (folder / CHECKPOINT).stat().st_mtime_ns if (folder / CHECKPOINT).exists() else 0
        wait, begun = rng.uniform(0.0, 0.08), [0.0]

        def later(changed: int = changed, wait: float = wait, begun: list[float] = begun) -> bool:
            there = (folder / CHECKPOINT).exists() and (folder / CHECKPOINT).stat().st_mtime_ns != changed
            if there and not begun[0]:
                begun[0] = time.monotonic()
            return bool(begun[0]) and time.monotonic() - begun[0] > wait

        was_killed = kill_when(process, later)
        code = finish(process)
        if not was_killed:
            assert code == 0
            assert number, "no kill hit"
            return
        assert code == -signal.SIGKILL
        step = reached(folder)
        assert step % CONFIG.checkpoint_every == 0
        assert step > last, "work was lost beyond one checkpoint interval"
        last = step
    classify(CONFIG, folder, records=records)


@pytest.mark.parametrize("seed", [1])
def test_three_kills_end_in_the_same_weights(records: Path, whole: Path, tmp_path: Path, seed: int) -> None:
    killed_and_resumed(records, tmp_path / "model", 3, seed)
    for name in ("model.pt", "metrics.json", "train_sha256.txt"):
        assert store.sha256_file(tmp_path / "model" / name) == store.sha256_file(whole / name), name


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(7))
def test_twenty_kills_end_in_the_same_weights(records: Path, whole: Path, tmp_path: Path, seed: int) -> None:
    killed_and_resumed(records, tmp_path / "model", 3, 100 + seed)
    assert store.sha256_file(tmp_path / "model" / "model.pt") == store.sha256_file(whole / "model.pt")


def test_sigterm_ends_within_ten_seconds_with_a_checkpoint(records: Path, tmp_path: Path) -> None:
    folder, log = tmp_path / "model", tmp_path / "log"
    process = start(lambda: classify(CONFIG, folder, records=records), log)
    assert kill_when(process, (folder / CHECKPOINT).exists, signal.SIGTERM)
    begun = time.monotonic()
    assert finish(process) == 3
    assert time.monotonic() - begun < 10
    assert "meddap_monai.errors.Interrupted: interrupted" in log.read_text()
    assert "run the same command again to go on" in log.read_text()


def test_full_disk_keeps_the_old_checkpoint_and_the_run_goes_on(
    records: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    real_save, calls = torch.save, [0]

    def full(document: Any, stream: Any, **options: Any) -> None:
        calls[0] += 1
        if calls[0] == 4:
            stream.write(b"half a file")
            raise OSError(errno.ENOSPC, "No space left on device")
        real_save(document, stream, **options)

    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", full)
        with pytest.raises(DiskFull, match=r"checkpoint\.pt: the disk is full: [\d,]+ bytes needed"):
            classify(CONFIG, folder, records=records)
    assert reached(folder) == 15
    assert [path.name for path in folder.iterdir() if path.name.startswith(".") and path.name != ".lock"] == []
    classify(CONFIG, folder, records=records)
    assert store.sha256_file(folder / "model.pt") == store.sha256_file(whole / "model.pt")


def test_two_writers_one_works_and_the_other_names_the_holder(records: Path, whole: Path, tmp_path: Path) -> None:
    def write(folder: Path, wait: Callable[[], None]) -> None:
        before(classifier_stage, "read_material", wait)
        classify(CONFIG, folder, records=records)

    folder = race(write, tmp_path / "race")
    assert store.sha256_file(folder / "model.pt") == store.sha256_file(whole / "model.pt")
