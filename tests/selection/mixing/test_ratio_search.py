"""The search for how much synthetic, judged on val."""

from pathlib import Path

import numpy as np
import pytest

from meddap_monai import store
from meddap_monai.classifier.config import ClassifyConfig
from meddap_monai.core.records import read_records, write_records
from meddap_monai.errors import RecordsError
from meddap_monai.selection.mixing.config import MixConfig, SearchConfig
from meddap_monai.selection.mixing.ratio_search import Candidate, candidates, compare
from meddap_monai.selection.mixing.stage import mix
from tests.selection.synthetic import CLASSES, write_generated

TINY = ClassifyConfig(
    encoder="resnet10_tiny", mode="scratch", resolution=32, steps=4, batch=8, validation_every=4, pictures=False
)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = write_generated(
        tmp_path_factory.mktemp("g") / "out", [(name, name) for name in CLASSES for _ in range(10)]
    )
    folder = source.parent
    scored = []
    for number, record in enumerate(read_records(source, full=True)):
        place = number % 10
        rule = "conformal" if place >= 4 else "conformal+copy" if place == 3 else "conformal"
        selection = {"kept": place >= 4, "rule": rule, "scores": {"conformal": place / 10}}
        scored.append(record | {"selection": selection})
    write_records(folder / "scored.jsonl", scored)
    write_records(folder / "kept.jsonl", [record for record in scored if record["selection"]["kept"]])
    return folder / "kept.jsonl"


def test_nothing_is_always_tried_and_smaller_amounts_come_first() -> None:
    tried = candidates(SearchConfig(ratios=(2.0, 0.5), thresholds=(0.1, 0.4)))
    assert [one.name for one in tried] == [
        "ratio_0",
        "ratio_0.5_threshold_0.4",
        "ratio_0.5_threshold_0.1",
        "ratio_2_threshold_0.4",
        "ratio_2_threshold_0.1",
    ]


@pytest.mark.parametrize("gain, chosen", [(0.0, "ratio_0"), (3.0, "ratio_1"), (-3.0, "ratio_0")])
def test_a_clear_gain_is_taken_and_luck_is_not(gain: float, chosen: str) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    validation = [{"label": int(label), "patient": f"p{n // 3}"} for n, label in enumerate(labels)]
    noise = rng.standard_normal((1, 3, 90, 3)) * 2
    logits = noise + np.eye(3)[labels] * np.array([1.0, 1.0 + gain, 1.0 + gain])[:, None, None, None]
    logits[2] += 0.01 * rng.standard_normal((3, 90, 3))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    tried = [Candidate(0.0), Candidate(1.0), Candidate(2.0)]
    table = compare(tried, probabilities, validation, 200, 0)
    assert table["chosen"] == chosen
    rows = {row["name"]: row for row in table["candidates"]}
    assert rows["ratio_0"]["gain"] == 0 and rows["ratio_0"]["gain_interval"] == [0, 0]
    low, high = rows["ratio_1"]["gain_interval"]
    assert (low > 0) == (gain > 0) and (high < 0) == (gain < 0)
    assert rows["ratio_1"]["interval"][0] <= rows["ratio_1"]["auc"] <= rows["ratio_1"]["interval"][1]


def test_search_mixes_the_chosen_amount(tmp_path: Path, simulated_records: Path, kept: Path) -> None:
    search = SearchConfig(ratios=(0.5,), thresholds=(0.2, 0.5), seeds=1, samples=20, classifier=TINY)
    config = MixConfig(mode="search", search=search)
    hybrid = mix(config, tmp_path / "out", records=simulated_records, kept=kept)
    stage = store.read_stage(tmp_path / "out")
    table = stage["search"]
    assert [row["name"] for row in table["candidates"]] == [one.name for one in candidates(search)]
    chosen = next(row for row in table["candidates"] if row["name"] == table["chosen"])
    added = read_records(hybrid, source="synthetic", full=True)
    believed = {0.2: 7, 0.5: 5}.get(chosen["threshold"], 0)  # images per class that reach the threshold
    assert len(added) == 3 * min(round(12 * chosen["ratio"]), believed)
    assert all(r["selection"]["scores"]["conformal"] >= (chosen["threshold"] or 0) for r in added)
    assert (tmp_path / "out" / "search" / "search.png").is_file()
    before = hybrid.read_bytes()
    mix(config, tmp_path / "again", records=simulated_records, kept=kept)
    assert (tmp_path / "again" / "hybrid.jsonl").read_bytes() == before


@pytest.mark.parametrize("least, expected", [(None, 6), (0.2, 7), (0.5, 5)])
def test_another_threshold_brings_back_what_was_dropped_but_no_copies(
    tmp_path: Path, simulated_records: Path, kept: Path, least: float | None, expected: int
) -> None:
    hybrid = mix(MixConfig(mode="all", min_score=least), tmp_path / "o", records=simulated_records, kept=kept)
    assert len(read_records(hybrid, source="synthetic")) == 3 * expected


def test_a_score_that_was_not_used(tmp_path: Path, simulated_records: Path, kept: Path) -> None:
    with pytest.raises(RecordsError, match="has no score 'knn'; add the rule to select#rules#use"):
        mix(MixConfig(min_score=0.1, rule="knn"), tmp_path / "o", records=simulated_records, kept=kept)


def test_val_of_one_class_cannot_choose(tmp_path: Path, simulated_records: Path, kept: Path) -> None:
    rows = [r for r in read_records(simulated_records, full=True) if r["split"] != "val" or r["label"] == 0]
    write_records(tmp_path / "records.jsonl", rows)
    (tmp_path / "stage.json").write_text((simulated_records.parent / "stage.json").read_text())
    with pytest.raises(RecordsError, match="of fewer than two classes, expected more to search on"):
        mix(MixConfig(mode="search"), tmp_path / "out", records=tmp_path / "records.jsonl", kept=kept)
