"""The embedded base from folders: what is gathered, how it is split, and that its configuration is complete."""

import csv
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from meddap_monai.core import resources
from meddap_monai.core.configuration import build
from meddap_monai.core.records import class_names, read_records
from meddap_monai.diffusion.bases.base import open_base
from meddap_monai.diffusion.bases.prompt_choice import tables_for
from meddap_monai.diffusion.pretraining.config import PretrainConfig
from meddap_monai.diffusion.pretraining.views import captioning_tables
from meddap_monai.store import plain
from tools.corpus import CorpusConfig, gather
from tools.lesion_boxes import lesion_box


def write_folder(
    folder: Path, classes: tuple[str, ...], seed: int, devices: tuple[str, ...] = ("", ""), one_patient: bool = False
) -> Path:
    """Write 20 images, two per patient, class and device in turn; with `one_patient` the second class has but one."""
    draw = np.random.default_rng(seed)
    folder.mkdir()
    with (folder / "index.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["image", "label", "patient", "role", "group", "birads", "device"])
        for number in range(20):
            name = f"{number}.png"
            Image.fromarray(draw.integers(0, 255, (40, 48), dtype=np.uint8)).save(folder / name)
            patient = "alone" if one_patient and number % 2 else number // 2
            role = "pretrain" if number < 14 else "unseen"
            table.writerow([name, classes[number % 2], patient, role, patient, 2 + number % 4, devices[number % 2]])
    return folder


def test_gathers_rows_of_the_right_role_and_holds_patients_out(tmp_path: Path) -> None:
    one = write_folder(tmp_path / "one", ("benign", "malignant"), 0)
    two = write_folder(tmp_path / "two", ("brain", "femur"), 1)
    config = CorpusConfig({"busbra": one, "fetal": two}, simulated=5, workers=0)
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


def test_facts_come_from_columns_and_publications_and_lone_patients_train(tmp_path: Path) -> None:
    one = write_folder(tmp_path / "one", ("benign", "malignant"), 0)
    classes, devices = (
        ("vastus_lateralis", "gastrocnemius_medialis"),
        ("GE Logiq E9", "Telemed SmartUs LV7.5/60/128Z-2"),
    )
    two = write_folder(tmp_path / "two", classes, 1, devices, one_patient=True)
    config = CorpusConfig({"busbra": one, "muscle": two}, simulated=0, workers=0)
    rows = read_records(gather(config, tmp_path / "out"), full=True)
    breast = [row for row in rows if row["patient"].startswith("busbra")]
    assert {row["meta"]["birads"] for row in breast} == {"2", "3", "4", "5"}
    assert {(row["meta"]["device"], row["meta"]["probe"]) for row in breast} == {("GE Logiq 5", "linear")}
    for row in breast:
        x0, y0, x1, y1 = row["meta"]["lesion_box"]
        assert 0 <= x0 < x1 <= 48 and 0 <= y0 < y1 <= 40
    muscle = Counter((row["meta"]["device"], row["split"]) for row in rows if row["patient"].startswith("muscle"))
    assert muscle == {("GE Logiq E9", "train"): 8, ("GE Logiq E9", "val"): 2, ("Telemed SmartUs", "train"): 10}


def test_the_split_of_an_earlier_base_is_kept(tmp_path: Path, tiny_base: Path) -> None:
    folder = write_folder(tmp_path / "one", ("benign", "malignant"), 0)
    first = read_records(gather(CorpusConfig({"busbra": folder}, simulated=0, workers=0), tmp_path / "a"), full=True)
    trained = sorted({row["patient"] for row in first})[:4]
    seen = {row["sha256"] for row in first if row["patient"] in trained}
    base = shutil.copytree(tiny_base, tmp_path / "base")
    (base / "train_sha256.txt").write_text("".join(f"{digest}\n" for digest in sorted(seen)[::2]))
    config = CorpusConfig({"busbra": folder}, simulated=0, workers=0, split_of=str(base))
    again = read_records(gather(config, tmp_path / "b"), full=True)
    train = {row["patient"] for row in again if row["split"] == "train"}
    assert train <= set(trained) and len(train) >= 2 and len(again) == len(first)
    assert not train & {row["patient"] for row in again if row["split"] == "val"}


def test_the_lesion_is_the_dark_spot_of_its_depth() -> None:
    draw = np.random.default_rng(0)
    depth = np.linspace(200, 60, 256)[:, None]
    pixels = np.tile(depth, (1, 180)) * draw.uniform(0.6, 1.4, (256, 180))
    row, column = np.mgrid[:256, :180]
    spot = ((row - 90) / 18) ** 2 + ((column - 70) / 24) ** 2 < 1
    pixels[spot] *= 0.3
    x0, y0, x1, y1 = lesion_box(pixels.clip(0, 255).astype(np.uint8))
    inside = (column >= x0) & (column < x1) & (row >= y0) & (row < y1)
    assert spot[inside].sum() > 0.95 * spot.sum()
    assert inside.mean() < 0.5


def test_the_new_configuration_is_complete() -> None:
    settings = yaml.safe_load(resources.find("configs/base3.yaml").read_text())["pretrain"]
    config = build(PretrainConfig, settings, "pretrain")
    assert config.views.words == ("device", "probe", "birads", "view")
    labels = ["benign", "malignant", "normal", "abdomen", "brain", "fetal_head", "vastus_lateralis", "covid", "regular"]
    captions = captioning_tables(labels, tables_for(config.prompts, labels), config.views)
    assert {name: table.name for name, table in captions.items()} == dict(
        zip(labels, ["breast"] * 3 + ["fetal"] * 2 + ["fetal_head", "leg_muscle", "lung", "lung"], strict=True)
    )


def test_the_shipped_configuration_is_the_one_in_the_card() -> None:
    settings = yaml.safe_load(resources.find("configs/base.yaml").read_text())["pretrain"]
    wanted, found = plain(build(PretrainConfig, settings, "pretrain")), open_base().card["configuration"]
    for part in ("views", "autoencoder", "text_encoder", "unet", "refinement"):
        assert found[part].items() <= wanted[part].items()  # keys that came after the base have no place in its card
    for part in ("resolution", "prompts", "seed"):
        assert found[part] == wanted[part]
