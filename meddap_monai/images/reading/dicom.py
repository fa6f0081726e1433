"""One door to ultrasound DICOM: `read_ultrasound` returns pixels as they are meant to look, and what may be known.

Nothing else of the file leaves this module: see `UltrasoundInfo`, which is the allow-list.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from meddap_monai.errors import ConfigurationError, UnreadableImage
from meddap_monai.images.reading.colour import COLOURS, reduce_colour
from meddap_monai.images.reading.decode import Layout, decode_frame, read_layout
from meddap_monai.images.reading.frames import check_policy, choose_frames
from meddap_monai.images.reading.grey_levels import WINDOWS, to_display
from meddap_monai.images.reading.header import Header, finite, open_header, word
from meddap_monai.images.reading.limits import DEFAULT_LIMITS, Limits, check_decoded_size
from meddap_monai.images.reading.palette import read_palette
from meddap_monai.images.reading.pseudonym import device_name, load_key, pseudonym
from meddap_monai.images.reading.regions import (
    Region,
    choose_region,
    declared_regions,
    find_region,
    pixel_spacing,
    shows_one_image,
)

OUTSIDE = ("keep", "zero", "crop")
_MODALITIES = {
    "US",
    "IVUS",
    "CR",
    "DX",
    "CT",
    "MR",
    "MG",
    "NM",
    "PT",
    "XA",
    "RF",
    "OT",
    "SC",
    "ES",
    "GM",
    "OP",
    "SM",
    "XC",
}


@dataclass(frozen=True)
class UltrasoundInfo:
    """All that leaves the reader besides the pixels.

    Attributes:
        rows: of the stored frame.
        columns: of the stored frame.
        frames: in the file.
        chosen_frames: numbers of the frames that were read, 0 is the first.
        photometric: as stored, such as "YBR_FULL_422"; the pixels are grey or RGB.
        bits_stored: per sample, as stored.
        transfer_syntax: UID.
        modality: DICOM's two- or four-letter code, "other" for codes that are not known.
        patient: keyed pseudonym of the patient id, else of the study's UID, empty when the file has neither.
        centre: keyed pseudonym of the institution, empty when the file has none.
        device: maker from a fixed list and keyed hash of the model.
        spacing_mm: (row, column) of the returned pixels, None where not known.
        frame_time_ms: between frames of a clip, None where not known.
        regions: that the file declares, in screen coordinates.
        region: the chosen one; None when there is none or the whole frame was asked for.
        box: (top, left, bottom, right) of the returned pixels on the screen.
        grey_in_colour: whether the file stores grey as colour (within the returned box).
        synthetic: whether the file is marked by Synthetic Data (0008,001C) YES.
    """

    rows: int
    columns: int
    frames: int
    chosen_frames: tuple[int, ...]
    photometric: str
    bits_stored: int
    transfer_syntax: str
    modality: str
    patient: str
    centre: str
    device: str
    spacing_mm: tuple[float, float] | None
    frame_time_ms: float | None
    regions: tuple[Region, ...]
    region: Region | None
    box: tuple[int, int, int, int]
    grey_in_colour: bool
    synthetic: bool


def read_ultrasound(
    path: Path | str,
    *,
    frames: str | Sequence[int] = "all",
    outside: str = "keep",
    colour: str = "keep",
    window: str = "file",
    modality: str = "any",
    guess_region: bool = True,
    full_frame: bool = False,
    key: bytes | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> tuple[np.ndarray, UltrasoundInfo]:
    """Read an ultrasound DICOM file.

    Args:
        path: a regular file, with or without suffix.
        frames: a policy (see `frames.check_policy`) or frame numbers; only these are decoded.
        outside: what happens outside of the B-mode region: "keep" returns the whole screen (it can hold burned-in
            names), "zero" blackens and "crop" cuts it away; the latter two refuse a file that declares no region.
            The region is the tightest plausible B-mode area of (0018,6011); one of the whole screen counts as none.
        colour: "keep" as stored, "auto" returns grey that was stored as colour as one channel, "grey" always one.
        window: "file" applies the file's VOI window or LUT, "none" the whole stored range, "minmax" the frame's range.
        modality: "US" refuses everything that is not ultrasound; "any" reads all.
        guess_region: with "zero" or "crop", take the scan that is found in the pixels of a file that has no region. A
            guess cannot promise that no name is left.
        full_frame: with "zero" or "crop", return the whole screen of a file that has no region instead of refusing it.
        key: for pseudonyms; default: the user's key file.
        limits: ceilings checked before memory is taken.

    Returns:
        (F, C, H, W) uint8 with C 1 (grey, white is high) or 3 (RGB), and what may be known about the file.

    Raises:
        UnreadableImage: with file, attribute, value and expectation.
        ConfigurationError: an argument that is not listed above.
    """
    _check_arguments(frames, outside, colour, window, modality)
    with dicom_errors(path), open_header(path, limits) as header:
        if modality == "US" and word(header, "Modality") not in ("US", "IVUS"):
            raise UnreadableImage(f"{path}: Modality (0008,0060) is not US; set modality to any to read it")
        layout = read_layout(header, limits)
        palette = read_palette(header, layout)
        of_frame = cache(header.of_frame)

        def show(number: int) -> np.ndarray:
            return to_display(decode_frame(header, layout, number, limits), of_frame(number), layout, palette, window)

        wanted = _wanted(path, frames, layout, show)
        channels = 3 if layout.samples == 3 or palette is not None else 1
        check_decoded_size(path, len(wanted), layout.rows * layout.columns * channels, limits)
        planes = [show(number).reshape(1, layout.rows, layout.columns, channels) for number in wanted]
        pixels = planes[0] if len(planes) == 1 else np.concatenate(planes)
        info = _describe(header, layout, tuple(wanted), key)
        spacings = {pixel_spacing(of_frame(number).get("PixelSpacing")) for number in wanted}
        info = replace(info, spacing_mm=spacings.pop() if len(spacings) == 1 else None)
        pixels, info = _cut(path, pixels, info, outside, guess_region, full_frame)
    pixels, grey = reduce_colour(pixels, colour)
    return np.moveaxis(pixels, -1, 1), replace(info, grey_in_colour=grey)


def _check_arguments(frames: str | Sequence[int], outside: str, colour: str, window: str, modality: str) -> None:
    for name, value, valid in (
        ("outside", outside, OUTSIDE),
        ("colour", colour, COLOURS),
        ("window", window, WINDOWS),
        ("modality", modality, ("US", "any")),
    ):
        if value not in valid:
            raise ConfigurationError(f"read_ultrasound: {name} is {value!r}, expected one of {', '.join(valid)}")
    if isinstance(frames, str):
        check_policy(frames)


@contextmanager
def dicom_errors(path: Path | str) -> Iterator[None]:
    """Turn whatever a damaged file makes the libraries raise into `UnreadableImage`, without values of the file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (UnreadableImage, ConfigurationError):
        raise
    except RecursionError as error:
        raise UnreadableImage(f"{path}: sequences are nested deeper than Python can follow") from error
    except MemoryError as error:
        raise UnreadableImage(f"{path}: asks for more memory than there is") from error
    except Exception as error:
        raise UnreadableImage(f"{path}: damaged or inconsistent ({type(error).__name__} while reading)") from error


def _wanted(path: Path | str, frames: str | Sequence[int], layout: Layout, show) -> list[int]:
    if isinstance(frames, str):
        return choose_frames(frames, layout.frames, show)
    wanted = [int(number) for number in frames]
    if not wanted or min(wanted) < 0 or max(wanted) >= layout.frames:
        raise UnreadableImage(f"{path}: frames {wanted[:8]} were asked for, expected numbers 0 to {layout.frames - 1}")
    return wanted


def _describe(header: Header, layout: Layout, wanted: tuple[int, ...], key: bytes | None) -> UltrasoundInfo:
    def text(name: str) -> str:
        value = header.get(name)
        return str(value).strip().strip("\0") if value is not None and not isinstance(value, bytes) else ""

    key = load_key() if key is None else key
    patient, study, centre = text("PatientID"), text("StudyInstanceUID"), text("InstitutionName")
    modality, time = word(header, "Modality"), finite(header.get("FrameTime"))
    regions = declared_regions(header.dataset, layout.rows, layout.columns, path=header.path)
    return UltrasoundInfo(
        rows=layout.rows,
        columns=layout.columns,
        frames=layout.frames,
        chosen_frames=wanted,
        photometric=layout.photometric,
        bits_stored=layout.stored,
        transfer_syntax=header.syntax,
        modality=modality if modality in _MODALITIES else "other",
        patient=pseudonym(patient, key) if patient else (pseudonym(study, key, "study") if study else ""),
        centre=pseudonym(centre, key, "centre", 8) if centre else "",
        device=device_name(text("Manufacturer"), text("ManufacturerModelName"), key),
        spacing_mm=None,
        frame_time_ms=time if time is not None and 0 < time < 1e5 else None,
        regions=regions,
        region=None,
        box=(0, 0, layout.rows, layout.columns),
        grey_in_colour=False,
        synthetic=word(header, "SyntheticData") == "YES",
    )


def _cut(
    path: Path | str, pixels: np.ndarray, info: UltrasoundInfo, outside: str, guess_region: bool, full_frame: bool
) -> tuple[np.ndarray, UltrasoundInfo]:
    """Zero or crop what lies outside of the region of (F, H, W, C) pixels."""
    region, mask = choose_region(info.regions, info.rows, info.columns), None
    if region is None and guess_region and outside != "keep" and shows_one_image(info.regions):
        region, mask = find_region(pixels.max(axis=3)) or (None, None)
    if region is None:
        if outside == "keep" or full_frame:
            return pixels, info
        raise UnreadableImage(
            f"{path}: declares no B-mode region (0018,6011) that leaves out a part of the screen; it could show names. "
            "guess_region looks for the scan in the pixels; full_frame is for files known to be clean"
        )
    spacing = region.spacing_mm or info.spacing_mm
    if outside == "keep":
        return pixels, replace(info, region=region, spacing_mm=spacing)
    if mask is not None:
        pixels = pixels * mask[None, :, :, None]
    rows, columns = region.slices
    if outside == "crop":
        box = (region.top, region.left, region.bottom, region.right)
        cropped = np.ascontiguousarray(pixels[:, rows, columns])
        return cropped, replace(info, region=region, spacing_mm=spacing, box=box)
    kept = np.zeros_like(pixels)
    kept[:, rows, columns] = pixels[:, rows, columns]
    return kept, replace(info, region=region, spacing_mm=spacing)
