"""Records: reading, writing, drawing."""

import json
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from meddap_monai.core.records import (
    ITEM_FIELDS,
    class_names,
    draw_split,
    iter_records,
    pixel_hash,
    read_records,
    split_by_group,
    write_records,
)
from meddap_monai.errors import ConfigurationError, RecordsError
from meddap_monai.images.indexing.config import IndexConfig


def item(number: int, class_name: str = "benign", patient: str | None = None, **keys: object) -> dict:
    """A valid full record."""
    return {
        "id": f"r{number:03d}",
        "image": f"images/r{number:03d}.png",
        "label": {"benign": 0, "malignant": 1}[class_name],
        "class_name": class_name,
        "patient": patient or f"p{number}",
        "split": "train",
        "source": "real",
        "sha256": f"{number:064x}",
    } | keys


def many(per_class: int, images_per_patient: int = 1) -> list[dict]:
    return [
        item(100 * label + number, name, f"{name}-{number // images_per_patient}")
        for label, name in enumerate(("benign", "malignant"))
        for number in range(per_class)
    ]


def test_written_records_are_read_back_as_monai_items(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    write_records(path, [item(1, meta={"frame": 0}), item(2, split="val")])
    first, second = read_records(path)
    assert tuple(first) == ITEM_FIELDS
    assert first["image"] == str(tmp_path / "images/r001.png")
    assert read_records(path, split="val") == [second]
    assert read_records(path, full=True)[0]["meta"] == {"frame": 0}


def test_images_are_stored_relative_to_the_records_file(tmp_path: Path) -> None:
    write_records(tmp_path / "a" / "records.jsonl", [item(1, image=str(tmp_path / "index/images/x.png"))])
    line = json.loads((tmp_path / "a" / "records.jsonl").read_text())
    assert line["image"] == "../index/images/x.png"
    assert next(iter_records(tmp_path / "a/records.jsonl"))["image"] == str(tmp_path / "index/images/x.png")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": "0"}, r"record 1: label is '0', expected a value of type int"),
        ({"patient": ""}, r"patient is '', expected"),
        ({"split": "Test"}, r"split is 'Test', expected one of train, val, test, unseen"),
        ({"source": "synthetic", "split": "test"}, r"a synthetic image in split 'test'"),
        ({"source": "synthetic"}, r"without its 'synthetic' field"),
        ({"label": -1}, r"label is -1, expected a value of type int from 0 to 9999"),
        ({"label": 10**400}, r"label is a number of over 150 digits, expected"),
        ({"label": True}, r"label is True, expected a value of type int"),
        ({"id": "../evil"}, r"id is '../evil', expected"),
        ({"image": "a\0b"}, r"image is 'a.x00b', expected"),
        ({"sha256": "A" * 64}, r"expected a value of type str of 64 hexadecimal digits"),
        ({"meta": []}, r"meta is \[\], expected a JSON object"),
    ],
)
def test_a_broken_record_is_named_and_nothing_is_written(tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(RecordsError, match=message):
        write_records(tmp_path / "records.jsonl", [item(1) | change])
    assert list(tmp_path.iterdir()) == []


def test_an_id_occurs_once(tmp_path: Path) -> None:
    with pytest.raises(RecordsError, match="'r001' occurs twice"):
        write_records(tmp_path / "records.jsonl", [item(1), item(1)])


def _lines(*records: dict) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


BROKEN_FILES = {
    "no JSON": (b"{\n", "line 1: not JSON"),
    "a list": (b"[]\n", "line 1: got list"),
    "Latin-1": (_lines(item(1)).encode() + b'{"id": "\xe9"}\n', "line 2: not UTF-8 text"),
    "UTF-16": (_lines(item(1)).encode("utf-16"), "line 1: not UTF-8 text"),
    "binary": (b"\x89PNG\r\n\x1a\n" + bytes(100), "line 1: not UTF-8 text"),
    "surrogate": (_lines(item(1, patient="\ud800")).encode(), "line 1: holds half a character"),
    "deep": (_lines(item(1)).encode() + b"[" * 10_000 + b"]" * 10_000, "line 2: more than 64 nested levels"),
    "one huge line": (b" " * (2**20 + 2), "a line of more than"),
    "id twice": (_lines(item(1), item(1)).encode(), "line 2: the id 'r001' occurs twice"),
    "two names": (_lines(item(1), item(2, class_name="malignant", label=0)).encode(), "line 2: label 0 and class_name"),
    "two labels": (_lines(item(1), item(2, label=1)).encode(), "line 2: label 1 and class_name 'benign' disagree"),
    "two splits": (
        _lines(item(1, patient="p"), item(2, patient="p", split="test")).encode(),
        "line 2: patient or group 'p' stands in the splits train and test",
    ),
}


@pytest.mark.parametrize("name", BROKEN_FILES)
def test_a_broken_file_is_one_error_with_file_and_line(tmp_path: Path, name: str) -> None:
    data, message = BROKEN_FILES[name]
    path = tmp_path / "records.jsonl"
    path.write_bytes(data)
    for read in (read_records, lambda given: list(iter_records(given))):
        with pytest.raises(RecordsError, match=message) as found:
            read(path)
        assert str(found.value).startswith(str(path)) and len(str(found.value)) < 1000


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            item(1, label=7, class_name="benign"),
            "label is 7, expected 0 to 1: the stage.json beside it has the classes",
        ),
        (item(1, label=1, class_name="benign"), "label 1 and class_name 'benign' disagree"),
        (item(1) | {"class_name": "cyst"}, "label 0 and class_name 'cyst' disagree"),
    ],
)
def test_labels_are_those_of_the_stage(tmp_path: Path, record: dict, message: str) -> None:
    (tmp_path / "stage.json").write_text(json.dumps({"classes": ["benign", "malignant"]}))
    (tmp_path / "records.jsonl").write_text(_lines(record))
    with pytest.raises(RecordsError, match=message):
        read_records(tmp_path / "records.jsonl")


def test_what_could_not_be_read_back_is_not_written(tmp_path: Path) -> None:
    for wrong in ([item(1), item(2, label=1)], [item(1, patient="p"), item(2, patient="p", split="val")]):
        with pytest.raises(RecordsError, match=r"record 2: .*"):
            write_records(tmp_path / "records.jsonl", wrong)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(RecordsError, match="give the records file of a stage"):
        read_records(tmp_path / "none.jsonl")


@pytest.mark.parametrize("linked", ["images", "images/r002.png"])
def test_an_image_behind_a_link_out_of_the_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linked: str
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "set").mkdir()
    if linked != "images":
        (tmp_path / "set" / "images").mkdir()
    for number in (1, 2):
        (tmp_path / "elsewhere" / f"r{number:03d}.png").write_bytes(b"any")
    (tmp_path / "set" / linked).symlink_to(tmp_path / "elsewhere" / linked.removeprefix("images").strip("/"))
    write_records(tmp_path / "set" / "records.jsonl", [item(1), item(2)])
    line = 1 if linked == "images" else 2
    with pytest.raises(RecordsError, match=f"line {line}: .*leaves the folder of its records.*MEDDAP_ALLOW_LINKS=1"):
        read_records(tmp_path / "set" / "records.jsonl")
    monkeypatch.setenv("MEDDAP_ALLOW_LINKS", "1")
    assert len(read_records(tmp_path / "set" / "records.jsonl")) == 2


def test_links_that_stay_and_images_beside_the_folder_are_read(tmp_path: Path) -> None:
    (tmp_path / "set" / "kept").mkdir(parents=True)
    (tmp_path / "set" / "images").symlink_to("kept")
    (tmp_path / "link").symlink_to(tmp_path / "set")
    write_records(tmp_path / "set" / "records.jsonl", [item(1), item(2, image="../other/images/x.png")])
    assert len(read_records(tmp_path / "link" / "records.jsonl")) == 2


def test_class_names_come_from_the_stage(simulated_records: Path) -> None:
    assert class_names(simulated_records) == ["benign", "malignant", "normal"]


def test_pixel_hash_knows_shape_and_values() -> None:
    zeros = np.zeros((2, 3), np.uint8)
    assert pixel_hash(zeros) == pixel_hash(np.zeros((2, 3), np.uint8))
    assert pixel_hash(zeros) != pixel_hash(zeros.T)


@pytest.mark.parametrize("images_per_patient", [1, 2, 3])
def test_a_draw_has_exact_counts_and_never_cuts_a_group(images_per_patient: int) -> None:
    drawn = draw_split(many(40, images_per_patient), 10, 5, seed=0)
    counts = Counter((record["split"], record["class_name"]) for record in drawn)
    assert counts["train", "benign"] == counts["train", "malignant"] == 10
    assert counts["val", "benign"] == counts["val", "malignant"] == 5
    splits = defaultdict(set)
    for record in drawn:
        splits[record["patient"]].add(record["split"])
    assert all(len(found) == 1 for found in splits.values())


def test_a_draw_depends_on_the_seed_only() -> None:
    records = many(40)
    assert draw_split(records, 10, 5, seed=1) == draw_split(records[::-1], 10, 5, seed=1)
    assert draw_split(records, 10, 5, seed=1) != draw_split(records, 10, 5, seed=2)


def test_images_that_a_base_has_seen_only_train() -> None:
    records = many(40, 2)
    seen = frozenset(record["sha256"] for record in records if int(record["id"][1:]) % 100 < 8)
    drawn = draw_split(records, 10, 5, seed=3, seen=seen)
    assert {record["split"] for record in drawn if record["sha256"] in seen} == {"train"}


def test_a_class_with_too_few_groups_is_an_error() -> None:
    records = [item(n, "benign") for n in range(20)] + [item(100 + n, "malignant", "one-patient") for n in range(20)]
    with pytest.raises(RecordsError, match="class 'malignant': 0 images in separate groups for val, expected 5"):
        draw_split(records, 10, 5, seed=0)
    with pytest.raises(RecordsError, match="class 'malignant': 1 patient"):
        split_by_group(records, {"train": 0.6, "val": 0.2, "test": 0.2}, seed=0)


def test_a_split_keeps_groups_whole_and_shares_close() -> None:
    records = split_by_group(many(60, 3), {"train": 0.6, "val": 0.2, "test": 0.2}, seed=0)
    counts = Counter((record["split"], record["class_name"]) for record in records)
    assert counts == {(s, c): n for s, n in (("train", 36), ("val", 12), ("test", 12)) for c in ("benign", "malignant")}
    splits = defaultdict(set)
    for record in records:
        splits[record["patient"]].add(record["split"])
    assert all(len(found) == 1 for found in splits.values())


@pytest.mark.parametrize("shares", [{"train": 2.0, "test": -1.0}, {"train": float("nan"), "test": 1.0}, {"train": 0.5}])
def test_shares_are_shares(shares: dict[str, float]) -> None:
    with pytest.raises(RecordsError, match="expected numbers from 0 to 1 that sum to 1"):
        split_by_group(many(10), shares, seed=0)
    with pytest.raises(ConfigurationError, match=r"index#fractions"):
        IndexConfig(source=Path("x"), fractions=shares)
