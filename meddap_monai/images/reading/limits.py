"""Ceilings that are checked before memory is taken, and the one way in which image files are opened."""

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from meddap_monai.errors import UnreadableImage
from meddap_monai.store import file_kind

MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """What one image file may ask for.

    Attributes:
        file_bytes: size of the file.
        pages: pictures of a TIFF file or of an animated PNG.
        frame_pixels: rows times columns of a frame.
        decoded_bytes: all frames that were asked for, decoded.
        depth: nested sequences in a DICOM header.
        elements: data elements of a DICOM header, nested ones included where they are walked through.
        items: of a sequence that describes the whole image, such as its regions.
        value_bytes: length of a value that is read from a DICOM header.
        inflated_bytes: a deflated DICOM file after inflating.
        inflate_ratio: inflated by deflated size, tested once 32 MiB are inflated.
        frame_ratio: decoded by compressed size of a DICOM frame, tested where it decodes to more than 32 MiB.
        frames: frames of a clip.
        fragments: parts into which the compressed pixels of a file are cut.
    """

    file_bytes: int = 512 * MIB
    pages: int = 4_096
    frame_pixels: int = 64_000_000
    decoded_bytes: int = 1024 * MIB
    depth: int = 32
    elements: int = 300_000
    items: int = 1000
    value_bytes: int = MIB
    inflated_bytes: int = 512 * MIB
    inflate_ratio: int = 100
    frame_ratio: int = 25
    frames: int = 100_000
    fragments: int = 200_000


DEFAULT_LIMITS = Limits()


def open_regular(path: Path | str, limits: Limits = DEFAULT_LIMITS) -> tuple[BinaryIO, int]:
    """Open a regular file for reading without ever blocking; return the stream and its size in bytes.

    Raises:
        UnreadableImage: a directory, named pipe, device or socket; missing; empty; larger than the limit.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        code = getattr(error, "errno", None)
        reason = os.strerror(code) if code else "not a valid file name"
        if code == errno.ENXIO:
            reason = "not a regular file"
        raise UnreadableImage(f"{path!s}: cannot be opened ({reason}); expected a readable regular file") from error
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise UnreadableImage(f"{path}: is {file_kind(found.st_mode)}, expected a regular file")
        if found.st_size == 0:
            raise UnreadableImage(f"{path}: is empty, expected an image file")
        if found.st_size > limits.file_bytes:
            raise UnreadableImage(
                f"{path}: has {found.st_size:,} bytes, expected at most {limits.file_bytes:,}; raise the limit "
                "file_bytes if the file can be trusted"
            )
    except UnreadableImage:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb"), found.st_size


def check_frame_size(path: Path | str, rows: int, columns: int, limits: Limits) -> None:
    """Raise `UnreadableImage` when a frame has more pixels than the limit."""
    if rows * columns > limits.frame_pixels:
        raise UnreadableImage(
            f"{path}: a frame of {rows} x {columns} pixels, expected at most {limits.frame_pixels:,} pixels; raise the "
            "limit frame_pixels if the file can be trusted"
        )


def check_decoded_size(path: Path | str, frames: int, frame_bytes: int, limits: Limits) -> None:
    """Raise `UnreadableImage` when the wanted frames would take more memory than the limit."""
    if frames * frame_bytes > limits.decoded_bytes:
        raise UnreadableImage(
            f"{path}: {frames} frames of {frame_bytes:,} bytes, expected at most {limits.decoded_bytes:,} bytes "
            "in all; ask for fewer frames or raise the limit decoded_bytes"
        )
