"""Images that are not DICOM: PNG, JPEG, TIFF and BMP through Pillow, NIfTI through nibabel.

They carry no region and no patient, so they are taken whole; `index` counts them as not de-identified.
"""

from __future__ import annotations

import gzip
import io
import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from meddap_monai.errors import UnreadableImage
from meddap_monai.images.colour import reduce_colour
from meddap_monai.images.frames import choose_frames
from meddap_monai.images.limits import DEFAULT_LIMITS, MIB, Limits, check_decoded_size, check_frame_size, open_regular

FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
_MAGIC = {b"\x89PNG": "raster", b"\xff\xd8\xff": "raster", b"II*\0": "raster", b"MM\0*": "raster", b"BM": "raster"}


def sniff(path: Path | str, limits: Limits = DEFAULT_LIMITS) -> str:
    """Tell by content what a file is: "dicom", "raster", "nifti" or "" for none of them.

    Raises:
        UnreadableImage: not a regular file, empty or too large.
    """
    stream, _ = open_regular(path, limits)
    with stream:
        start = stream.read(352)
    if start[128:132] == b"DICM":
        return "dicom"
    for magic, kind in _MAGIC.items():
        if start.startswith(magic):
            return kind
    if start[344:348] in (b"n+1\0", b"ni1\0") or (start[:2] == b"\x1f\x8b" and ".nii" in Path(path).name.lower()):
        return "nifti"
    return "dicom" if start[:2] in (b"\x02\0", b"\x08\0", b"\0\x02", b"\0\x08") else ""


def read_plain(
    path: Path | str, *, frames: str = "all", colour: str = "keep", limits: Limits = DEFAULT_LIMITS
) -> tuple[np.ndarray, tuple[float, float] | None, tuple[int, ...], int]:
    """Read a PNG, JPEG, TIFF, BMP or NIfTI file.

    Args:
        path: a regular file; its content decides, not its suffix.
        frames: a policy over pages (TIFF) or slices (NIfTI); see `frames.check_policy`.
        colour: "keep", "auto" (grey stored as colour becomes one channel) or "grey".
        limits: ceilings checked before memory is taken.

    Returns:
        (F, C, H, W) uint8 with C 1 or 3; (row, column) spacing in mm or None; frame numbers read; frames in the file.

    Raises:
        UnreadableImage: with file and reason.
    """
    kind = sniff(path, limits)
    if kind not in ("raster", "nifti"):
        raise UnreadableImage(f"{path}: is none of {', '.join(FORMATS)}, NIfTI")
    stream, _ = open_regular(path, limits)
    try:
        with stream:
            read = _read_raster if kind == "raster" else _read_nifti
            pixels, spacing, numbers, count = read(path, stream, frames, limits)
            pixels, _ = reduce_colour(pixels, colour)
            return np.moveaxis(pixels, -1, 1), spacing, numbers, count
    except UnreadableImage:
        raise
    except Image.DecompressionBombError as error:
        raise UnreadableImage(f"{path}: has too many pixels, expected at most {limits.frame_pixels:,}") from error
    except MemoryError as error:
        raise UnreadableImage(f"{path}: asks for more memory than there is") from error
    except Exception as error:
        raise UnreadableImage(f"{path}: damaged ({type(error).__name__} while reading)") from error


def is_marked_synthetic(path: Path | str, limits: Limits = DEFAULT_LIMITS) -> bool:
    """Whether a PNG's text or a NIfTI description says that the image is synthetic."""
    stream, _ = open_regular(path, limits)
    with stream:
        start = stream.read(64 * 1024)
    if start.startswith(b"\x89PNG"):
        return b"tEXtSyntheticData\0YES" in start
    return b"\0SYNTHETIC" in start[147:158] or start[148:157] == b"SYNTHETIC"


def _read_raster(path: Path | str, stream: BinaryIO, frames: str, limits: Limits):
    with Image.open(stream, formats=FORMATS) as image:
        check_frame_size(path, image.height, image.width, limits)
        count = getattr(image, "n_frames", 1)

        def show(number: int) -> np.ndarray:
            image.seek(number)
            check_frame_size(path, image.height, image.width, limits)
            return _raster_values(path, image)

        return _collect(path, show, choose_frames(frames, count, show), count, limits, None)


def _raster_values(path: Path | str, image: Image.Image) -> np.ndarray:
    """Pixels (H, W) or (H, W, 3) uint8; transparency over black, 16 bits over their whole range."""
    if image.mode in ("I;16", "I;16B", "I;16L", "I"):
        values = np.asarray(image).astype(np.int64)
        return np.clip(np.rint(values / 257), 0, 255).astype(np.uint8)
    if image.mode in ("L", "1"):
        return np.asarray(image.convert("L"))
    if image.mode == "F":
        raise UnreadableImage(f"{path}: holds floating-point pixels, expected 8 or 16 bits")
    if image.mode in ("LA", "RGBA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    colour = np.asarray(image.convert("RGB"))
    return colour


def _collect(
    path: Path | str,
    show: Callable[[int], np.ndarray],
    wanted: list[int],
    count: int,
    limits: Limits,
    spacing: tuple[float, float] | None,
):
    first = show(wanted[0])
    check_decoded_size(path, len(wanted), first.size, limits)
    pixels = [first, *(show(number) for number in wanted[1:])]
    if any(frame.shape != first.shape for frame in pixels):
        raise UnreadableImage(f"{path}: its pages differ in size, expected equal ones")
    stacked = np.stack([frame[..., None] if frame.ndim == 2 else frame for frame in pixels])
    return stacked, spacing, tuple(wanted), count


def _read_nifti(path: Path | str, stream: BinaryIO, frames: str, limits: Limits):
    """NIfTI axis 0 is x: slices are transposed, so that rows come first; values are stretched to 0..255."""
    import nibabel

    data = stream.read()
    if data[:2] == b"\x1f\x8b":
        data = _gunzip(path, data, limits)
    image = nibabel.Nifti1Image.from_bytes(data)
    shape = tuple(side for side in image.shape if side != 1) if len(image.shape) > 3 else image.shape
    if not 2 <= len(shape) <= 3 or min(shape) < 1:
        raise UnreadableImage(f"{path}: has shape {image.shape}, expected 2 or 3 dimensions")
    check_frame_size(path, shape[1], shape[0], limits)
    check_decoded_size(path, 1, math.prod(shape) * image.get_data_dtype().itemsize, limits)
    values = np.asarray(image.dataobj).reshape(shape)
    if values.dtype.kind not in "uif" or not np.isfinite(values).all():
        raise UnreadableImage(f"{path}: holds values that are not finite numbers")
    low, high = float(values.min()), float(values.max())
    if values.dtype == np.uint8:
        low, high = 0.0, 255.0
    scale = 255.0 / (high - low) if high > low else 0.0
    count = shape[2] if len(shape) == 3 else 1
    zooms = [float(zoom) for zoom in image.header.get_zooms()[:2]]
    spacing = (zooms[1], zooms[0]) if all(1e-3 <= zoom <= 20 for zoom in zooms) else None

    def show(number: int) -> np.ndarray:
        plane = values[..., number] if len(shape) == 3 else values
        return np.rint((plane.T.astype(np.float64) - low) * scale).astype(np.uint8)

    return _collect(path, show, choose_frames(frames, count, show), count, limits, spacing)


def _gunzip(path: Path | str, data: bytes, limits: Limits) -> bytes:
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
        parts, total = [], 0
        try:
            while block := stream.read(MIB):
                total += len(block)
                if total > limits.inflated_bytes or (total > 32 * MIB and total > limits.inflate_ratio * len(data)):
                    raise UnreadableImage(f"{path}: grows to more than {total:,} bytes when unpacked; not read")
                parts.append(block)
        except zlib.error as error:
            raise UnreadableImage(f"{path}: its compression is damaged") from error
    return b"".join(parts)
