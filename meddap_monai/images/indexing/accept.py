"""What becomes of one source file: de-identified PNG images with their facts, or one reason why not.

Runs inside a worker process, so that a codec that crashes or hangs takes nothing else with it.
"""

import base64
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.datadict import tag_for_keyword

from meddap_monai import store
from meddap_monai.core.records import FILE_GROUP, pixel_hash
from meddap_monai.errors import UnreadableImage
from meddap_monai.images.reading.dicom import UltrasoundInfo, dicom_errors, read_ultrasound
from meddap_monai.images.reading.frames import thumbnail
from meddap_monai.images.reading.header import open_header
from meddap_monai.images.reading.limits import DEFAULT_LIMITS
from meddap_monai.images.reading.plain import is_marked_synthetic, read_plain, sniff
from meddap_monai.images.reading.pseudonym import pseudonym
from meddap_monai.images.writing.png import encode_png

THUMBNAIL = 32
SMALLEST_SIDE = 8
_TOO_MUCH = "asks for more memory than one file may take; raise index#memory if the file can be trusted"
_LABEL = re.compile(r"[^\W_][\w .+()-]{0,63}")


@dataclass(frozen=True)
class Acceptance:
    """How files are read; the part of the index configuration that workers need.

    Attributes:
        folder: where ``images/`` is written.
        key: pseudonym key, hexadecimal.
        modality: "US" or "any".
        frames: frame policy.
        region: "b-mode" crops to the region, "full" takes the whole frame.
        guess_region: crop a file without a region to the scan that is found in its pixels.
        full_frame: take the whole frame of a file without a region.
        window: see `read_ultrasound`.
        attribute: DICOM keyword that holds the label, or empty.
    """

    folder: str
    key: str
    modality: str
    frames: str
    region: str
    guess_region: bool
    full_frame: bool
    window: str
    attribute: str


def accept(task: Mapping[str, Any], how: Acceptance) -> dict[str, Any]:
    """Read one file and write its images.

    Args:
        task: ``path``, ``relative``, ``label`` (or None), ``group`` (or None) and ``facts`` of a table (may be absent).
        how: the settings.

    Returns:
        ``{"relative", "items": [...]}`` with one item per image (id, class_name, patient, sha256, meta, thumbnail), or
        ``{"relative", "error"}``. Neither holds a value of the file that could name a person.
    """
    relative, path = task["relative"], Path(task["path"])
    try:
        return {"relative": relative, "items": _read(task, path, how)}
    except UnreadableImage as error:
        reason = str(error).removeprefix(f"{path}: ").replace(str(path), "the file")
        reason = _TOO_MUCH if isinstance(error.__cause__, MemoryError) else reason
    except MemoryError:
        reason = _TOO_MUCH
    except OSError as error:
        reason = f"cannot be read ({type(error).__name__})"
    return {"relative": relative, "error": reason}


def _read(task: Mapping[str, Any], path: Path, how: Acceptance) -> list[dict[str, Any]]:
    key = bytes.fromhex(how.key)
    kind = sniff(path)
    if not kind:
        raise UnreadableImage(f"{path}: is not an image (DICOM, PNG, JPEG, TIFF, BMP or NIfTI)")
    label = clean_label(_label_in_file(path, how.attribute, kind) if how.attribute else task["label"], path)
    pixels, numbers, patient, meta = _dicom(path, how, key) if kind == "dicom" else _plain(path, how)
    if task.get("group"):
        patient = pseudonym(task["group"], key, "patient")
    patient = patient or FILE_GROUP + pseudonym(task["relative"], key, "file")
    meta = meta | {name: clean_label(text, path, name) for name, text in (task.get("facts") or {}).items()}
    return [
        _write(frame, number, label, patient, meta, task["relative"], how, key)
        for frame, number in zip(pixels, numbers, strict=True)
    ]


def _dicom(path: Path, how: Acceptance, key: bytes):
    outside = "crop" if how.region == "b-mode" else "keep"
    pixels, info = read_ultrasound(
        path,
        frames=how.frames,
        outside=outside,
        colour="auto",
        window=how.window,
        modality=how.modality,
        guess_region=how.guess_region,
        full_frame=how.full_frame,
        key=key,
    )
    if info.synthetic:
        raise UnreadableImage(f"{path}: is marked as synthetic (0008,001C); synthetic images are never real records")
    facts = {
        "spacing_mm": list(info.spacing_mm) if info.spacing_mm else None,
        "device": info.device,
        "centre": info.centre or None,
        "modality": info.modality,
        "frames": info.frames,
        "frame_time_ms": info.frame_time_ms,
        "region": info.region.kind if info.region and outside == "crop" else None,
        "deidentified": _deidentified(info) if outside == "crop" else False,
    }
    return pixels, info.chosen_frames, info.patient, facts


def _deidentified(info: UltrasoundInfo) -> bool | str:
    """True for a region that the scanner declares, "unknown" for one that was guessed, False for a whole frame."""
    if info.region is None:
        return False
    return "unknown" if info.region.kind == "found" else True


def _plain(path: Path, how: Acceptance):
    if is_marked_synthetic(path):
        raise UnreadableImage(
            f"{path}: is marked as synthetic in its PNG text; synthetic images are never real records"
        )
    pixels, spacing, numbers, count = read_plain(path, frames=how.frames, colour="auto")
    facts = {"spacing_mm": list(spacing) if spacing else None, "frames": count, "deidentified": False}
    return pixels, numbers, "", facts


def _label_in_file(path: Path, attribute: str, kind: str) -> str | None:
    tag = tag_for_keyword(attribute)
    if kind != "dicom" or tag is None:
        raise UnreadableImage(f"{path}: is not DICOM, so it has no attribute to take the label from")
    with dicom_errors(path), open_header(path, DEFAULT_LIMITS, extra=(tag,)) as header:
        value = header.dataset.get(attribute)
    return None if value is None or isinstance(value, bytes) else str(value).strip()


def clean_label(label: str | None, path: Path | str, what: str = "label") -> str:
    """Return a class name, or another short `what` of a table, that is safe as text and as a file name.

    Raises:
        UnreadableImage: missing, longer than 64 characters, or with characters other than letters, digits and
            ``_ . + - ( )`` and spaces.
    """
    if not label:
        raise UnreadableImage(f"{path}: has no {what}")
    label = unicodedata.normalize("NFC", label).strip()
    if not _LABEL.fullmatch(label) or ".." in label:
        raise UnreadableImage(
            f"{path}: its {what} is not usable, expected at most 64 letters, digits, spaces and _.+-() beginning with "
            "a letter or digit"
        )
    return label


def _write(
    frame: np.ndarray,
    number: int,
    label: str,
    patient: str,
    meta: Mapping[str, Any],
    relative: str,
    how: Acceptance,
    key: bytes,
) -> dict[str, Any]:
    """Write one (C, H, W) uint8 frame as PNG; return its facts."""
    channels, rows, columns = frame.shape
    if min(rows, columns) < SMALLEST_SIDE:
        raise UnreadableImage(f"{relative}: {rows} x {columns} pixels, expected sides of at least {SMALLEST_SIDE}")
    image = np.ascontiguousarray(frame[0] if channels == 1 else np.moveaxis(frame, 0, -1))
    digest = pixel_hash(image)
    identity = pseudonym(f"{relative}|{number}|{digest}", key, "image", 20)
    target = Path(how.folder) / "images" / f"{identity}.png"
    if not target.exists():
        with store.atomic_path(target, needs=image.nbytes, durable=False) as temporary:
            temporary.write_bytes(encode_png(image))
    small = np.clip(thumbnail(image, THUMBNAIL), 0, 255).astype(np.uint8)
    facts = {"frame": int(number), **{name: value for name, value in meta.items() if value is not None}}
    return {
        "id": identity,
        "class_name": label,
        "patient": patient,
        "sha256": digest,
        "meta": facts,
        "thumbnail": base64.b64encode(small.tobytes()).decode(),
    }
