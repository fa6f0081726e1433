"""R7: three patients, equal names, duplicate UIDs, another modality, mixed sizes: nothing merged, nobody split."""

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from meddap_monai.core.records import read_records
from meddap_monai.images.indexing.config import IndexConfig
from meddap_monai.images.indexing.stage import index
from meddap_monai.phantom.simulation import dicom_bytes, simulate_image
from meddap_monai.store import read_stage

SIZES = [(96, 96), (128, 128), (64, 100)]


def put(path: Path, image: np.ndarray, patient: str, number: str, **keys) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(dicom_bytes(image[None], patient, number, **keys))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixed")
    for patient in range(3):
        for class_number, name in enumerate(("benign", "malignant")):
            for image in range(3):
                pixels = simulate_image(name, 100 * patient + 10 * class_number + image, size=SIZES[image])
                # equal file names in every folder, and one UID for all of them
                put(folder / name / f"p{patient}" / f"IM{image}", pixels, f"patient {patient}", "1.1")
    first = simulate_image("benign", 0, size=SIZES[0])
    put(folder / "benign" / "p1" / "copy.dcm", first, "patient 1", "1.2")
    put(folder / "benign" / "p0" / "xray.dcm", first, "patient 0", "1.3", modality="DX")
    near = np.clip(simulate_image("malignant", 12, size=SIZES[2]).astype(int) + 3, 0, 255).astype(np.uint8)
    put(folder / "malignant" / "p2" / "near.dcm", near, "patient 2", "1.4")
    for name in ("benign", "malignant"):  # more patients, so that there is something to split
        for patient in range(3, 9):
            put(folder / name / f"p{patient}" / "IM0", simulate_image(name, 900 + patient), f"patient {patient}", "1.1")
    return folder


@pytest.fixture(scope="module")
def records(source: Path, key: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index")
    return index(IndexConfig(source=source, key_file=key, workers=2), folder / "out")


def test_no_image_is_merged_or_lost(records: Path) -> None:
    found = read_records(records, full=True)
    assert len(found) == 18 + 1 + 12, "18 stills, the near-duplicate, 12 more; copy and X-ray are out"
    sizes = {Image.open(record["image"]).size for record in found}
    assert sizes == {(96, 96), (128, 128), (100, 64)}
    assert len({record["sha256"] for record in found}) == len(found)


def test_no_patient_is_in_two_splits(records: Path) -> None:
    splits = defaultdict(set)
    for record in read_records(records):
        splits[record["patient"]].add(record["split"])
    assert all(len(found) == 1 for found in splits.values())
    assert {"train", "val", "test"} == set().union(*splits.values())


def test_duplicates_are_listed_and_their_patients_stay_together(records: Path) -> None:
    with (records.parent / "rejects.csv").open() as stream:
        reasons = [row["reason"] for row in csv.DictReader(stream)]
    assert sum(reason.startswith("exact duplicate of") for reason in reasons) == 1
    assert sum("not US" in reason for reason in reasons) == 1 and len(reasons) == 2
    counts = read_stage(records.parent)["counts"]
    assert counts["exact_duplicates"] == 1 and counts["near_duplicate_pairs"] == 1
    patients = {record["patient"] for record in read_records(records)}
    assert len(patients) == 9 - 1 - 1, "a copy joins patients 0 and 1, a near-duplicate joins 0 and 2"


def test_a_copy_under_another_class_takes_both_out(key: Path, tmp_path: Path) -> None:
    for patient in range(3):
        for name in ("benign", "malignant"):
            put(
                tmp_path / "in" / name / f"{patient}",
                simulate_image(name, patient),
                f"{name} {patient}",
                f"1.{patient}",
            )
    put(tmp_path / "in" / "malignant" / "torn", simulate_image("benign", 0), "someone", "1.9")
    path = index(IndexConfig(source=tmp_path / "in", key_file=key, split="train", workers=0), tmp_path / "o")
    assert len(read_records(path)) == 5
    assert (path.parent / "rejects.csv").read_text().count("under several classes") == 2


def test_uids_decide_nothing(source: Path) -> None:
    """The material does hold duplicate UIDs."""
    uids = [pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID for path in source.rglob("IM*")]
    assert len(set(uids)) == 1
