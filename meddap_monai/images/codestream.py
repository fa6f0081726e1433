"""Rows and columns that a compressed frame itself announces, read before any decoder allocates for them."""

from __future__ import annotations

import struct


def announced_size(frame: bytes) -> tuple[int, int] | None:
    """Return (rows, columns) of a JPEG, JPEG-LS or JPEG 2000 frame; None for RLE or when no frame header is found.

    Sources: ISO 10918-1 B.2.2 (SOFn), ISO 14495-1 C.2.2 (SOF55), ISO 15444-1 A.5.1 (SIZ) and Annex I (JP2 boxes).
    """
    if frame[4:8] == b"jP  ":
        place = frame.find(b"\xff\x4f\xff\x51")
        return _jpeg2000(frame, place) if place >= 0 else None
    if frame[:4] == b"\xff\x4f\xff\x51":
        return _jpeg2000(frame, 0)
    if frame[:2] == b"\xff\xd8":
        return _jpeg(frame)
    return None


def _jpeg2000(frame: bytes, start: int) -> tuple[int, int] | None:
    if len(frame) < start + 24:
        return None
    right, bottom, left, top = struct.unpack(">4I", frame[start + 8 : start + 24])
    return bottom - top, right - left


def _jpeg(frame: bytes) -> tuple[int, int] | None:
    place = 2
    while place + 9 <= len(frame):
        if frame[place] != 0xFF:
            return None
        marker = frame[place + 1]
        if marker == 0xFF:
            place += 1
        elif marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            rows, columns = struct.unpack(">HH", frame[place + 5 : place + 9])
            return rows, columns
        elif marker == 0xDA:
            return None
        else:
            place += 2 + struct.unpack(">H", frame[place + 2 : place + 4])[0]
    return None
