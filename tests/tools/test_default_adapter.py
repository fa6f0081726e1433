"""The default adapter's command, at smallest size."""

import dataclasses
from pathlib import Path

from meddap_monai.core.records import read_records
from meddap_monai.diffusion.adapters.file import read_card
from meddap_monai.images.provenance import train_hashes
from tools.default_adapter import IMAGES, TRAINING, train_default_adapter


def test_the_default_adapter_is_made_by_one_command(tiny_base: Path, tmp_path: Path) -> None:
    images = dataclasses.replace(IMAGES, simulated=4, held_out=0.25)
    training = dataclasses.replace(TRAINING, steps=2, batch=2, samples_per_class=1, sample_steps=1, resolution=32)
    folder = train_default_adapter(tmp_path, tiny_base, images, training)
    card = read_card(folder)
    assert card["classes"] == ["benign", "malignant", "normal"]
    assert card["images"] == 9
    seen = train_hashes(folder)
    rows = read_records(tmp_path / "images" / "records.jsonl", full=True)
    assert {row["sha256"] for row in rows if row["split"] == "train"} <= seen


def test_its_settings_are_those_of_the_shipped_card() -> None:
    from meddap_monai.core import resources

    card = read_card(resources.find("data/adapter"))
    assert (card["steps"], card["batch"], card["learning_rate"]) == (400, 8, 1e-3)
    assert card["steps"] == TRAINING.steps
    assert card["images"] == 3 * round(IMAGES.simulated * (1 - IMAGES.held_out))
