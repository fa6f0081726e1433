"""Whether a file that is not DICOM says that its image is synthetic, whichever tool wrote the words anew."""

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from meddap_monai.images.reading.containers import png_chunks
from meddap_monai.images.reading.limits import MIB, Limits
from meddap_monai.images.reading.nifti import head_of_nifti

KEY = "meddap-monai"
"""Keyword of the PNG text that holds how an image was made."""
NOTICE = "Synthetic image made by a generative model; it shows no patient and is not for diagnosis."
DERIVED = (
    "Synthetic image derived from a patient's image by a generative model; it may show that patient and is not for "
    "diagnosis."
)
"""Instead of `NOTICE`, for an image that was made from a patient's image or comes near one."""
_TEXT_BYTES = MIB


def png_is_marked(path: Path | str, stream: BinaryIO) -> bool:
    """Whether a PNG's text says so, be it stored as tEXt, zTXt or iTXt, before or after the pixels."""
    for keyword, text in _texts(path, stream):
        if keyword == KEY.encode() or any(words.encode() in text for words in (NOTICE, DERIVED)):
            return True
        if keyword.lower() == b"syntheticdata" and text.strip(b"\0 \r\n").upper() == b"YES":
            return True
    return False


def nifti_is_marked(path: Path | str, stream: BinaryIO, limits: Limits) -> bool:
    """Whether a NIfTI file's description or an extension says so, packed or not."""
    head = head_of_nifti(path, stream, limits)
    return head[148:228].strip(b"\0 ").upper().startswith(b"SYNTHETIC") or _has_notice(head[348:])


def other_is_marked(stream: BinaryIO) -> bool:
    """Whether the notice stands anywhere in a JPEG, TIFF or BMP file: in a comment, a description, EXIF or XMP."""
    stream.seek(0)
    tail = b""
    while block := stream.read(MIB):
        if _has_notice(tail + block):
            return True
        tail = block[-len(DERIVED) :]
    return False


def _has_notice(data: bytes) -> bool:
    return any(words in data for words in (NOTICE.encode(), DERIVED.encode(), b"SyntheticData"))


def _texts(path: Path | str, stream: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """Yield keyword and text, unpacked up to 1 MiB, of every text chunk (PNG 11.3.3)."""
    for kind, length in png_chunks(path, stream):
        if kind not in (b"tEXt", b"zTXt", b"iTXt"):
            continue
        keyword, _, text = stream.read(min(length, 16 * MIB)).partition(b"\0")
        packed = kind == b"zTXt"
        if packed:
            text = text[1:]
        elif kind == b"iTXt":
            packed = text[:1] == b"\1"
            text = text[2:].partition(b"\0")[2].partition(b"\0")[2]
        yield keyword, _unpacked(text) if packed else text


def _unpacked(data: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, _TEXT_BYTES)
    except zlib.error:
        return b""
