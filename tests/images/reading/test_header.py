"""The walk over a header: encodings that contradict the syntax, odd lengths, and ceilings."""

import struct
from pathlib import Path

import numpy as np
import pytest
import raw_dicom as raw
from raw_dicom import GREY, dicom, element, header, short, text

from meddap_monai.errors import UnreadableImage
from meddap_monai.images.reading.dicom import read_ultrasound
from meddap_monai.images.reading.limits import Limits

KEY = b"k" * 32


def said(written: str, syntax: str) -> bytes:
    """A data set written in one syntax under the name of another."""
    return raw.meta(syntax) + dicom(syntax=written)[len(raw.meta(written)) :]


def implicit_under_jpeg_ls() -> bytes:
    elements = {**header(), 0x7FE00010: ("OB", raw.fragments(raw.jpeg_ls()))}
    body = b"".join(
        element(tag, *value, implicit=True, length=0xFFFFFFFF if tag == 0x7FE00010 else None)
        for tag, value in sorted(elements.items())
    )
    return raw.meta(raw.JPEG_LS) + body


def item(data: bytes, length: int | None = None) -> bytes:
    return b"\xfe\xff\x00\xe0" + struct.pack("<I", len(data) if length is None else length) + data


END_ITEM, END = b"\xfe\xff\x0d\xe0\0\0\0\0", b"\xfe\xff\xdd\xe0\0\0\0\0"
INNER = element(0x00080100, "SH", b"T-1234")


def with_sequence(vr: bytes, value: bytes, length: int = 0xFFFFFFFF) -> bytes:
    """A good file with one more sequence before its pixels."""
    start = raw.meta(raw.EXPLICIT)
    sequence = struct.pack("<HH", 8, 0x1115) + vr + b"\0\0" + struct.pack("<I", length) + value
    return start + sequence + dicom({0x00080016: None, 0x00080060: None})[len(start) :]


PIXELS_OF_ICON = struct.pack("<HH", 0x7FE0, 0x10) + b"OB\0\0\xff\xff\xff\xff" + raw.fragments(raw.jpeg())
ICON = item(element(0x00280010, "US", b"\x40\0") + PIXELS_OF_ICON, 0xFFFFFFFF) + END_ITEM
GOOD = {
    "implicit under explicit": lambda: said(raw.IMPLICIT, raw.EXPLICIT),
    "explicit under implicit": lambda: said(raw.EXPLICIT, raw.IMPLICIT),
    "implicit under JPEG-LS": implicit_under_jpeg_ls,
    "JPEG-LS of defined length": lambda: dicom({0x7FE00010: ("OB", raw.fragments(raw.jpeg_ls()))}, raw.JPEG_LS),
    "no end of the fragments": lambda: raw.compressed(raw.JPEG_LS, raw.jpeg_ls(), end=False),
    "padding behind the pixels": lambda: dicom({0xFFFCFFFC: ("OB", bytes(600))}),
    "HighBit 0 of 8 bits": lambda: dicom({0x00280102: short(0)}),
    "rows of unknown VR": lambda: dicom({0x00280010: ("UN", struct.pack("<H", 24))}),
    "undefined sequence and item": lambda: with_sequence(b"SQ", item(INNER, 0xFFFFFFFF) + END_ITEM + END),
    "undefined sequence, defined item": lambda: with_sequence(b"SQ", item(INNER) * 2 + END),
    "defined sequence, undefined item": lambda: with_sequence(b"SQ", item(INNER, 0xFFFFFFFF) + END_ITEM, 30),
    "empty sequence": lambda: with_sequence(b"SQ", END),
    "unknown sequence, implicit inside": lambda: with_sequence(
        b"UN", item(element(0x00080100, "SH", b"T-1234", implicit=True)) + END
    ),
    "an icon with fragments": lambda: with_sequence(b"SQ", ICON + END),
    "an item that is longer than its sequence": lambda: with_sequence(b"SQ", item(INNER, 500)[: 8 + len(INNER)], 22),
}


@pytest.mark.parametrize("name", GOOD)
def test_read_as_others_read_it(name: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(GOOD[name]())
    assert np.array_equal(read_ultrasound(tmp_path / "x", key=KEY)[0][0, 0], GREY)


@pytest.mark.parametrize("name", ["implicit under explicit", "HighBit 0 of 8 bits", "padding behind the pixels"])
def test_simpleitk_reads_them_alike(name: str, tmp_path: Path) -> None:
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed (pip install SimpleITK)")
    (tmp_path / "x.dcm").write_bytes(GOOD[name]())
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "x.dcm")))[0], GREY)


def regions(count: int) -> dict:
    return {0x00186011: ("SQ", item(element(0x00186012, "US", b"\1\0")) * count)}


@pytest.mark.parametrize(
    ("changes", "limits", "says"),
    [
        (regions(30), Limits(items=29), r"the sequence \(0018,6011\) has more than 29 items; raise the limit items"),
        (regions(30), Limits(elements=60), "has more than 60 data elements before its pixels; raise the limit elem"),
        ({0x00100020: ("LT", b"a" * 2000)}, Limits(value_bytes=1999), r"\(0010,0020\) holds 2,000 bytes, expected at"),
        ({0x00100010: ("LT", b"a" * 2000)}, Limits(value_bytes=1999), None),  # not wanted, so passed by
    ],
)
def test_ceilings(changes: dict, limits: Limits, says: str | None, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(dicom(changes))
    assert np.array_equal(read_ultrasound(tmp_path / "x", key=KEY)[0][0, 0], GREY)
    if says:
        with pytest.raises(UnreadableImage, match=says):
            read_ultrasound(tmp_path / "x", key=KEY, limits=limits)
    else:
        read_ultrasound(tmp_path / "x", key=KEY, limits=limits)


def test_text_is_decoded_as_the_file_says(tmp_path: Path) -> None:
    """The same patient in two character sets has one pseudonym."""
    found = set()
    for name, encoding in (("ISO_IR 100", "latin1"), ("ISO_IR 192", "utf-8")):
        changes = {0x00080005: text("CS", name), 0x00100020: text("LO", "Jürgen".encode(encoding))}
        (tmp_path / "x").write_bytes(dicom(changes))
        found.add(read_ultrasound(tmp_path / "x", key=KEY)[1].patient)
    assert len(found) == 1
