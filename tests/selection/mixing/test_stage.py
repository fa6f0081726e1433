"""How many synthetic images join the real ones, and the arms of a study."""

from collections import Counter
from pathlib import Path

import pytest

from meddap_monai import store
from meddap_monai.core.records import read_records
from meddap_monai.errors import ConfigurationError, RecordsError
from meddap_monai.selection.mixing.config import MixConfig
from meddap_monai.selection.mixing.stage import duplicate, mix
from tests.record_material import write_like
from tests.selection.synthetic import CLASSES, write_generated


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pairs = [(name, name) for name, count in zip(CLASSES, (30, 20, 8), strict=True) for _ in range(count)]
    return write_generated(tmp_path_factory.mktemp("kept") / "out", pairs)


def per_class(records: list[dict], split: str = "train", source: str = "synthetic") -> list[int]:
    counts = Counter(r["class_name"] for r in records if r["split"] == split and r["source"] == source)
    return [counts[name] for name in CLASSES]


@pytest.mark.parametrize(
    "changes, synthetic, real_train",
    [
        ({"ratio": 0.5}, [6, 6, 6], 12),
        ({"ratio": 1.0}, [12, 12, 8], 12),
        ({"ratio": 2.0, "classes": ("malignant",)}, [0, 20, 0], 12),
        ({"mode": "double", "classes": ("benign", "normal")}, [12, 0, 8], 12),
        ({"mode": "all"}, [30, 20, 8], 12),
        ({"mode": "balance"}, [0, 0, 0], 12),
        ({"arm": "real"}, [0, 0, 0], 12),
        ({"arm": "synthetic"}, [12, 12, 8], 0),
        ({"arm": "shuffled"}, [12, 12, 8], 12),
    ],
)
def test_counts(
    tmp_path: Path, simulated_records: Path, kept: Path, changes: dict, synthetic: list[int], real_train: int
) -> None:
    records = read_records(mix(MixConfig(**changes), tmp_path / "out", records=simulated_records, kept=kept))
    assert per_class(records) == synthetic
    assert per_class(records, source="real") == [real_train] * 3
    assert per_class(records, "val", "real") == [4] * 3 and per_class(records, "test", "real") == [8] * 3
    assert store.read_stage(tmp_path / "out")["classes"] == CLASSES


def test_balance_fills_up_to_the_largest_class(tmp_path: Path, make_records, kept: Path) -> None:
    source = make_records({"train": 6, "val": 2})
    records = [r for r in read_records(source, full=True) if r["id"] not in ("train-normal-000", "train-benign-001")]
    fewer = write_like(source, tmp_path, records)
    mixed = read_records(mix(MixConfig(mode="balance"), tmp_path / "o", records=fewer, kept=kept))
    assert per_class(mixed) == [1, 0, 1]


def test_duplicated_has_the_count_of_mixed_and_only_real_images(
    tmp_path: Path, simulated_records: Path, kept: Path
) -> None:
    mixed = read_records(mix(MixConfig(ratio=1.5), tmp_path / "a", records=simulated_records, kept=kept))
    doubled = read_records(
        mix(MixConfig(ratio=1.5, arm="duplicated"), tmp_path / "b", records=simulated_records, kept=kept)
    )
    assert len(doubled) == len(mixed) and {r["source"] for r in doubled} == {"real"}
    used = Counter(r["image"] for r in doubled if r["split"] == "train" and r["class_name"] == "benign")
    assert max(used.values()) - min(used.values()) <= 1 and sum(used.values()) == 12 + 18


def test_shuffled_labels_keep_counts_and_lose_information(tmp_path: Path, simulated_records: Path, kept: Path) -> None:
    right = {r["id"]: r for r in read_records(kept)}
    records = read_records(
        mix(MixConfig(mode="all", arm="shuffled"), tmp_path / "a", records=simulated_records, kept=kept),
        source="synthetic",
    )
    assert sum(r["class_name"] != right[r["id"]]["class_name"] for r in records) > 20
    assert all(CLASSES[r["label"]] == r["class_name"] for r in records)


@pytest.mark.parametrize("order", ["random", "best"])
def test_more_contains_less(tmp_path: Path, simulated_records: Path, kept: Path, order: str) -> None:
    sets = []
    for ratio in (0.25, 0.5, 1.0):
        config = MixConfig(ratio=ratio, order=order)
        found = read_records(
            mix(config, tmp_path / f"{ratio}", records=simulated_records, kept=kept), source="synthetic"
        )
        sets.append({r["id"] for r in found})
    assert sets[0] < sets[1] < sets[2]


@pytest.mark.parametrize(
    "changes, error, text",
    [
        ({"short": "error", "ratio": 2.0}, RecordsError, "class 'malignant': 20 kept synthetic images, 24 wanted"),
        ({"classes": ("beningn",)}, ConfigurationError, "unknown class 'beningn'"),
    ],
)
def test_errors(tmp_path: Path, simulated_records: Path, kept: Path, changes: dict, error: type, text: str) -> None:
    with pytest.raises(error, match=text):
        mix(MixConfig(**changes), tmp_path / "out", records=simulated_records, kept=kept)


def test_an_arm_that_needs_synthetic_images_says_so(tmp_path: Path, simulated_records: Path) -> None:
    with pytest.raises(RecordsError, match="arm 'mixed' needs synthetic images"):
        mix(MixConfig(), tmp_path / "out", records=simulated_records)


def test_a_class_without_a_real_training_image_cannot_be_repeated() -> None:
    with pytest.raises(RecordsError, match="class 'benign': no real training image to repeat"):
        duplicate([], Counter(benign=2))
