"""R8: hostile values in UIDs, patient ids, labels and prompts never write outside of the output root."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pydicom
import pytest
import raw_dicom as raw
from raw_dicom import dicom, text

from meddap_monai.core.records import pixel_hash, read_records, write_records
from meddap_monai.errors import RecordsError
from meddap_monai.images.indexing.config import IndexConfig
from meddap_monai.images.indexing.stage import index
from meddap_monai.images.writing.write import export_dicom, synthetic_dicom, write_synthetic_png

HOSTILE = [
    "../../escape",
    "/tmp/escape_absolute",
    "..\\..\\escape",
    "a/../../escape",
    "nul\0byte",
    "x" * 300,
    "\u202egnp.exe",
    "CON",
    "~root/escape",
    "$(touch escape)",
    "line\nbreak",
    ".",
]


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize("value", HOSTILE, ids=range(len(HOSTILE)))
def test_values_of_a_file(value: str, key: Path, tmp_path: Path) -> None:
    """Patient id, UIDs, institution and a label taken from an attribute."""
    data = value.encode("utf-8")
    (tmp_path / "in").mkdir()
    changes = {0x00100020: text("LO", data), 0x00080018: text("UI", data), 0x0020000D: text("UI", data)}
    for number, label in enumerate((data, b"benign")):
        pixels = ("OB", (raw.GREY // (number + 1)).tobytes())
        content = dicom({**changes, 0x00180015: text("LO", label), 0x7FE00010: pixels})
        (tmp_path / "in" / f"{number}.dcm").write_bytes(content)
    before = everything(tmp_path)
    config = IndexConfig(
        source=tmp_path / "in",
        labels="attribute",
        attribute="BodyPartExamined",
        key_file=key,
        split="train",
        full_frame=True,
        workers=0,
    )
    path = index(config, tmp_path / "out")
    new = everything(tmp_path) - before
    assert all(name == "out" or name.startswith(f"out{os.sep}") for name in new)
    for record in read_records(path, full=True):
        assert record["id"].isalnum() and Path(record["image"]).is_relative_to(tmp_path / "out" / "images")
        assert record["class_name"] in ("benign", "CON")
    assert not list(Path("/tmp").glob("escape*"))


def test_names_in_a_table_stay_inside(key: Path, tmp_path: Path) -> None:
    (tmp_path / "in" / "ok").mkdir(parents=True)
    (tmp_path / "secret.dcm").write_bytes(dicom())
    (tmp_path / "in" / "ok" / "good.dcm").write_bytes(dicom())
    names = ["ok/good.dcm", "../secret.dcm", str(tmp_path / "secret.dcm"), "ok/../../secret.dcm", "x" * 300, ""]
    os.symlink(tmp_path / "secret.dcm", tmp_path / "in" / "ok" / "link.dcm")
    with (tmp_path / "in" / "index.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["image", "label"])
        writer.writerows([name, "benign"] for name in [*names, "ok/link.dcm"])
    config = IndexConfig(source=tmp_path / "in", labels="csv", key_file=key, split="train", full_frame=True)
    path = index(config, tmp_path / "out")
    assert len(read_records(path)) == 1
    rejects = (tmp_path / "out" / "rejects.csv").read_text()
    assert rejects.count("outside of the source folder or none") == 5 and "secret" not in rejects


@pytest.mark.parametrize("value", HOSTILE, ids=range(len(HOSTILE)))
def test_prompts_runs_and_items_of_synthetic_images(value: str, tmp_path: Path) -> None:
    dataset = synthetic_dicom(raw.GREY, {"prompt": value, "seed": 1}, run=value, item=value, class_name=value)
    for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        uid = pydicom.uid.UID(dataset[name].value)
        assert uid.is_valid and uid.startswith("2.25.")
    assert len(dataset.DerivationDescription) <= 1024 and "\0" not in dataset.DerivationDescription
    assert "\u202e" not in dataset.DerivationDescription and "\n" not in dataset.DerivationDescription
    write_synthetic_png(tmp_path / "x.png", raw.GREY, {"prompt": value})
    assert everything(tmp_path) == {"x.png"}


@pytest.mark.parametrize("value", HOSTILE, ids=range(len(HOSTILE)))
def test_ids_of_records(value: str, tmp_path: Path) -> None:
    """`export_dicom` names files after ids; a record whose id is no plain name is refused, and nothing is written."""
    write_synthetic_png(tmp_path / "in" / "x.png", raw.GREY, {"prompt": ""})
    record = {
        "id": value,
        "image": "x.png",
        "label": 0,
        "class_name": "benign",
        "patient": "synthetic",
        "split": "train",
    }
    record |= {"source": "synthetic", "sha256": pixel_hash(raw.GREY), "synthetic": {"prompt": value, "seed": 0}}
    (tmp_path / "in" / "generated.jsonl").write_text(json.dumps(record) + "\n")
    before = everything(tmp_path)
    if value != "CON":  # which is a plain name here, if not on every system
        with pytest.raises(RecordsError, match="line 1: id is"):
            export_dicom(tmp_path / "in" / "generated.jsonl", tmp_path / "out")
        assert everything(tmp_path) == before
        return
    (written,) = export_dicom(tmp_path / "in" / "generated.jsonl", tmp_path / "out")
    assert everything(tmp_path) - before == {"out", f"out{os.sep}{written.name}"}
    assert np.array_equal(pydicom.dcmread(written).pixel_array, raw.GREY)


def test_nothing_to_export(tmp_path: Path) -> None:
    write_records(tmp_path / "x.jsonl", [])
    with pytest.raises(RecordsError, match="holds no synthetic image"):
        export_dicom(tmp_path / "x.jsonl", tmp_path / "out")
