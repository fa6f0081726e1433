"""The commands infer and grid: they run what the functions run."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from meddap_monai.classifier.stage import classify
from meddap_monai.cli.evaluation import read_draw, read_keys
from meddap_monai.cli.main import main
from meddap_monai.study.grid_config import GridConfig
from tests.classifier_material import TINY


def test_infer_writes_a_table_of_an_ensemble(records: Path, tmp_path: Path) -> None:
    models = []
    for seed in (0, 1):
        config = replace(TINY, resolution=16, steps=2, batch=4, validation_every=1, seed=seed)
        models.append(str(classify(config, tmp_path / str(seed), records=records)))
    Image.fromarray(np.full((40, 40), 90, dtype=np.uint8)).save(tmp_path / "one.png")
    words = ["infer", "--source", str(tmp_path / "one.png"), "--output", str(tmp_path / "table.csv"), "frames=first"]
    assert main([*words, "--models", *models]) == 0
    with (tmp_path / "table.csv").open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert row["file"] == "one.png" and float(row["spread"]) > 0
    assert sum(float(row[name]) for name in row if name.startswith("p_")) == pytest.approx(1, abs=1e-4)


def test_grid_writes_its_table(records: Path, tmp_path: Path) -> None:
    words = ["grid", "--draws", f"0:{records}", "--output", str(tmp_path / "grid"), "arms=[real]"]
    words += ["encoders=[resnet10_tiny]", "fractions=[0.5, 1]", "classify#steps=2", "classify#resolution=16"]
    words += [
        "classify#mode=scratch",
        "classify#batch=4",
        "classify#pictures=false",
        "evaluate#samples=20",
        "evaluate#hog=false",
    ]
    assert main(words) == 0
    with (tmp_path / "grid" / "grid.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["metric"] == "auc"]
    assert [(row["encoder"], row["fraction"], row["arm"]) for row in rows] == [
        ("resnet10_tiny", "0.5", "real"),
        ("resnet10_tiny", "1.0", "real"),
    ]


def test_ids_become_nested_keys() -> None:
    config = read_keys(["classify#steps=3", "classify#encoder=vit_tiny", "engine#workers=2"], GridConfig)
    assert (config.classify.steps, config.classify.encoder, config.engine.workers) == (3, "vit_tiny", 2)


def test_a_colon_inside_of_a_path_is_told_by_what_exists(tmp_path: Path) -> None:
    for name in ("a:b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "records.jsonl").touch()
    one, other = f"{tmp_path}/a:b/records.jsonl", f"{tmp_path}/c/records.jsonl"
    assert read_draw(f"3:{one}") == (3, Path(one), None)
    assert read_draw(f"3:{one}:{other}") == (3, Path(one), Path(other))
    assert read_draw("3:x:y") == (3, Path("x"), Path("y"))
