"""R9: 40 canaries in tags, private tags, overlays and pixels: 0 hits in what reader, index and writer put out."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import logging
import stat
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset

sys.path.insert(0, str(Path(__file__).parent))

import raw_dicom as raw

from meddap_monai.errors import ConfigurationError, UnreadableImage
from meddap_monai.images.dicom import read_ultrasound
from meddap_monai.images.index import IndexConfig, index
from meddap_monai.images.pseudonym import load_key, pseudonym
from meddap_monai.images.write import write_synthetic_dicom, write_synthetic_png
from meddap_monai.phantom import AREA, dicom_bytes, simulate_image
from meddap_monai.records import read_records
from meddap_monai.store import read_stage
from meddap_monai.transforms import LoadUltrasound

KEYWORDS = (
    "PatientName",
    "PatientID",
    "OtherPatientNames",
    "PatientAddress",
    "PatientTelephoneNumbers",
    "PatientComments",
    "EthnicGroup",
    "Occupation",
    "AdditionalPatientHistory",
    "MedicalRecordLocator",
    "InstitutionName",
    "InstitutionAddress",
    "InstitutionalDepartmentName",
    "ReferringPhysicianName",
    "PerformingPhysicianName",
    "OperatorsName",
    "StudyDescription",
    "SeriesDescription",
    "StudyID",
    "AccessionNumber",
    "StationName",
    "DeviceSerialNumber",
    "ProtocolName",
    "ImageComments",
    "RequestedProcedureDescription",
    "RequestingPhysician",
    "PhysiciansOfRecord",
    "DerivationDescription",
    "SoftwareVersions",
    "ManufacturerModelName",
    "Manufacturer",
    "PatientMotherBirthName",
)
TAG_CANARIES = {keyword: f"ZQCANARY{number:02d}" for number, keyword in enumerate(KEYWORDS)}
OTHER_CANARIES = [f"ZQCANARY{number}" for number in range(32, 40)]


def marked_screen(seed: int = 5) -> tuple[np.ndarray, bytes]:
    """A phantom file full of canaries; one of them is burned in outside of the region."""
    image = simulate_image("benign", seed)
    dataset = pydicom.dcmread(io.BytesIO(dicom_bytes(image[None], OTHER_CANARIES[0], "1.5")))
    for keyword, canary in TAG_CANARIES.items():
        setattr(dataset, keyword, canary)
    block = dataset.private_block(0x0029, OTHER_CANARIES[1], create=True)
    block.add_new(0x01, "LO", OTHER_CANARIES[2])
    block.add_new(0x02, "OB", OTHER_CANARIES[3].encode())
    nested = Dataset()
    nested.PatientComments = OTHER_CANARIES[4]
    dataset.RequestAttributesSequence = [nested]
    dataset.SequenceOfUltrasoundRegions[0].add_new(0x00290010, "LO", OTHER_CANARIES[5])
    dataset.add_new(0x60000022, "LO", OTHER_CANARIES[6])
    dataset.add_new(0x60003000, "OW", OTHER_CANARIES[7].encode())
    stream = io.BytesIO()
    dataset.save_as(stream)
    return image, stream.getvalue()


def canaries() -> list[bytes]:
    return [b"ZQCANARY", b"CANARY", "ZQCANARY".encode("utf-16-le")]


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of a marked file, of a marked file without a region, and of broken marked files."""
    folder = tmp_path_factory.mktemp("ZQCANARY_folder")
    (folder / "key").write_bytes(b"k" * 32)
    _, data = marked_screen()
    place = folder / "in" / "benign" / "ZQCANARY_patient"
    place.mkdir(parents=True)
    (place / "ZQCANARY.dcm").write_bytes(data)
    (place / "cut.dcm").write_bytes(data[: len(data) // 2])
    whole = pydicom.dcmread(io.BytesIO(marked_screen(6)[1]))
    del whole.SequenceOfUltrasoundRegions
    whole.save_as(place / "tight.dcm")
    whole.PixelData = bytes(whole.Rows * whole.Columns)
    whole.save_as(place / "black.dcm")
    for tag in (0x00280010, 0x00280004, 0x00281053, 0x00280008):
        (place / f"bad{tag:08x}.dcm").write_bytes(raw.dicom({tag: raw.text("LO", "ZQCANARY")}))
    config = IndexConfig(source=folder / "in", key_file=folder / "key", split="train", near_duplicates="off")
    return index(config, folder / "out")


def test_there_are_forty() -> None:
    assert len(TAG_CANARIES) + len(OTHER_CANARIES) == 40
    _, data = marked_screen()
    assert all(canary.encode() in data for canary in [*TAG_CANARIES.values(), *OTHER_CANARIES[1:]])


def test_no_output_file_holds_one(indexed: Path) -> None:
    """Everything below the output folder, but for the private folder, which nobody else may read."""
    private = indexed.parent / "private"
    assert len(read_records(indexed)) == 2
    for path in indexed.parent.rglob("*"):
        if path.is_file() and not path.is_relative_to(private):
            data = path.read_bytes()
            assert not any(canary in data for canary in canaries()), path.name
            assert not any(canary.decode("latin1") in path.name for canary in canaries())


def test_source_paths_are_for_the_owner_only(indexed: Path) -> None:
    private = indexed.parent / "private"
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in private.iterdir())
    with (private / "sources.csv").open() as stream:
        sources = {row["item"]: row["source"] for row in csv.DictReader(stream)}
    for record in read_records(indexed):
        assert "ZQCANARY" in sources[record["id"]], "this is the one place that knows where an image came from"


def test_rejects_say_why_without_values(indexed: Path) -> None:
    text = (indexed.parent / "rejects.csv").read_text()
    assert text.count("\n") == 1 + 6
    for words in ("truncated", "no B-mode region", "Rows (0028,0010)", "PhotometricInterpretation", "RescaleSlope"):
        assert words in text


def test_pixels_outside_of_the_region_are_gone(indexed: Path) -> None:
    """By the declared region exactly; by the tight box without one pixel of the text."""
    declared, tight = marked_screen(5)[0], marked_screen(6)[0]
    found = [np.asarray(Image.open(record["image"])) for record in read_records(indexed)]
    assert any(np.array_equal(picture, declared) for picture in found)
    framed = np.pad(tight, 12)

    def within(picture: np.ndarray) -> bool:
        """Whether every pixel that is not black is the phantom's own, at some small shift."""
        rows, columns = picture.shape
        for row in range(153 - rows):
            for column in range(153 - columns):
                under = framed[row : row + rows, column : column + columns]
                if (under == picture)[picture > 0].all():
                    return bool((picture > 0).mean() > 0.9)
        return False

    assert any(within(picture) for picture in found)


def test_the_info_is_an_allow_list(tmp_path: Path) -> None:
    _, data = marked_screen()
    (tmp_path / "x.dcm").write_bytes(data)
    _, info = read_ultrasound(tmp_path / "x.dcm", key=b"k" * 32)
    assert "CANARY" not in json.dumps(dataclasses.asdict(info))
    assert info.device.startswith("other-") and len(info.patient) == 16
    (tmp_path / "key").write_bytes(b"k" * 32)
    tensor = LoadUltrasound(key_file=tmp_path / "key")(tmp_path / "x.dcm")
    assert "CANARY" not in str({name: value for name, value in tensor.meta.items() if name != "filename_or_obj"})


@pytest.mark.parametrize("outside", ["zero", "crop"])
def test_zero_and_crop_leave_nothing_outside(outside: str, tmp_path: Path) -> None:
    image, data = marked_screen()
    (tmp_path / "x.dcm").write_bytes(data)
    pixels, info = read_ultrasound(tmp_path / "x.dcm", outside=outside, key=b"k" * 32)
    assert pixels.sum() == image.sum()
    if outside == "zero":
        assert np.array_equal(pixels[0, 0, AREA[0] : AREA[0] + 128, AREA[1] : AREA[1] + 128], image)


def test_no_region_and_no_tight_box_needs_a_decision(tmp_path: Path) -> None:
    (tmp_path / "x.dcm").write_bytes(raw.dicom())
    with pytest.raises(UnreadableImage, match="no B-mode region .* it could show names"):
        read_ultrasound(tmp_path / "x.dcm", outside="crop", key=b"k" * 32)
    assert read_ultrasound(tmp_path / "x.dcm", outside="crop", full_frame=True, key=b"k" * 32)[0].shape == (
        1,
        1,
        24,
        32,
    )


def test_plain_images_are_counted_as_not_deidentified(tmp_path: Path) -> None:
    (tmp_path / "in" / "benign").mkdir(parents=True)
    (tmp_path / "key").write_bytes(b"k" * 32)
    for number in range(3):
        Image.fromarray(simulate_image("benign", number)).save(tmp_path / "in" / "benign" / f"{number}.png")
    path = index(
        IndexConfig(source=tmp_path / "in", key_file=tmp_path / "key", split="train", workers=0), tmp_path / "o"
    )
    assert read_stage(path.parent)["counts"]["not_deidentified"] == 3
    assert [record["meta"]["deidentified"] for record in read_records(path, full=True)] == [False] * 3


def test_logs_and_messages_hold_none(tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd) -> None:
    caplog.set_level(logging.DEBUG)
    _, data = marked_screen()
    for number, cut in enumerate((300, 900, 1500, len(data) - 5)):
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(data[:cut])
        with pytest.raises(UnreadableImage) as caught:
            read_ultrasound(path, key=b"k" * 32)
        assert "CANARY" not in str(caught.value)
    out, err = capfd.readouterr()
    assert "CANARY" not in caplog.text + out + err


def test_pseudonyms_are_keyed(tmp_path: Path) -> None:
    assert pseudonym("a", b"k" * 32) == pseudonym(" a ", b"k" * 32) != pseudonym("a", b"l" * 32)
    assert pseudonym("a", b"k" * 32, "patient") != pseudonym("a", b"k" * 32, "centre")
    with pytest.raises(ConfigurationError, match="missing or too short, expected at least 16"):
        load_key(tmp_path / "none")


def test_the_default_key_is_made_once_for_its_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEDDAP_KEY_FILE", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    first = load_key()
    (place,) = (tmp_path / "config").rglob("*.key")
    assert len(first) == 32 and load_key() == first and stat.S_IMODE(place.stat().st_mode) == 0o600


def test_a_synthetic_file_carries_nothing_of_its_source(tmp_path: Path) -> None:
    synthetic = {"prompt": "an ultrasound photo", "seed": 1, "source_id": "abc"}
    write_synthetic_dicom(tmp_path / "x.dcm", raw.GREY, synthetic, run="r", item="i")
    write_synthetic_png(tmp_path / "x.png", raw.GREY, synthetic)
    dataset = pydicom.dcmread(tmp_path / "x.dcm")
    assert dataset.PatientID.startswith("SYNTHETIC") and not dataset.get("InstitutionName")
    assert not dataset.get("PatientBirthDate") and not dataset.get("ReferringPhysicianName")
