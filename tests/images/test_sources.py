"""What a table says beside class and group reaches the records, and nothing else of it does."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from PIL import Image

from meddap_monai.errors import ConfigurationError
from meddap_monai.images.index import IndexConfig, index
from meddap_monai.phantom import simulate_image
from meddap_monai.records import read_records


def folder_with_table(folder: Path) -> Path:
    rows = [["image", "label", "patient", "hospital", "maker"]]
    rows += [["0.png", "a", "p0", "Algeria", ""], ["1.png", "b", "p1", "Egypt", "Voluson E8"]]
    rows += [["2.png", "b", "p2", "../../etc", ""]]
    folder.mkdir()
    for number in range(3):
        Image.fromarray(simulate_image("normal", number, size=(48, 48))).save(folder / f"{number}.png")
    with (folder / "index.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return folder


@pytest.fixture
def asked(tmp_path: Path) -> dict[str, object]:
    (tmp_path / "key").write_bytes(b"k" * 32)
    source = folder_with_table(tmp_path / "in")
    return {
        "source": source,
        "labels": "csv",
        "modality": "any",
        "split": "unseen",
        "key_file": tmp_path / "key",
        "workers": 0,
    }


def test_centre_and_device_of_a_table(asked: dict[str, object], tmp_path: Path) -> None:
    config = IndexConfig(**asked, centre_column="hospital", device_column="maker")  # type: ignore[arg-type]
    records = read_records(index(config, tmp_path / "out"), full=True)
    told = {row["class_name"]: (row["meta"]["centre"], row["meta"].get("device")) for row in records}
    assert told == {"a": ("Algeria", None), "b": ("Egypt", "Voluson E8")}
    assert "its centre is not usable" in (tmp_path / "out" / "rejects.csv").read_text()


def test_without_being_asked_nothing_of_them_is_kept(asked: dict[str, object], tmp_path: Path) -> None:
    index(IndexConfig(**asked), tmp_path / "out")  # type: ignore[arg-type]
    assert "Algeria" not in (tmp_path / "out" / "records.jsonl").read_text()


def test_a_column_that_is_not_there(asked: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="expected also 'country'"):
        index(IndexConfig(**asked, centre_column="country"), tmp_path / "out")  # type: ignore[arg-type]
