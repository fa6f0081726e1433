"""R10: every synthetic image says so in its PNG text, its DICOM and its NIfTI, and never becomes a real record."""

import io
import json
import shutil
import subprocess
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from monai.data import MetaTensor
from monai.transforms import LoadImage, SaveImage, SaveImaged
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from meddap_monai.core.records import pixel_hash, write_records
from meddap_monai.errors import ConfigurationError, RecordsError
from meddap_monai.images.indexing.config import IndexConfig
from meddap_monai.images.indexing.stage import index
from meddap_monai.images.reading.dicom import read_ultrasound
from meddap_monai.images.reading.marks import DERIVED, NOTICE
from meddap_monai.images.reading.plain import is_marked_synthetic
from meddap_monai.images.writing.write import (
    COMPRESSIONS,
    export_dicom,
    write_synthetic_dicom,
    write_synthetic_nifti,
    write_synthetic_png,
)
from meddap_monai.images.writing.writer import SyntheticDicomWriter, register
from meddap_monai.phantom.simulation import simulate_image

GREY = simulate_image("malignant", 3, size=(64, 80))
COLOUR = np.stack([GREY, GREY // 2, 255 - GREY])
MADE = {
    "prompt": "an ultrasound photo of malignant tumor in breast",
    "seed": 7,
    "base": "b" * 64,
    "adapters": ["a" * 64],
}


def check_marks(dataset: pydicom.Dataset) -> None:
    assert dataset.SyntheticData == "YES"
    assert dataset.ImageType[:2] == ["DERIVED", "SECONDARY"]
    for words in ("Synthetic image", "seed: 7", "b" * 64, "a" * 64, "malignant tumor"):
        assert words in dataset.DerivationDescription
    purposes = [item.PurposeOfReferenceCodeSequence[0].CodeValue for item in dataset.ContributingEquipmentSequence]
    assert "109100" in purposes
    assert dataset.ConversionType == "SYN" and dataset.BurnedInAnnotation == "NO"
    assert all(dataset[name].value.startswith("2.25.") for name in ("StudyInstanceUID", "SOPInstanceUID"))


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("pixels", [GREY, COLOUR], ids=["grey", "colour"])
def test_dicom(pixels: np.ndarray, compression: str, tmp_path: Path) -> None:
    path = tmp_path / "x.dcm"
    write_synthetic_dicom(path, pixels, MADE, run="run", item="1", compression=compression, spacing_mm=(0.1, 0.2))
    dataset = pydicom.dcmread(path)
    check_marks(dataset)
    assert dataset.file_meta.TransferSyntaxUID == COMPRESSIONS[compression]
    read, info = read_ultrasound(path, key=b"k" * 32)
    assert np.array_equal(read[0], pixels if pixels.ndim == 3 else pixels[None])
    assert info.synthetic and info.spacing_mm == (0.1, 0.2)


def test_uids_are_new_per_item_and_stable(tmp_path: Path) -> None:
    for name, run, item in (("a", "r", "1"), ("b", "r", "1"), ("c", "r", "2"), ("d", "s", "1")):
        write_synthetic_dicom(tmp_path / name, GREY, MADE, run=run, item=item)
    a, b, c, d = (pydicom.dcmread(tmp_path / name) for name in "abcd")
    assert a.SOPInstanceUID == b.SOPInstanceUID != c.SOPInstanceUID
    assert a.SeriesInstanceUID == c.SeriesInstanceUID != d.SeriesInstanceUID
    assert a.StudyInstanceUID != d.StudyInstanceUID


def test_png_and_nifti(tmp_path: Path) -> None:
    write_synthetic_png(tmp_path / "x.png", GREY, MADE)
    with Image.open(tmp_path / "x.png") as image:
        assert image.text["SyntheticData"] == "YES" and json.loads(image.text["meddap-monai"]) == MADE
        assert np.array_equal(np.asarray(image), GREY)
    write_synthetic_nifti(tmp_path / "x.nii.gz", GREY, MADE, spacing_mm=(0.1, 0.2))
    nifti = nibabel.load(tmp_path / "x.nii.gz")
    assert b"SYNTHETIC" in nifti.header["descrip"].item()
    assert json.loads(nifti.header.extensions[0].get_content())["SyntheticData"] == "YES"
    assert np.array_equal(np.asarray(nifti.dataobj)[..., 0].T, GREY), "axis 0 is x"
    assert nifti.header.get_zooms()[:2] == pytest.approx((0.2, 0.1))
    assert is_marked_synthetic(tmp_path / "x.png")


@pytest.mark.parametrize(
    ("made", "derived"),
    [
        (MADE, False),
        (MADE | {"mode": "text"}, False),
        (MADE | {"mode": "image"}, True),
        (MADE | {"mode": "inpaint"}, True),
        (MADE | {"mode": "text", "derived": True}, True),
    ],
)
def test_an_image_from_a_patients_image_never_claims_to_show_no_patient(
    made: dict, derived: bool, tmp_path: Path
) -> None:
    write_synthetic_dicom(tmp_path / "x.dcm", GREY, made, run="r", item="1", class_name="benign")
    write_synthetic_png(tmp_path / "x.png", GREY, made)
    write_synthetic_nifti(tmp_path / "x.nii", GREY, made)
    dataset = pydicom.dcmread(tmp_path / "x.dcm")
    nifti = nibabel.load(tmp_path / "x.nii")
    with Image.open(tmp_path / "x.png") as image:
        said = image.text["Description"]
    assert said == (DERIVED if derived else NOTICE)
    assert dataset.DerivationDescription.startswith(said)
    assert dataset.ContributingEquipmentSequence[0].ContributionDescription == said
    assert json.loads(nifti.header.extensions[0].get_content())["notice"] == said
    comments = "SYNTHETIC derived from a patient's image, benign" if derived else "SYNTHETIC benign"
    assert dataset.ImageComments == comments
    assert ("BurnedInAnnotation" in dataset) is not derived, "what is burned into a patient's image may be left"
    assert (b"no patient" in nifti.header["descrip"].item()) is not derived
    assert ("shows no patient" in said) is not derived


@pytest.mark.parametrize("kind", ["dcm", "png", "nii", "nii.gz"])
def test_a_marked_image_is_never_indexed_as_real(kind: str, key: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in" / "benign"
    folder.mkdir(parents=True)
    if kind == "dcm":
        write_synthetic_dicom(folder / "x.dcm", GREY, MADE, run="r", item="1")
    elif kind == "png":
        write_synthetic_png(folder / "x.png", GREY, MADE)
    else:
        write_synthetic_nifti(folder / f"x.{kind}", GREY, MADE)
    config = IndexConfig(source=tmp_path / "in", key_file=key, full_frame=True, workers=0, split="train")
    with pytest.raises(RecordsError, match="none of 1 items could be accepted"):
        index(config, tmp_path / "out")
    assert "marked as synthetic" in (tmp_path / "out" / "rejects.csv").read_text()


def rewritten(path: Path, *texts: tuple[str, str, str], before: str = "", late: bool = False) -> None:
    """A PNG as another tool writes it: (kind, keyword, text), after a text of its own, or behind the pixels."""
    chunks = PngInfo()
    if before:
        chunks.add_text("Comment", before)
    for kind, keyword, text in texts:
        if kind == "iTXt":
            chunks.add_itxt(keyword, text, zip=True)
        else:
            chunks.add_text(keyword, text, zip=kind == "zTXt")
    stream = io.BytesIO()
    Image.fromarray(GREY).save(stream, "PNG", pnginfo=chunks)
    data = stream.getvalue()
    if late:
        first, end = data.index(b"tEXt") - 4, data.index(b"IDAT") - 4
        data = data[:first] + data[end:-12] + data[first:end] + data[-12:]
    path.write_bytes(data)


REWRITTEN = {
    "as it is": lambda path: rewritten(path, ("tEXt", "SyntheticData", "YES")),
    "packed": lambda path: rewritten(path, ("zTXt", "SyntheticData", "YES")),
    "international": lambda path: rewritten(path, ("iTXt", "SyntheticData", "YES")),
    "behind 300 kB of text": lambda path: rewritten(path, ("tEXt", "SyntheticData", "YES"), before="x" * 300_000),
    "behind the pixels": lambda path: rewritten(path, ("tEXt", "SyntheticData", "YES"), late=True),
    "another case": lambda path: rewritten(path, ("tEXt", "syntheticdata", "yes")),
    "the notice only": lambda path: rewritten(path, ("zTXt", "Description", NOTICE)),
    "our facts only": lambda path: rewritten(path, ("iTXt", "meddap-monai", "{}")),
    "the notice of a derived image only": lambda path: rewritten(path, ("tEXt", "Description", DERIVED)),
    "a derived image as a comment of a JPEG": lambda path: Image.fromarray(GREY).save(path, "JPEG", comment=DERIVED),
    "as a comment of a JPEG": lambda path: Image.fromarray(GREY).save(path, "JPEG", comment=NOTICE),
    "as a description of a TIFF": lambda path: Image.fromarray(GREY).save(path, "TIFF", tiffinfo={270: NOTICE}),
}


@pytest.mark.parametrize("name", REWRITTEN)
def test_marks_that_other_tools_wrote_anew(name: str, tmp_path: Path) -> None:
    REWRITTEN[name](tmp_path / "x.png")
    assert is_marked_synthetic(tmp_path / "x.png")


def test_a_nifti_that_was_saved_again_keeps_a_mark(tmp_path: Path) -> None:
    """nibabel keeps the description; FSL writes its own and keeps the extension."""
    write_synthetic_nifti(tmp_path / "x.nii.gz", GREY, MADE)
    image = nibabel.load(tmp_path / "x.nii.gz")
    image.header.extensions.clear()
    nibabel.save(image, tmp_path / "a.nii.gz")
    image = nibabel.load(tmp_path / "x.nii.gz")
    image.header["descrip"] = b"FSL6.0"
    nibabel.save(image, tmp_path / "b.nii.gz")
    image.header.extensions.clear()
    nibabel.save(image, tmp_path / "c.nii.gz")
    assert [is_marked_synthetic(tmp_path / f"{name}.nii.gz") for name in "abc"] == [True, True, False]


def test_what_is_no_mark(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.png")
    rewritten(tmp_path / "b.png", ("tEXt", "SyntheticData", "NO"), ("tEXt", "Comment", "a synthetic sling, YES"))
    Image.fromarray(GREY).save(tmp_path / "c.jpg")
    assert not any(is_marked_synthetic(path) for path in sorted(tmp_path.iterdir()))


@pytest.mark.parametrize("split", ["val", "test", "unseen"])
def test_a_synthetic_record_outside_of_training_stops(split: str, tmp_path: Path) -> None:
    record = {"id": "a", "image": "a.png", "label": 0, "class_name": "x", "patient": "synthetic", "split": split}
    record |= {"source": "synthetic", "sha256": "0" * 64, "synthetic": MADE}
    with pytest.raises(RecordsError, match="synthetic images only train"):
        write_records(tmp_path / "r.jsonl", [record])


def test_export_of_a_generation_run(tmp_path: Path) -> None:
    records = []
    for number in range(3):
        write_synthetic_png(tmp_path / f"{number}.png", np.roll(GREY, number), MADE)
        record = {"id": f"s{number}", "image": f"{number}.png", "label": 0, "class_name": "malignant"}
        record |= {"patient": "synthetic", "split": "train", "source": "synthetic"}
        record["sha256"] = pixel_hash(np.roll(GREY, number))
        records.append(record | {"synthetic": MADE})
    write_records(tmp_path / "generated.jsonl", records)
    written = export_dicom(tmp_path / "generated.jsonl", tmp_path / "dicom", compression="rle")
    datasets = [pydicom.dcmread(path) for path in written]
    assert [dataset.InstanceNumber for dataset in datasets] == [1, 2, 3]
    assert len({dataset.SeriesInstanceUID for dataset in datasets}) == 1
    assert "malignant" in datasets[0].ImageComments
    for dataset in datasets:
        check_marks(dataset)


def test_monai_save_image(tmp_path: Path) -> None:
    """Through `SaveImage`, without the `spatial_shape` that MONAI's own writers need."""
    image = MetaTensor(GREY[None].astype(np.float32) / 255, meta={"synthetic": MADE, "run": "r", "id": "1"})
    writer = "meddap_monai.images.writing.writer.SyntheticDicomWriter"
    save = SaveImage(tmp_path, output_ext=".dcm", writer=writer, scale=255, resample=False, print_log=False)
    save(image, filename=tmp_path / "saved")
    dataset = pydicom.dcmread(tmp_path / "saved.dcm")
    check_marks(dataset)
    assert np.array_equal(dataset.pixel_array, GREY)
    loaded = LoadImage(reader="PydicomReader", ensure_channel_first=True)(tmp_path / "saved.dcm")
    assert sorted(loaded.shape[-2:]) == [64, 80], "MONAI's own reader opens it (it transposes)"


def test_registered_for_the_suffix(tmp_path: Path) -> None:
    register()
    items = {"image": MetaTensor(GREY[None], meta={"synthetic": MADE, "filename_or_obj": "a.png"})}
    SaveImaged("image", output_dir=tmp_path, output_ext=".dcm", resample=False, separate_folder=False, print_log=False)(
        items
    )
    (path,) = tmp_path.glob("*.dcm")
    check_marks(pydicom.dcmread(path))


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (np.full((1, 8, 8), np.nan), "expected finite ones in 0 to 255"),
        (np.full((1, 8, 8), 300.0), "values 300 to 300"),
        (np.full((1, 8, 8), -1.0), "values -1 to -1"),
    ],
)
def test_the_writer_refuses_what_it_cannot_show(values: np.ndarray, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        SyntheticDicomWriter().set_data_array(values)


def test_shapes_that_are_no_image(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="expected"):
        write_synthetic_png(tmp_path / "x.png", np.zeros((2, 3, 4, 5), np.uint8), MADE)


@pytest.mark.slow
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_dcmtk_opens_it(compression: str, tmp_path: Path) -> None:
    if not (dump := shutil.which("dcmdump")):
        pytest.skip("dcmtk's dcmdump is not installed (apt-get install dcmtk)")
    path = tmp_path / "x.dcm"
    write_synthetic_dicom(path, COLOUR, MADE, run="run", item="1", compression=compression)
    result = subprocess.run([dump, str(path)], capture_output=True, text=True)
    assert result.returncode == 0 and result.stderr == ""
    assert "YES" in result.stdout and "Synthesizing Equipment" in result.stdout
