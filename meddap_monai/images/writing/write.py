"""Synthetic images as files that say so: DICOM for an archive, PNG and NIfTI for everything else.

Every attribute that DICOM has for it marks the image as synthetic: Synthetic Data (0008,001C) YES, Image Type
DERIVED/SECONDARY, Derivation Description (0008,2111), Contributing Equipment (0018,A001) with the purpose
(109100, DCM, "Synthesizing Equipment"). Patient, study, series and instance are new; no attribute of a source image is
carried over. An image that was made from a patient's image, or comes near one, says that instead of "shows no patient".
UIDs are UUID-derived, below the root ``2.25`` (PS3.5 B.2), and computed from run and item, so that
writing again gives the same UIDs.
"""

import hashlib
import io
import json
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from meddap_monai import __version__, store
from meddap_monai.core.constraints import check_choice
from meddap_monai.core.records import iter_records
from meddap_monai.errors import ConfigurationError, RecordsError
from meddap_monai.images.reading.marks import DERIVED, KEY, NOTICE
from meddap_monai.images.reading.recorded import open_recorded

UID_ROOT = "2.25."
_TIMES = (
    "InstanceCreationDate",
    "InstanceCreationTime",
    "ContentDate",
    "ContentTime",
    "DateOfSecondaryCapture",
    "TimeOfSecondaryCapture",
    "ContributionDateTime",
)
COMPRESSIONS = {
    "none": "1.2.840.10008.1.2.1",
    "rle": "1.2.840.10008.1.2.5",
    "jpeg2000": "1.2.840.10008.1.2.4.90",
}


def synthetic_uid(*parts: object) -> str:
    """Return a UID that is equal for equal parts: ``2.25.`` and the decimal form of a 128-bit hash."""
    digest = hashlib.sha256("\0".join(str(part) for part in parts).encode("utf-8", "surrogatepass")).hexdigest()
    return f"{UID_ROOT}{int(digest[:32], 16)}"


def synthetic_dicom(
    pixels: np.ndarray,
    synthetic: Mapping[str, Any],
    *,
    run: str,
    item: str,
    number: int = 1,
    class_name: str = "",
    spacing_mm: tuple[float, float] | None = None,
    compression: str = "none",
) -> Any:
    """Return a synthetic image as a Secondary Capture DICOM data set.

    Args:
        pixels: (H, W), (1, H, W), (3, H, W) or (H, W, 3) uint8.
        synthetic: how it was made: the record's field ``synthetic``.
        run: identifies the generation run; makes study and series.
        item: identifies the image within the run.
        number: instance number, from 1.
        class_name: intended class, for the description.
        spacing_mm: (row, column) spacing.
        compression: "none", "rle" or "jpeg2000" (lossless).

    Returns:
        A `highdicom.sc.SCImage`, a pydicom data set.

    Raises:
        ConfigurationError: pixels or compression that cannot be written.
    """
    from highdicom.base_content import ContributingEquipment
    from highdicom.sc import SCImage
    from pydicom.sr.codedict import codes

    check_choice(compression, COMPRESSIONS, "synthetic_dicom#compression")
    image = picture_of(pixels)
    colour = {"jpeg2000": "YBR_RCT"}.get(compression, "RGB")
    equipment = ContributingEquipment(
        manufacturer=KEY,
        purpose_of_reference=codes.DCM.SynthesizingEquipment,
        manufacturer_model_name=KEY,
        software_versions=__version__,
        contribution_description=notice_of(synthetic),
    )
    short = hashlib.sha256(run.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    dataset = SCImage(
        pixel_array=image,
        photometric_interpretation=colour if image.ndim == 3 else "MONOCHROME2",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "F"),
        study_instance_uid=synthetic_uid("study", run),
        series_instance_uid=synthetic_uid("series", run),
        sop_instance_uid=synthetic_uid("image", run, item),
        series_number=1,
        instance_number=number,
        manufacturer=KEY,
        manufacturer_model_name=KEY,
        software_versions=__version__,
        patient_id=f"SYNTHETIC-{short}",
        patient_name="Synthetic^Image",
        study_id=short,
        pixel_spacing=spacing_mm,
        transfer_syntax_uid=COMPRESSIONS[compression],
        contributing_equipment=[equipment],
    )
    _mark(dataset, synthetic, class_name)
    _remove_times(dataset)
    return dataset


def is_derived(synthetic: Mapping[str, Any]) -> bool:
    """Tell whether an image is derived from a patient's image: as its record says, else by its mode."""
    return bool(synthetic.get("derived", synthetic.get("mode") in ("image", "inpaint")))


def notice_of(synthetic: Mapping[str, Any]) -> str:
    """Return the sentence that a file carries: what it shows, and that it is not for diagnosis."""
    return DERIVED if is_derived(synthetic) else NOTICE


def _remove_times(dataset: Any) -> None:
    """Remove the times of writing, all optional here (PS3.3 C.7.6.1, C.8.6.2, C.12.1): equal images, equal files."""
    for part in (dataset, *dataset.ContributingEquipmentSequence):
        for name in _TIMES:
            if name in part:
                delattr(part, name)


def _mark(dataset: Any, synthetic: Mapping[str, Any], class_name: str) -> None:
    """Set what says that an image is synthetic and how it was made."""
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SyntheticData = "YES"
    dataset.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    dataset.Modality = "US"
    dataset.ConversionType = "SYN"
    if not is_derived(synthetic):
        dataset.BurnedInAnnotation = "NO"
    dataset.ContentQualification = "RESEARCH"
    dataset.SeriesDescription = "SYNTHETIC images, not for diagnosis"
    dataset.StudyDescription = "SYNTHETIC images, not for diagnosis"
    origin = "derived from a patient's image, " if is_derived(synthetic) else ""
    dataset.ImageComments = clean_text(f"SYNTHETIC {origin}{class_name}", 200)
    dataset.DerivationDescription = clean_text(f"{notice_of(synthetic)} {_facts(synthetic)}", 1024)


def _facts(synthetic: Mapping[str, Any]) -> str:
    """Prompt, seed, adapter and base in one line, the short and telling ones first."""
    adapters = synthetic.get("adapters") or []
    parts = {
        "seed": synthetic.get("seed"),
        "base": synthetic.get("base"),
        "adapters": json.dumps(adapters, sort_keys=True) if not isinstance(adapters, str) else adapters,
        "mode": synthetic.get("mode"),
        "prompt": synthetic.get("prompt"),
        "negative prompt": synthetic.get("negative_prompt"),
    }
    return "; ".join(f"{name}: {value}" for name, value in parts.items() if value not in (None, "", [], "[]"))


def clean_text(text: str, length: int) -> str:
    """Return one line without control, direction and backslash characters, at most `length` characters long."""
    kept = (" " if character in "\r\n\t\\" else character for character in text)
    kept = (character for character in kept if unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Cn"))
    return " ".join("".join(kept).split())[:length]


def picture_of(pixels: np.ndarray) -> np.ndarray:
    """Return (H, W) or (H, W, 3) uint8 of an image with its channel first, last or left out.

    Raises:
        ConfigurationError: another shape or type.
    """
    pixels = np.asarray(pixels)
    if pixels.ndim == 3 and pixels.shape[0] in (1, 3) and pixels.shape[-1] not in (1, 3):
        pixels = np.moveaxis(pixels, 0, -1)
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    fine = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[-1] == 3)
    if not fine or pixels.dtype != np.uint8 or pixels.size == 0:
        raise ConfigurationError(
            f"a synthetic image is {pixels.shape} {pixels.dtype}, expected (H, W), (C, H, W) or (H, W, C) uint8 with 1 "
            "or 3 channels"
        )
    return np.ascontiguousarray(pixels)


def write_synthetic_dicom(path: Path | str, pixels: np.ndarray, synthetic: Mapping[str, Any], **keys: Any) -> Path:
    """Write `synthetic_dicom` atomically; arguments as there."""
    stream = io.BytesIO()
    synthetic_dicom(pixels, synthetic, **keys).save_as(stream, enforce_file_format=True)
    return store.write_atomic(path, stream.getvalue())


def write_synthetic_png(path: Path | str, pixels: np.ndarray, synthetic: Mapping[str, Any]) -> Path:
    """Write a PNG whose text says that it is synthetic and how it was made.

    Args:
        path: of the PNG.
        pixels: see `picture_of`.
        synthetic: see `synthetic_dicom`.
    """
    text = PngInfo()
    text.add_text("SyntheticData", "YES")
    text.add_text("Description", notice_of(synthetic))
    text.add_text("Software", KEY)
    text.add_itxt(KEY, json.dumps(dict(synthetic), sort_keys=True))
    stream = io.BytesIO()
    Image.fromarray(picture_of(pixels)).save(stream, format="PNG", pnginfo=text)
    return store.write_atomic(path, stream.getvalue())


def write_synthetic_nifti(
    path: Path | str,
    pixels: np.ndarray,
    synthetic: Mapping[str, Any],
    spacing_mm: tuple[float, float] | None = None,
) -> Path:
    """Write a NIfTI file, axis 0 along x, marked in its description and in a comment extension.

    Args:
        path: ending in .nii or .nii.gz.
        pixels: see `picture_of`; colour becomes a fifth axis of length 3.
        synthetic: see `synthetic_dicom`.
        spacing_mm: (row, column) spacing, 1 mm when not known.
    """
    import nibabel

    image = picture_of(pixels)
    turned = image.T[..., None] if image.ndim == 2 else image.transpose(1, 0, 2)[:, :, None, None]
    row, column = spacing_mm or (1.0, 1.0)
    nifti = nibabel.Nifti1Image(turned, np.diag([-column, -row, 1.0, 1.0]))
    origin = b"from a patient's image" if is_derived(synthetic) else b"no patient"
    nifti.header["descrip"] = b"SYNTHETIC, " + origin + b", not for diagnosis"
    comment = json.dumps({"SyntheticData": "YES", "notice": notice_of(synthetic), KEY: dict(synthetic)}, sort_keys=True)
    nifti.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", comment.encode()))
    data = nifti.to_bytes()
    if str(path).endswith(".gz"):
        import gzip

        data = gzip.compress(data, mtime=0)
    return store.write_atomic(path, data)


def export_dicom(records: Path | str, output: Path | str, compression: str = "none") -> list[Path]:
    """Write the synthetic images of a records file as one DICOM series.

    Args:
        records: ``generated.jsonl`` or ``kept.jsonl``.
        output: folder of the files, ``<id>.dcm``.
        compression: see `synthetic_dicom`.

    Returns:
        The files, in the order of the records.

    Raises:
        RecordsError: the file holds no synthetic image.
    """
    run = _run_of(records)
    written: list[Path] = []
    for record in iter_records(records):
        if record["source"] != "synthetic":
            continue
        pixels = np.asarray(open_recorded(record))
        name = f"{store.sha256_text(record['id'])[:16]}" if not _plain_name(record["id"]) else record["id"]
        keys = {"run": run, "item": record["id"], "number": len(written) + 1, "class_name": record["class_name"]}
        path = Path(output) / f"{name}.dcm"
        written.append(write_synthetic_dicom(path, pixels, record["synthetic"], compression=compression, **keys))
    if not written:
        raise RecordsError(f"{records}: holds no synthetic image; give the output of generate or select")
    return written


def _run_of(records: Path | str) -> str:
    """Return a hash of what the synthetic records show and of their seeds, wherever and however they were made."""
    digest = hashlib.sha256()
    for record in iter_records(records):
        if record["source"] == "synthetic":
            digest.update(f"{record['id']} {record['sha256']} {record['synthetic'].get('seed')}\n".encode())
    return digest.hexdigest()


def _plain_name(name: str) -> bool:
    return len(name) <= 80 and all(character.isalnum() or character in "-_" for character in name) and name.isascii()
