"""Fixtures shared by all tests: one thread, no network, a tiny untrained base, simulated records."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from meddap_monai import store
from meddap_monai.core.records import write_records
from tests.offline import block_network
from tests.record_material import CLASSES, image_record


@pytest.fixture(scope="session", autouse=True)
def _no_network() -> None:
    block_network()


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained Stable Diffusion folder at 32 px: real classes, random weights."""
    from tools.tiny_base import build_tiny_base

    folder = tmp_path_factory.mktemp("base") / "tiny"
    build_tiny_base(folder, resolution=32, seed=0)
    return folder


@pytest.fixture(scope="module")
def pipeline(tiny_base: Path) -> Any:
    """The tiny base, opened once for a file of tests that leave it as it is."""
    from meddap_monai.diffusion.bases.base import load_base

    return load_base(tiny_base)


@pytest.fixture(scope="session")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a pseudonym key of 32 times the letter k."""
    path = tmp_path_factory.mktemp("key") / "key"
    path.write_bytes(b"k" * 32)
    return path


def write_simulated_records(folder: Path, per_class: dict[str, int], size: int = 64, per_patient: int = 2) -> Path:
    """Write simulated images as an index folder: ``{split: images per class}``, `per_patient` images a patient."""
    from meddap_monai.phantom.simulation import simulate_image

    with store.open_stage(folder, "index", {"simulated": per_class, "size": size}) as stage:
        records = []
        for split_number, (split, count) in enumerate(per_class.items()):
            for label, name in enumerate(CLASSES):
                for number in range(count):
                    seed = 10_000 * split_number + 1_000 * label + number
                    scanner = "unseen" if split == "unseen" else "own"
                    pixels = simulate_image(name, seed=seed, scanner=scanner)
                    pixels = np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR))
                    facts = {"split": split, "meta": {"frame": 0, "device": "simulated"}}
                    facts["patient"] = f"{split}-{name}-p{number // per_patient}"
                    records.append(image_record(folder, f"{split}-{name}-{number:03d}", pixels, name, **facts))
        write_records(folder / "records.jsonl", records)
        stage.finish({"in": len(records), "out": len(records), "rejected": 0}, classes=CLASSES)
    return folder / "records.jsonl"


@pytest.fixture(scope="session")
def make_records(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Build simulated records of chosen size; arguments as `write_simulated_records` without the folder."""

    def build(per_class: dict[str, int], size: int = 64, per_patient: int = 2) -> Path:
        return write_simulated_records(tmp_path_factory.mktemp("records") / "index", per_class, size, per_patient)

    return build


@pytest.fixture(scope="session")
def simulated_records(make_records: Callable[..., Path]) -> Path:
    """72 simulated 64 px images: 12 train, 4 val, 8 test per class."""
    return make_records({"train": 12, "val": 4, "test": 8})


@pytest.fixture(scope="session")
def records(make_records: Callable[..., Path]) -> Path:
    """24 simulated 32 px images: 4 train, 2 val, 2 test per class."""
    return make_records({"train": 4, "val": 2, "test": 2}, size=32)
