"""Two gloo processes train one classifier: equal weights on both, and those of one process with the whole batch."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from meddap_monai.classifier.config import ClassifyConfig
from meddap_monai.classifier.stage import classify
from meddap_monai.core.distributed import Ranks
from meddap_monai.errors import ConfigurationError
from meddap_monai.store import read_stage
from tests.reliability.forked import read_logs, run_pair

CONFIG = ClassifyConfig(
    encoder="vit_tiny",
    mode="scratch",
    resolution=16,
    steps=6,
    batch=8,
    validation_every=3,
    normalise="range",
    keep="last",
    pictures=False,
    learning_rate=1e-2,
    optimizer="sgd",
)


def together(config: ClassifyConfig, folder: Path, records: Path, logs: Path) -> list[int]:
    return run_pair(lambda: classify(config, folder, records=records), logs)


@pytest.mark.parametrize("augmentation", ["none", "ultrasound"])
def test_two_processes_train_what_one_does(records: Path, tmp_path: Path, augmentation: str) -> None:
    config = replace(CONFIG, augmentation=augmentation)
    alone = classify(config, tmp_path / "alone", records=records)
    codes = together(config, tmp_path / "both", records, tmp_path)
    assert codes == [0, 0], read_logs(tmp_path)
    states = [torch.load(folder / "model.pt", weights_only=True)["network"] for folder in (alone, tmp_path / "both")]
    for name, tensor in states[0].items():
        assert torch.allclose(tensor, states[1][name], atol=1e-5), name
    assert read_stage(tmp_path / "both")["state"] == "done"


def test_a_done_folder_is_skipped_by_both_and_a_foreign_one_refused_by_both(records: Path, tmp_path: Path) -> None:
    folder = classify(CONFIG, tmp_path / "model", records=records)
    assert together(CONFIG, folder, records, tmp_path) == [0, 0]
    assert together(replace(CONFIG, seed=5), folder, records, tmp_path) == [3, 3]
    assert "configuration seed was 0, now 5" in read_logs(tmp_path)[0]
    assert "the first process was refused: ForeignOutput: " in read_logs(tmp_path)[1]


def test_a_batch_that_cannot_be_divided_is_refused() -> None:
    import numpy as np

    with pytest.raises(ConfigurationError, match="batch: 8 cannot be divided by 3 processes"):
        Ranks(0, 3).split_plan(np.zeros((2, 8), dtype=int), "classify#batch")
    assert os.environ.get("WORLD_SIZE", "1") == "1"
