"""R28 for the classifier: memory and open files do not grow with the steps of a long run over many images."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from meddap_monai.classifier.scoring import load_classifier
from meddap_monai.classifier.stage import classify
from meddap_monai.core.records import read_records, write_records
from meddap_monai.training.handlers import Validation
from tests.classifier_material import TINY
from tests.record_material import CLASSES, image_record
from tests.reliability.held import HERE, open_files, resident_bytes


def many_records(folder: Path, training: int) -> Path:
    """Write tiny images of three grey levels and noise: `training` of split train, 60 of val."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(training + 60):
        pixels = np.clip(rng.normal(60 + 60 * (number % 3), 25, (20, 20)), 0, 255).astype(np.uint8)
        facts = {"patient": f"p{number // 2}", "split": "train" if number < training else "val"}
        rows.append(image_record(folder, f"{number:06d}", pixels, CLASSES[number % 3], **facts))
    write_records(folder / "records.jsonl", rows)
    (folder / "stage.json").write_text(
        '{"stage": "index", "state": "done", "classes": ["benign", "malignant", "normal"]}'
    )
    return folder / "records.jsonl"


@pytest.mark.skipif(not HERE.exists(), reason="reads memory from /proc, which this system lacks")
@pytest.mark.parametrize(
    ("images", "cache"),
    [
        (400, "memory"),
        pytest.param(400, "disk", marks=pytest.mark.slow),
        pytest.param(10_000, "memory", marks=[pytest.mark.slow, pytest.mark.timeout(1800)]),
        pytest.param(10_000, "disk", marks=[pytest.mark.slow, pytest.mark.timeout(1800)]),
    ],
)
def test_memory_and_open_files_stay(
    images: int,
    cache: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    records = many_records(tmp_path / "index", images)
    validate, seen = Validation.__call__, []

    def watching(self, engine):
        validate(self, engine)
        if engine.state.iteration % self.every == 0:
            seen.append((resident_bytes(), open_files()))

    monkeypatch.setattr(Validation, "__call__", watching)
    steps = 2 * images // 16
    config = replace(TINY, resolution=16, steps=steps, batch=16, validation_every=max(1, steps // 20), cache=cache)
    folder = classify(replace(config, checkpoint_every=max(1, steps // 10)), tmp_path / "model", records=records)
    settled, last = seen[len(seen) // 4], seen[-1]
    assert len(seen) >= 20
    record_property("memory at the end over memory after a quarter", last[0] / settled[0])
    assert last[0] < 1.05 * settled[0]
    assert last[1] == settled[1]
    rows = read_records(records, split="train")
    model = load_classifier(folder)
    model.probabilities(rows[: len(rows) // 4])
    before = resident_bytes(), open_files()
    assert model.probabilities(rows).shape == (images, 3)
    assert resident_bytes() < 1.05 * before[0]
    assert open_files() == before[1]
