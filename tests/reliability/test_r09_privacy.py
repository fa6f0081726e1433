"""R9: 40 canaries in tags, private tags, overlays and pixels: 0 hits in what reader, index and writer put out."""

import csv
import dataclasses
import io
import json
import logging
import os
import stat
from pathlib import Path

import numpy as np
import pydicom
import pytest
import raw_dicom as raw
from PIL import Image
from pydicom.dataset import Dataset

from meddap_monai.core.records import read_records
from meddap_monai.errors import ConfigurationError, RecordsError, UnreadableImage
from meddap_monai.images.indexing.config import IndexConfig
from meddap_monai.images.indexing.stage import index
from meddap_monai.images.reading.dicom import read_ultrasound
from meddap_monai.images.reading.pseudonym import load_key, pseudonym
from meddap_monai.images.writing.write import write_synthetic_dicom, write_synthetic_png
from meddap_monai.phantom.simulation import AREA, dicom_bytes, simulate_image
from meddap_monai.store import read_stage
from meddap_monai.transforms import LoadUltrasound
from tests.images.screens import SCREENS, background

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
def indexed(key: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of a marked file, of a marked file without a region, and of broken marked files."""
    folder = tmp_path_factory.mktemp("ZQCANARY_folder")
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
    config = IndexConfig(source=folder / "in", key_file=key, split="train", near_duplicates="off", guess_region=True)
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


def test_the_info_is_an_allow_list(key: Path, tmp_path: Path) -> None:
    _, data = marked_screen()
    (tmp_path / "x.dcm").write_bytes(data)
    _, info = read_ultrasound(tmp_path / "x.dcm", key=b"k" * 32)
    assert "CANARY" not in json.dumps(dataclasses.asdict(info))
    assert info.device.startswith("other-") and len(info.patient) == 16
    tensor = LoadUltrasound(key_file=key)(tmp_path / "x.dcm")
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
    with pytest.raises(UnreadableImage, match="declares no B-mode region .* it could show names"):
        read_ultrasound(tmp_path / "x.dcm", outside="crop", key=b"k" * 32)
    assert read_ultrasound(tmp_path / "x.dcm", outside="crop", full_frame=True, key=b"k" * 32)[0].shape == (
        1,
        1,
        24,
        32,
    )


def without_regions(screen: np.ndarray) -> bytes:
    """An RGB DICOM file of a screen (H, W, 3) that declares no region."""
    dataset = pydicom.dcmread(io.BytesIO(dicom_bytes(simulate_image("benign", 1)[None], "someone", "1.6")))
    del dataset.SequenceOfUltrasoundRegions
    dataset.Rows, dataset.Columns = screen.shape[:2]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    dataset.PixelData = screen.tobytes()
    stream = io.BytesIO()
    dataset.save_as(stream)
    return stream.getvalue()


@pytest.mark.parametrize("guess_region", [False, True])
def test_screens_without_a_region_give_no_name_away(guess_region: bool, key: Path, tmp_path: Path) -> None:
    """By default they are rejected; a guess is "unknown" at best, and refused where it finds text."""
    (tmp_path / "in" / "benign").mkdir(parents=True)
    named = [make()[0] for make in list(SCREENS.values())[::4]]
    clean = [np.repeat(background(seed, 1.0)[..., None], 3, -1) for seed in range(2)]
    for number, picture in enumerate([*named, *clean]):
        (tmp_path / "in" / "benign" / f"{number}.dcm").write_bytes(without_regions(picture))
    config = IndexConfig(source=tmp_path / "in", key_file=key, split="train", guess_region=guess_region, workers=0)
    if not guess_region:
        with pytest.raises(RecordsError, match=f"none of {len(named) + 2} items could be accepted"):
            index(config, tmp_path / "out")
        assert not list((tmp_path / "out" / "images").iterdir())
        return
    records = read_records(index(config, tmp_path / "out"), full=True)
    assert [record["meta"]["deidentified"] for record in records] == ["unknown"] * 2
    assert {Image.open(record["image"]).size for record in records} <= {(321, 301), (320, 300), (320, 301), (321, 300)}
    counts = read_stage(tmp_path / "out")["counts"]
    assert (counts["deidentification_unknown"], counts["not_deidentified"], counts["rejected"]) == (2, 0, len(named))


@pytest.mark.parametrize(
    ("keys", "expected"),
    [({}, None), ({"guess_region": True}, "unknown"), ({"full_frame": True}, False), ({"region": "full"}, False)],
)
@pytest.mark.parametrize("box", [(0, 0, 207, 255), (0, 0, 206, 254), (0, 0, 999, 999), (2, 2, 205, 253)])
def test_a_region_of_the_whole_screen_is_none(
    box: tuple[int, ...], keys: dict, expected: bool | str | None, key: Path, tmp_path: Path
) -> None:
    dataset = pydicom.dcmread(io.BytesIO(marked_screen(6)[1]))
    region = dataset.SequenceOfUltrasoundRegions[0]
    region.RegionLocationMinY0, region.RegionLocationMinX0 = box[:2]
    region.RegionLocationMaxY1, region.RegionLocationMaxX1 = box[2:]
    (tmp_path / "in" / "benign").mkdir(parents=True)
    dataset.save_as(tmp_path / "in" / "benign" / "x.dcm")
    config = IndexConfig(source=tmp_path / "in", key_file=key, split="train", workers=0, **keys)
    if expected is None:
        with pytest.raises(RecordsError, match="none of 1 items"):
            index(config, tmp_path / "out")
        assert "declares no B-mode region (0018,6011) that leaves out" in (tmp_path / "out" / "rejects.csv").read_text()
        return
    (record,) = read_records(index(config, tmp_path / "out"), full=True)
    assert record["meta"]["deidentified"] == expected
    assert (Image.open(record["image"]).size == (256, 208)) == (expected is False)


def test_plain_images_are_counted_as_not_deidentified(key: Path, tmp_path: Path) -> None:
    (tmp_path / "in" / "benign").mkdir(parents=True)
    for number in range(3):
        Image.fromarray(simulate_image("benign", number)).save(tmp_path / "in" / "benign" / f"{number}.png")
    path = index(IndexConfig(source=tmp_path / "in", key_file=key, split="train", workers=0), tmp_path / "o")
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


@pytest.mark.parametrize("kind", ["missing", "a folder", "short", "a folder that is not there"])
def test_a_key_that_the_environment_names_is_never_made(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "nowhere" / "key" if kind == "a folder that is not there" else tmp_path / "key"
    if kind == "a folder":
        place.mkdir()
    if kind == "short":
        place.write_bytes(b"k" * 15)
    monkeypatch.setenv("MEDDAP_KEY_FILE", str(place))
    with pytest.raises(ConfigurationError, match=f"{place}, which MEDDAP_KEY_FILE names: .* missing or too short"):
        load_key()
    assert place.exists() == (kind in ("a folder", "short"))
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    "variables",
    [
        {"HOME": None},
        {"HOME": "relative"},
        {"HOME": "/proc/nowhere"},
        {"XDG_CONFIG_HOME": "file"},
        {"XDG_CONFIG_HOME": "/proc/1"},
    ],
)
def test_where_no_key_can_be_kept_one_sentence_says_what_to_name(
    variables: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    for name in ("MEDDAP_KEY_FILE", "XDG_CONFIG_HOME", *variables):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        if value is not None:
            monkeypatch.setenv(name, value.replace("file", f"{tmp_path}/file"))
    if variables == {"HOME": None}:  # the system knows no such user
        monkeypatch.setattr(os, "getuid", lambda: 2**31 - 5)
    with pytest.raises(ConfigurationError, match="key_file or the environment variable MEDDAP_KEY_FILE"):
        load_key()
    assert not Path("meddap_monai/pseudonym.key").exists() and not Path(".config").exists()


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
