"""DICOM files byte by byte, so that tests can write what no library would."""

import struct
import zlib
from collections.abc import Mapping

import numpy as np

EXPLICIT, IMPLICIT, BIG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
DEFLATED, RLE, JPEG = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.50"
JPEG_LOSSLESS, JPEG_LS, JPEG_2000 = "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90"
LONG = {"OB", "OW", "SQ", "UN", "UT", "OF", "OD"}
ROWS, COLUMNS = 24, 32
GREY = (np.arange(ROWS * COLUMNS) % 251).astype(np.uint8).reshape(ROWS, COLUMNS)

Value = tuple[str, bytes]


def short(*numbers: int, order: str = "<") -> Value:
    """US."""
    return "US", struct.pack(f"{order}{len(numbers)}H", *numbers)


def text(vr: str, value: str | bytes) -> Value:
    """A text value, padded to even length."""
    data = value if isinstance(value, bytes) else value.encode()
    return vr, data + (b"\0" if vr == "UI" else b" ") * (len(data) % 2)


def element(
    tag: int, vr: str, data: bytes, order: str = "<", implicit: bool = False, length: int | None = None
) -> bytes:
    """One data element."""
    head = struct.pack(order + "HH", tag >> 16, tag & 0xFFFF)
    size = len(data) if length is None else length
    if implicit:
        return head + struct.pack(order + "I", size) + data
    if vr in LONG:
        return head + vr.encode() + b"\0\0" + struct.pack(order + "I", size) + data
    return head + vr.encode() + struct.pack(order + "H", size) + data


def meta(syntax: str) -> bytes:
    """Preamble, prefix and file meta information."""
    body = element(0x00020002, "UI", text("UI", "1.2.840.10008.5.1.4.1.1.6.1")[1])
    body += element(0x00020003, "UI", text("UI", "1.2.3.4")[1])
    body += element(0x00020010, "UI", text("UI", syntax)[1])
    return b"\0" * 128 + b"DICM" + element(0x00020000, "UL", struct.pack("<I", len(body))) + body


def header(order: str = "<", pixels: np.ndarray = GREY) -> dict[int, Value]:
    """The elements of a good 8-bit grey ultrasound image."""
    rows, columns = pixels.shape[:2]
    return {
        0x00080016: text("UI", "1.2.840.10008.5.1.4.1.1.6.1"),
        0x00080060: text("CS", "US"),
        0x00100020: text("LO", "someone"),
        0x00280002: short(1, order=order),
        0x00280004: text("CS", "MONOCHROME2"),
        0x00280010: short(rows, order=order),
        0x00280011: short(columns, order=order),
        0x00280100: short(8, order=order),
        0x00280101: short(8, order=order),
        0x00280102: short(7, order=order),
        0x00280103: short(0, order=order),
        0x7FE00010: ("OB", pixels.tobytes()),
    }


def dicom(
    changes: Mapping[int, Value | None] | None = None,
    syntax: str = EXPLICIT,
    pixels: np.ndarray = GREY,
    pixel_length: int | None = None,
) -> bytes:
    """A whole file; `changes` replaces elements, None removes one."""
    order = ">" if syntax == BIG else "<"
    elements: dict[int, Value | None] = {**header(order, pixels), **(changes or {})}
    body = b""
    for tag, value in sorted(elements.items()):
        if value is not None:
            length = pixel_length if tag == 0x7FE00010 else None
            body += element(tag, *value, order=order, implicit=syntax == IMPLICIT, length=length)
    return meta(syntax) + body


def fragments(*parts: bytes, table: bytes = b"", end: bool = True) -> bytes:
    """Encapsulated pixel data: offset table, fragments, delimiter."""
    items = [part + b"\0" * (len(part) % 2) for part in (table, *parts)]
    out = b"".join(b"\xfe\xff\x00\xe0" + struct.pack("<I", len(item)) + item for item in items)
    return out + (b"\xfe\xff\xdd\xe0\0\0\0\0" if end else b"")


def compressed(syntax: str, *parts: bytes, changes: Mapping[int, Value | None] | None = None, **keys) -> bytes:
    """A file with encapsulated pixel data."""
    return dicom({0x7FE00010: ("OB", fragments(*parts, **keys)), **(changes or {})}, syntax, pixel_length=0xFFFFFFFF)


def jpeg(pixels: np.ndarray = GREY, **keys) -> bytes:
    """A JPEG baseline frame."""
    import io

    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=95, **keys)
    return stream.getvalue()


def jpeg2000(pixels: np.ndarray = GREY) -> bytes:
    """A JPEG 2000 codestream."""
    import io

    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG2000", no_jp2=True)
    return stream.getvalue()


def jpeg_ls(pixels: np.ndarray = GREY) -> bytes:
    """A JPEG-LS frame."""
    import jpeg_ls

    return bytes(jpeg_ls.encode(pixels))


def rle(pixels: np.ndarray = GREY) -> bytes:
    """An RLE frame of one segment, coded as literal runs (PS3.5 G.3)."""
    data = b""
    for row in pixels:
        line = row.tobytes()
        for begin in range(0, len(line), 128):
            part = line[begin : begin + 128]
            data += bytes([len(part) - 1]) + part
    data += b"\0" * (len(data) % 2)
    return struct.pack("<16I", 1, 64, *[0] * 14) + data


def sequence_of_depth(depth: int, tag: int = 0x00186011) -> bytes:
    """Nested sequences of undefined length, `depth` levels, explicit little endian."""
    begin = (
        struct.pack("<HH", tag >> 16, tag & 0xFFFF) + b"SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    )
    end = b"\xfe\xff\x0d\xe0\0\0\0\0" + b"\xfe\xff\xdd\xe0\0\0\0\0"
    return begin * depth + end * depth


def deflated_zeros(megabytes: int) -> bytes:
    """A raw deflate stream of zeros, made of one block that repeats."""
    machine = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = machine.compress(b"\0" * 2**20) + machine.flush(zlib.Z_FULL_FLUSH)
    return block * megabytes + machine.flush()
