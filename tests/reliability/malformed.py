"""The 60 malformed files of R1: each a name, what may come of it, and a function that puts it at a path."""

import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import raw_dicom as raw
from raw_dicom import GREY, compressed, dicom, short, text


@dataclass(frozen=True)
class Case:
    """`outcome` is "refused" or "array"; `says` must occur in the error."""

    family: str
    name: str
    outcome: str
    put: Callable[[Path], object]
    says: str = ""


def _bytes(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


def _refused(family: str, name: str, data: bytes, says: str = "") -> Case:
    return Case(family, name, "refused", _bytes(data), says)


def not_dicom() -> list[Case]:
    png = b"\x89PNG\r\n\x1a\n" + b"\0" * 400
    return [
        _refused("not DICOM", "empty", b"", "is empty"),
        _refused("not DICOM", "text", b"hello, this is no image\n" * 50, "not DICOM"),
        _refused("not DICOM", "png", png, "not DICOM"),
        _refused("not DICOM", "zeros", b"\0" * 5000, "not DICOM"),
        _refused("not DICOM", "short", b"\0" * 128 + b"DICM", ""),
        _refused("not DICOM", "noise", np.random.default_rng(0).bytes(5000), ""),
    ]


def truncated() -> list[Case]:
    good = dicom()
    cuts = {"in the meta": 200, "in the header": len(good) - GREY.size - 60, "in the pixels": len(good) - 100}
    cases = [_refused("truncated", name, good[:cut]) for name, cut in cuts.items()]
    cases += [
        _refused("truncated", "one byte", good[:-1], "truncated"),
        _refused("truncated", "no pixels", dicom({0x7FE00010: None}), "no PixelData"),
        _refused("truncated", "empty pixels", dicom({0x7FE00010: ("OB", b"")}), "truncated"),
        _refused("truncated", "jpeg", compressed(raw.JPEG, raw.jpeg()[:100], end=False)),
        _refused("truncated", "second frame", dicom({0x00280008: text("IS", "2")}), "expected 1,536"),
    ]
    return cases


def headers() -> list[Case]:
    def without(tag: int) -> bytes:
        return dicom({tag: None})

    return [
        _refused("header", "no rows", without(0x00280010), "Rows (0028,0010) is missing, expected 1 to 65535"),
        _refused("header", "no columns", without(0x00280011), "Columns (0028,0011) is missing"),
        _refused("header", "no bits allocated", without(0x00280100), "BitsAllocated"),
        _refused("header", "no photometric", without(0x00280004), "PhotometricInterpretation"),
        _refused("header", "zero rows", dicom({0x00280010: short(0)}), "Rows (0028,0010) is 0, expected 1 to 65535"),
        _refused("header", "zero columns", dicom({0x00280011: short(0)}), "Columns (0028,0011) is 0"),
        _refused("header", "zero bits", dicom({0x00280100: short(0)}), "BitsAllocated (0028,0100) is 0"),
        _refused("header", "zero samples", dicom({0x00280002: short(0)}), "SamplesPerPixel (0028,0002) is 0"),
        _refused("header", "zero frames", dicom({0x00280008: text("IS", "0")}), "NumberOfFrames (0028,0008) is 0"),
        _refused(
            "header", "minus one frame", dicom({0x00280008: text("IS", "-1")}), "NumberOfFrames (0028,0008) is -1"
        ),
        _refused(
            "header", "negative rows", dicom({0x00280010: ("SS", struct.pack("<h", -24))}), "Rows (0028,0010) is -24"
        ),
        _refused("header", "huge frames", dicom({0x00280008: text("IS", "2147483647")}), "NumberOfFrames"),
    ]


def types() -> list[Case]:
    return [
        _refused("type", "rows as text", dicom({0x00280010: text("LO", "many")}), "Rows (0028,0010) is not one whole"),
        _refused("type", "two rows", dicom({0x00280010: short(24, 24)}), "Rows (0028,0010) is not one whole"),
        _refused("type", "rows as bytes", dicom({0x00280010: ("OB", b"\1\2\3\4")}), "Rows"),
        _refused("type", "odd short", dicom({0x00280010: ("US", b"\x18")})),
        _refused("type", "frames as text", dicom({0x00280008: text("IS", "1A")}), "NumberOfFrames"),
        _refused("type", "photometric as number", dicom({0x00280004: short(7)}), "PhotometricInterpretation"),
        _refused(
            "type", "rows as fraction", dicom({0x00280010: text("DS", "24.5")}), "Rows (0028,0010) is not one whole"
        ),
        _refused("type", "unknown vr", dicom({0x00280010: ("ZZ", struct.pack("<H", 24))})),
    ]


def pixels() -> list[Case]:
    rgb = {0x00280002: short(3), 0x00280004: text("CS", "RGB")}
    return [
        _refused("pixels", "rgb of one sample", dicom({0x00280004: text("CS", "RGB")}), "SamplesPerPixel"),
        _refused("pixels", "grey of three", dicom({0x00280002: short(3)}), "SamplesPerPixel"),
        _refused("pixels", "four samples", dicom({0x00280002: short(4)}), "SamplesPerPixel (0028,0002) is 4"),
        _refused(
            "pixels", "unknown photometric", dicom({0x00280004: text("CS", "PURPLE")}), "PhotometricInterpretation"
        ),
        _refused(
            "pixels", "more stored than allocated", dicom({0x00280101: short(12)}), "BitsStored (0028,0101) is 12"
        ),
        _refused("pixels", "palette without palette", dicom({0x00280004: text("CS", "PALETTE COLOR")}), "palette"),
        _refused("pixels", "rgb too short", dicom(rgb), "truncated"),
        _refused("pixels", "planar configuration 5", dicom({**rgb, 0x00280006: short(5)}), "PlanarConfiguration"),
    ]


def codecs() -> list[Case]:
    j2k = raw.jpeg2000()
    broken = raw.rle()[:64] + b"\x80" * 10
    return [
        _refused("codec", "jpeg is noise", compressed(raw.JPEG, np.random.default_rng(1).bytes(900))),
        _refused("codec", "jpeg of another size", compressed(raw.JPEG, raw.jpeg(GREY[:8])), "announces 8 x 32"),
        _refused("codec", "j2k cut", compressed(raw.JPEG_2000, j2k[: len(j2k) // 8])),
        _refused("codec", "rle too short", compressed(raw.RLE, broken)),
        _refused("codec", "no frame", compressed(raw.JPEG)),
        _refused("codec", "not encapsulated", dicom(syntax=raw.JPEG), "not encapsulated"),
        _refused("codec", "unknown syntax", dicom(syntax="1.2.3.4.5"), "not"),
        _refused("codec", "video", compressed("1.2.840.10008.1.2.4.102", b"\0\0\1\xb3" * 20), "not supported"),
    ]


def bombs() -> list[Case]:
    bomb = bytearray(raw.jpeg2000())
    bomb[8:16] = struct.pack(">2I", 65535, 65535)
    nested = raw.meta(raw.EXPLICIT) + raw.sequence_of_depth(100_000) + dicom()[len(raw.meta(raw.EXPLICIT)) :]
    wide = {0x00280010: short(65535), 0x00280011: short(65535)}
    return [
        _refused("limits", "deflated zeros", raw.meta(raw.DEFLATED) + raw.deflated_zeros(200), "deflated data grow"),
        _refused("limits", "65,535 x 65,535", dicom(wide), "65535 x 65535 pixels"),
        _refused("limits", "100,000 nested sequences", nested, "nested deeper"),
        _refused("limits", "jpeg 2000 of 65,535 x 65,535", compressed(raw.JPEG_2000, bytes(bomb)), "announces 65535"),
        _refused("limits", "length of 4 GB", dicom(pixel_length=0xFFFFFFF0), "truncated"),
        Case("limits", "sparse file of 600 MB", "refused", lambda path: _sparse(path, 600 * 2**20), "expected at most"),
    ]


def _sparse(path: Path, size: int) -> None:
    with path.open("wb") as stream:
        stream.truncate(size)


def _socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


def objects() -> list[Case]:
    return [
        Case("objects", "named pipe", "refused", os.mkfifo, "a named pipe"),
        Case("objects", "directory x.dcm", "refused", lambda path: path.mkdir(), "a directory"),
        Case("objects", "dangling link", "refused", lambda path: path.symlink_to("nowhere"), "cannot be opened"),
        Case("objects", "socket", "refused", _socket, "regular file"),
    ]


def every_case() -> list[Case]:
    """All of them, in the families of docs/reliability.md."""
    families = (not_dicom, truncated, headers, types, pixels, codecs, bombs, objects)
    return [case for family in families for case in family()]
