"""The grid: cells of arms x networks x shares x seeds, nested shares, resumable, one table."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from meddap_monai.classifier.config import ClassifyConfig
from meddap_monai.core.records import read_records, write_records
from meddap_monai.errors import ConfigurationError, LeakedRecords
from meddap_monai.evaluation.config import EvaluateConfig
from meddap_monai.study.grid import Draw, plan_cells, run_grid, shrink
from meddap_monai.study.grid_config import GridConfig
from tests.record_material import as_synthetic

CLASSIFY = ClassifyConfig(
    encoder="resnet10_tiny", mode="scratch", resolution=16, steps=2, batch=4, validation_every=1, pictures=False
)
CONFIG = GridConfig(
    arms=("real", "real_classical", "real_synthetic", "duplicated"),
    encoders=("resnet10_tiny", "vit_tiny"),
    fractions=(0.5, 1.0),
    classify=CLASSIFY,
    evaluate=EvaluateConfig(samples=30, pictures=0, generative=False),
)


@pytest.fixture(scope="module")
def draws(make_records: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> list[Draw]:
    found = []
    for seed in (0, 1):
        records = make_records({"train": 4, "val": 2, "test": 4}, size=32)
        folder = tmp_path_factory.mktemp("kept")
        rows = read_records(records, split="train", full=True)
        write_records(folder / "kept.jsonl", map(as_synthetic, rows))
        found.append(Draw(seed, records, folder / "kept.jsonl"))
    return found


def test_an_unseen_set_with_a_training_image_is_refused_before_anything_is_trained(
    draws: list[Draw], tmp_path: Path
) -> None:
    seen = read_records(draws[1].records, split="train", full=True)[0]
    write_records(tmp_path / "records.jsonl", [seen | {"split": "unseen"}])
    with pytest.raises(LeakedRecords, match=r"among the training images of the draws.*type evaluate#exclude_seen=true"):
        run_grid(CONFIG, tmp_path / "grid", draws=draws, unseen=tmp_path / "records.jsonl")
    assert not (tmp_path / "grid").exists()


def test_a_grid_trains_judges_and_is_skipped_when_done(draws: list[Draw], tmp_path: Path) -> None:
    output = run_grid(CONFIG, tmp_path / "grid", draws=draws)
    with (output / "grid.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["metric"] == "auc"]
    cells = {(row["encoder"], row["fraction"], row["arm"]) for row in rows}
    assert len(cells) == 2 * 2 * (4 + 1), "four arms and HOG"
    assert {row["seeds"] for row in rows} == {"2"}
    text = (output / "grid.md").read_text()
    assert text.count("| vit_tiny | 0.5 |") == 5
    assert {path.name for path in output.glob("*.svg")} == {
        "learning_curve-resnet10_tiny-own.svg",
        "learning_curve-vit_tiny-own.svg",
    }
    models = sorted(output.glob("classify/**/model.pt"))
    assert len(models) == 2 * 2 * 4 * 2
    before = [path.stat().st_mtime_ns for path in models]
    table = (output / "grid.csv").read_bytes()
    shutil.rmtree(models[0].parent)
    run_grid(CONFIG, tmp_path / "grid", draws=draws)
    after = [path.stat().st_mtime_ns for path in models]
    assert after[1:] == before[1:], "done cells are skipped"
    assert after[0] != before[0], "the lost cell is trained again"
    assert (output / "grid.csv").read_bytes() == table


@pytest.mark.slow
def test_two_processes_make_the_same_grid(draws: list[Draw], tmp_path: Path) -> None:
    from dataclasses import replace

    small = replace(CONFIG, arms=("real", "real_synthetic"), encoders=("resnet10_tiny",))
    alone = run_grid(small, tmp_path / "one", draws=draws)
    both = run_grid(replace(small, processes=2), tmp_path / "two", draws=draws)
    assert (alone / "grid.csv").read_bytes() == (both / "grid.csv").read_bytes()


def test_shares_are_nested_and_keep_val_and_test(draws: list[Draw]) -> None:
    rows = read_records(draws[0].records, full=True)
    half, quarter = ({row["id"] for row in shrink(rows, share, 3)} for share in (0.5, 0.25))
    assert quarter < half
    kept = [row for row in rows if row["id"] in quarter]
    assert sum(row["split"] == "train" for row in kept) == 3
    assert sum(row["split"] != "train" for row in kept) == 18


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda draws: [], "got no draws"),
        (lambda draws: [Draw(0, draws[0].records)], "arm 'real_synthetic' needs synthetic images, seed 0 has none"),
    ],
)
def test_wrong_grids_are_refused(draws: list[Draw], change: Callable, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        plan_cells(CONFIG, change(draws))
    with pytest.raises(ConfigurationError, match="did you mean 'real_synthetic'"):
        GridConfig(arms=("real_syntetic",))


def test_two_folders_of_one_name_are_refused_since_their_places_are_not_shown() -> None:
    with pytest.raises(ConfigurationError, match="got transformers:a, transformers:a, expected each name once"):
        GridConfig(encoders=("transformers:/data/Doe/a", "transformers:/data/Roe/a"))
