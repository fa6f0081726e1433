"""The embedded base from folders: what is gathered, how it is split, and that its configuration is complete."""

import csv
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from meddap_monai.core import resources
from meddap_monai.core.configuration import build
from meddap_monai.core.records import class_names, read_records
from meddap_monai.diffusion.bases.base import open_base
from meddap_monai.diffusion.pretraining.config import PretrainConfig
from meddap_monai.store import plain
from tools.corpus import CorpusConfig, gather


def write_folder(folder: Path, classes: tuple[str, ...], seed: int) -> Path:
    draw = np.random.default_rng(seed)
    folder.mkdir()
    with (folder / "index.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["image", "label", "patient", "role", "group"])
        for number in range(20):
            name = f"{number}.png"
            Image.fromarray(draw.integers(0, 255, (40, 48), dtype=np.uint8)).save(folder / name)
            table.writerow(
                [name, classes[number % 2], number // 2, "pretrain" if number < 14 else "unseen", number // 2]
            )
    return folder


def test_gathers_rows_of_the_right_role_and_holds_patients_out(tmp_path: Path) -> None:
    one = write_folder(tmp_path / "one", ("benign", "malignant"), 0)
    two = write_folder(tmp_path / "two", ("brain", "femur"), 1)
    config = CorpusConfig({"one": one, "two": two}, {"one": {"role": "pretrain"}}, simulated=5, workers=0)
    records = gather(config, tmp_path / "out")
    rows = read_records(records, full=True)
    assert len(rows) == 14 + 20 + 15
    assert class_names(records) == ["benign", "brain", "femur", "malignant", "normal"]
    assert all(row["label"] == class_names(records).index(row["class_name"]) for row in rows)
    assert {row["split"] for row in rows} == {"train", "val"}
    train, val = ({row["patient"] for row in rows if row["split"] == split} for split in ("train", "val"))
    assert not train & val
    simulated = [row for row in rows if row["meta"].get("simulated")]
    assert {row["meta"]["device"] for row in simulated} == {"Phantom A"}
    assert {row["class_name"] for row in simulated} == {"benign", "malignant", "normal"}
    assert gather(config, tmp_path / "out") == records


def test_the_shipped_configuration_is_the_one_in_the_card() -> None:
    settings = yaml.safe_load(resources.find("configs/base.yaml").read_text())["pretrain"]
    wanted, found = plain(build(PretrainConfig, settings, "pretrain")), open_base().card["configuration"]
    for part in ("views", "autoencoder", "text_encoder", "unet", "refinement", "resolution", "prompts", "seed"):
        assert found[part] == wanted[part]
