"""How deep the sequences of a DICOM header are nested, found by walking over its bytes without building anything."""

from __future__ import annotations

import struct

_UNDEFINED = 0xFFFFFFFF
_LONG = {b"OB", b"OW", b"OD", b"OF", b"OL", b"OV", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
_BULK = {b"OB", b"OW", b"OD", b"OF", b"OL", b"OV"}


def nesting_depth(data: bytes, start: int, implicit: bool, little_endian: bool, limit: int) -> int:
    """Return the depth of the deepest sequence (PS3.5 7.5), at most one more than `limit`.

    In implicit VR a sequence of defined length cannot be told from other values and is not entered; the reader never
    enters it either, except for the few it names.

    Args:
        data: file up to its pixels.
        start: offset of the first element.
        implicit: VR of the data set; group 0002 is always explicit little endian.
        little_endian: byte order of the data set.
        limit: where to stop.
    """
    depth, place = 0, start
    open_ends: list[tuple[bool, int]] = []  # (is a sequence, end or undefined)
    while place + 8 <= len(data):
        while open_ends and open_ends[-1][1] <= place:
            open_ends.pop()
        if data[place : place + 2] == b"\x02\0":
            group, element, vr, length, value = _element(data, place, False, "<")
        else:
            group, element, vr, length, value = _element(data, place, implicit, "<" if little_endian else ">")
        place = value
        if group == 0xFFFE:
            if element == 0xE000:
                open_ends.append((False, _UNDEFINED if length == _UNDEFINED else place + length))
            elif open_ends:
                _close(open_ends, sequence=element == 0xE0DD)
        elif vr == b"SQ" or (length == _UNDEFINED and vr not in _BULK):
            open_ends.append((True, _UNDEFINED if length == _UNDEFINED else place + length))
            depth = max(
                depth, sum(1 for sequence, _ in open_ends if sequence) if len(open_ends) <= 4 * limit else limit + 1
            )
            if depth > limit:
                return depth
        elif length == _UNDEFINED:
            break
        else:
            place += length
    return depth


def _element(data: bytes, place: int, implicit: bool, order: str) -> tuple[int, int, bytes, int, int]:
    """Group, element, VR, length and offset of the value of the element at `place`."""
    group, element = struct.unpack_from(order + "HH", data, place)
    vr = data[place + 4 : place + 6]
    if implicit or group == 0xFFFE:
        return group, element, b"", struct.unpack_from(order + "I", data, place + 4)[0], place + 8
    if vr in _LONG:
        if place + 12 > len(data):
            return group, element, vr, len(data), place + 8
        return group, element, vr, struct.unpack_from(order + "I", data, place + 8)[0], place + 12
    return group, element, vr, struct.unpack_from(order + "H", data, place + 6)[0], place + 8


def _close(open_ends: list[tuple[bool, int]], sequence: bool) -> None:
    """Close the innermost item or sequence."""
    while open_ends:
        was_sequence, _ = open_ends.pop()
        if was_sequence == sequence:
            return
