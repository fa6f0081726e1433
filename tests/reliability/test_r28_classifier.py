"""R28 for the classifier: memory and open files do not grow with the steps of a long run over many images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from meddap_monai.classifier.config import ClassifyConfig
from meddap_monai.classifier.scoring import load_classifier
from meddap_monai.classifier.stage import classify
from meddap_monai.core.records import pixel_hash, read_records, write_records
from meddap_monai.training.handlers import Validation
from tests.reliability.held import HERE, open_files, resident_bytes

CLASSES = ["benign", "malignant", "normal"]


def many_records(folder: Path, training: int) -> Path:
    """Write tiny images of three grey levels and noise: `training` of split train, 60 of val."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    rows = []
    for number in range(training + 60):
        label = number % 3
        pixels = np.clip(rng.normal(60 + 60 * label, 25, (20, 20)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{number:06d}.png")
        rows.append(
            {
                "id": f"{number:06d}",
                "image": f"images/{number:06d}.png",
                "label": label,
                "class_name": CLASSES[label],
                "patient": f"p{number // 2}",
                "split": "train" if number < training else "val",
                "source": "real",
                "sha256": pixel_hash(pixels),
                "meta": {"frame": 0},
            }
        )
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
def test_memory_and_open_files_stay(images: int, cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = many_records(tmp_path / "index", images)
    validate, seen = Validation.__call__, []

    def watching(self, engine):
        validate(self, engine)
        if engine.state.iteration % self.every == 0:
            seen.append((resident_bytes(), open_files()))

    monkeypatch.setattr(Validation, "__call__", watching)
    steps = 2 * images // 16
    config = ClassifyConfig(
        encoder="resnet10_tiny",
        mode="scratch",
        resolution=16,
        steps=steps,
        batch=16,
        validation_every=max(1, steps // 20),
        checkpoint_every=max(1, steps // 10),
        augmentation="classical",
        cache=cache,
        pictures=False,
    )
    folder = classify(config, tmp_path / "model", records=records)
    settled, last = seen[len(seen) // 4], seen[-1]
    assert len(seen) >= 20
    assert last[0] < 1.05 * settled[0]
    assert last[1] == settled[1]
    rows = read_records(records, split="train")
    model = load_classifier(folder)
    model.probabilities(rows[: len(rows) // 4])
    before = resident_bytes(), open_files()
    assert model.probabilities(rows).shape == (images, 3)
    assert resident_bytes() < 1.05 * before[0]
    assert open_files() == before[1]
