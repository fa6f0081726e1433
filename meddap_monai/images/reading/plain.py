"""Images that are not DICOM: PNG, JPEG, TIFF and BMP (`raster`) and NIfTI (`nifti`), told apart by content.

They carry no region and no patient, so they are taken whole; `index` counts them as not de-identified.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from meddap_monai.errors import UnreadableImage
from meddap_monai.images.reading.colour import reduce_colour
from meddap_monai.images.reading.frames import choose_frames
from meddap_monai.images.reading.limits import DEFAULT_LIMITS, Limits, check_decoded_size, open_regular
from meddap_monai.images.reading.marks import nifti_is_marked, other_is_marked, png_is_marked
from meddap_monai.images.reading.nifti import read_nifti
from meddap_monai.images.reading.raster import FORMATS as RASTERS
from meddap_monai.images.reading.raster import open_raster, raster_errors

Read = tuple[np.ndarray, tuple[float, float] | None, tuple[int, ...], int]
"""Pixels (F, H, W, C) uint8, (row, column) spacing in mm or None, numbers of the frames read, frames in the file."""


@dataclass(frozen=True)
class Format:
    """A kind of file beside DICOM; untrusted, so nothing is allocated before `limits` are held against its claims.

    Attributes:
        words: what refusals call it.
        matches: (file name, its first 352 bytes) -> whether it is of this kind.
        read: (path, frame policy of `frames.check_policy`, limits) -> `Read`; faults are `UnreadableImage`.
        marked: (path, opened file, limits) -> whether it says that it is synthetic.
        suffixes: by which MONAI's ``LoadImage`` may give such files to `UltrasoundReader`.
    """

    words: str
    matches: Callable[[str, bytes], bool]
    read: Callable[[Path | str, str, Limits], Read]
    marked: Callable[[Path | str, BinaryIO, Limits], bool]
    suffixes: tuple[str, ...]


def sniff(path: Path | str, limits: Limits = DEFAULT_LIMITS) -> str:
    """Tell by content what a file is: "dicom", a name of `FORMATS` or "" for none of them.

    Raises:
        UnreadableImage: not a regular file, empty or too large.
    """
    stream, _ = open_regular(path, limits)
    with stream:
        return _kind(path, stream.read(352))


def _kind(path: Path | str, start: bytes) -> str:
    if start[128:132] == b"DICM":
        return "dicom"
    for kind, known in FORMATS.items():
        if known.matches(Path(path).name.lower(), start):
            return kind
    return "dicom" if start[:2] in (b"\x02\0", b"\x08\0", b"\0\x02", b"\0\x08") else ""


def read_plain(
    path: Path | str, *, frames: str = "all", colour: str = "keep", limits: Limits = DEFAULT_LIMITS
) -> tuple[np.ndarray, tuple[float, float] | None, tuple[int, ...], int]:
    """Read a PNG, JPEG, TIFF, BMP or NIfTI file.

    Args:
        path: a regular file; its content decides, not its suffix.
        frames: a policy over pages (TIFF), animation frames (PNG) or slices (NIfTI); see `frames.check_policy`.
        colour: "keep", "auto" (grey stored as colour becomes one channel) or "grey".
        limits: ceilings checked before memory is taken.

    Returns:
        (F, C, H, W) uint8 with C 1 or 3; (row, column) spacing in mm or None; frame numbers read; frames in the file.

    Raises:
        UnreadableImage: with file and reason.
    """
    kind = sniff(path, limits)
    if kind not in FORMATS:
        raise UnreadableImage(f"{path}: is none of {', '.join(one.words for one in FORMATS.values())}")
    pixels, spacing, numbers, count = FORMATS[kind].read(path, frames, limits)
    pixels, _ = reduce_colour(np.ascontiguousarray(pixels), colour)
    return np.moveaxis(pixels, -1, 1), spacing, numbers, count


def is_marked_synthetic(path: Path | str, limits: Limits = DEFAULT_LIMITS) -> bool:
    """Whether a PNG's text, a NIfTI file's header or the text in another file says that the image is synthetic.

    Raises:
        UnreadableImage: not a regular file, or damaged.
    """
    stream, _ = open_regular(path, limits)
    with raster_errors(path, limits), stream:
        kind = _kind(path, stream.read(352))
        stream.seek(0)
        return FORMATS[kind].marked(path, stream, limits) if kind in FORMATS else other_is_marked(stream)


def _read_raster(path: Path | str, frames: str, limits: Limits) -> Read:
    with open_raster(path, limits) as raster:
        count = len(raster.pages)
        wanted = choose_frames(frames, count, raster.picture)
        first = raster.picture(wanted[0])
        check_decoded_size(path, len(wanted), first.size, limits)
        pictures = [first, *(raster.picture(number) for number in wanted[1:])]
    if any(picture.shape != first.shape for picture in pictures):
        raise UnreadableImage(f"{path}: its pages differ in size or colour, expected equal ones")
    stacked = np.stack([picture[..., None] if picture.ndim == 2 else picture for picture in pictures])
    return stacked, None, tuple(wanted), count


def _read_nifti(path: Path | str, frames: str, limits: Limits) -> Read:
    with raster_errors(path, limits):
        stream, size = open_regular(path, limits)
        with stream:
            return read_nifti(path, stream, size, frames, limits)


def _raster_is_marked(path: Path | str, stream: BinaryIO, _: Limits) -> bool:
    png = stream.read(4) == b"\x89PNG"
    stream.seek(0)
    return png_is_marked(path, stream) if png else other_is_marked(stream)


FORMATS: dict[str, Format] = {
    "raster": Format(
        ", ".join(RASTERS),
        lambda _, start: start.startswith((b"\x89PNG", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"BM")),
        _read_raster,
        _raster_is_marked,
        (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"),
    ),
    "nifti": Format(
        "NIfTI",
        lambda name, start: start[344:348] in (b"n+1\0", b"ni1\0") or (start[:2] == b"\x1f\x8b" and ".nii" in name),
        _read_nifti,
        nifti_is_marked,
        (".nii", ".nii.gz"),
    ),
}
"""Name -> format; the first that matches is taken."""
