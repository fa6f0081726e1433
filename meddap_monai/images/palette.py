"""Palettes: look-up tables from stored values to colour, whatever the width, byte order and VR they are stored in."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from meddap_monai.errors import UnreadableImage
from meddap_monai.images.decode import Layout
from meddap_monai.images.header import Header, word

_COLOURS = ("Red", "Green", "Blue")
_DISCRETE, _LINEAR, _INDIRECT = range(3)
_BYTES = ("OB", "UN")
"""Value representations that are never turned with the byte order of the file."""


@dataclass(frozen=True)
class Palette:
    """Colours of the stored values `first`, `first` + 1, ...

    Attributes:
        first: the first stored value that is mapped.
        colours: (N, 3) uint8 RGB.
        supplemental: grey below `first`, colour from there on (PS3.3 C.7.6.19).
    """

    first: int
    colours: np.ndarray
    supplemental: bool

    def paint(self, values: np.ndarray) -> np.ndarray:
        """Stored values (H, W) to RGB (H, W, 3) uint8; values beyond either end take its colour."""
        last = len(self.colours) - 1
        if self.first == 0 and values.dtype == np.uint8 and last >= 255:
            return self.colours[values]
        return self.colours[np.clip(values.astype(np.int32) - self.first, 0, last)]


def read_palette(header: Header, layout: Layout) -> Palette | None:
    """Read the palette of a PALETTE COLOR image, or the supplemental one of a grey image; None when it has neither.

    Sources: PS3.3 C.7.6.3.1.5 and 6 (tables), C.7.9.2 (segments), C.7.6.19 and Pixel Presentation (0008,9205).

    Raises:
        UnreadableImage: a table is missing or its length contradicts its descriptor.
    """
    supplemental = layout.samples == 1 and word(header, "PixelPresentation") in ("COLOR", "MIXED")
    if layout.photometric != "PALETTE COLOR" and not supplemental:
        return None
    try:
        descriptors = [_descriptor(header, colour, layout.signed) for colour in _COLOURS]
        count, first, _ = descriptors[0]
        if any(descriptor[:2] != (count, first) for descriptor in descriptors):
            raise UnreadableImage(f"{header.path}: the descriptors of red, green and blue (0028,1101 to 1103) differ")
        tables = [_entries(header, *both) for both in zip(_COLOURS, descriptors, strict=True)]
    except (KeyError, IndexError, struct.error) as error:
        raise UnreadableImage(
            f"{header.path}: the palette (0028,1101 to 1223) is missing or damaged ({type(error).__name__})"
        ) from error
    wide = any(table.dtype != np.uint8 and table.max() > 255 for table in tables)
    colours = np.stack([_as_bytes(table, wide) for table in tables], -1)
    return Palette(first, colours, layout.photometric != "PALETTE COLOR")


def _as_bytes(table: np.ndarray, wide: bool) -> np.ndarray:
    """Entries to 0..255; some machines announce 16 bits and write 8, so the range of all three tables decides."""
    if table.dtype == np.uint8 or not wide:
        return table.astype(np.uint8)
    return np.rint(table * (255.0 / 65535)).astype(np.uint8)


def _descriptor(header: Header, colour: str, signed: bool) -> tuple[int, int, int]:
    """Number of entries, first value mapped, bits of an entry; a number of 0 means 65,536."""
    vr, data = _raw(header, f"{colour}PaletteColorLookupTableDescriptor")
    kind = "h" if vr == "SS" or signed else "H"
    count, first, bits = struct.unpack(("<" if header.little_endian else ">") + "H" + kind + "H", data)
    if bits not in (8, 16):
        raise UnreadableImage(f"{header.path}: the palette's entries have {bits} bits (0028,1101), expected 8 or 16")
    return count or 65536, first, bits


def _raw(header: Header, name: str) -> tuple[str, bytes]:
    found = header.raw(name)
    if found is None:
        raise KeyError(name)
    return found


def _entries(header: Header, colour: str, descriptor: tuple[int, int, int]) -> np.ndarray:
    """The entries of one table (N,): uint8 where they are stored as bytes, else uint16."""
    count, _, bits = descriptor
    name = f"{colour}PaletteColorLookupTableData"
    if header.raw(name) is None:
        vr, data = _raw(header, f"Segmented{name}")
        segments = _bytes(header, vr, data) if bits == 8 else _words(header, data)
        return _expand(header, segments.tolist(), bits, count)
    vr, data = _raw(header, name)
    if len(data) == 2 * count and (bits == 16 or count > 1):
        return _words(header, data)
    if len(data) - count in (0, 1):
        return _bytes(header, vr, data)[:count]
    raise UnreadableImage(
        f"{header.path}: a palette table holds {len(data):,} bytes, expected {count:,} or {2 * count:,} for "
        f"{count:,} entries"
    )


def _words(header: Header, data: bytes) -> np.ndarray:
    return np.frombuffer(data[: len(data) // 2 * 2], "<u2" if header.little_endian else ">u2").astype(np.uint16)


def _bytes(header: Header, vr: str, data: bytes) -> np.ndarray:
    """Bytes that are packed into words of the file's byte order (PS3.5 8.2), in their own order."""
    if header.little_endian or vr in _BYTES:
        return np.frombuffer(data, np.uint8)
    entries = np.frombuffer(data, np.uint8).copy()
    pairs = entries[: len(entries) // 2 * 2].reshape(-1, 2)
    pairs[:] = pairs[:, ::-1].copy()
    return entries


def _expand(header: Header, data: list[int], bits: int, count: int) -> np.ndarray:
    """Expand a segmented table to its `count` entries (N,).

    The standard counts the offset of an indirect segment in bytes, GDCM and pydicom count it in entries: what gives the
    announced number of entries counts, and a table that both ways would give differently is refused.
    """
    results: list[list[int]] = []
    for unit in (1,) if bits == 8 else (2, 1):
        try:
            expanded = _segments(data, bits, count, unit)
        except (ValueError, LookupError):
            continue
        if len(expanded) == count and expanded not in results:
            results.append(expanded)
    if len(results) != 1:
        raise UnreadableImage(
            f"{header.path}: the segmented palette (0028,1221 to 1223) is damaged or ambiguous, expected segments that "
            f"give {count:,} entries"
        )
    return np.array(results[0], np.uint8 if bits == 8 else np.uint16)


def _segments(data: list[int], bits: int, count: int, unit: int) -> list[int]:
    """The entries of all segments; each gives one at least, so that `count` bounds the work."""
    numbers = _starts(data, bits, count)
    starts = list(numbers)
    entries: list[int] = []
    for start in starts:
        copied = range(numbers[start], numbers[start] + 1)
        if data[start] == _INDIRECT:
            offset = data[start + 2 : start + _size(data, start, bits)]
            first = numbers[sum(part << (bits * index) for index, part in enumerate(offset)) // unit]
            copied = range(first, first + data[start + 1])
        for number in copied:
            if len(entries) >= count:
                raise ValueError("too many entries")
            _append(entries, data, starts[number])
    return entries


def _starts(data: list[int], bits: int, count: int) -> dict[int, int]:
    """Where each segment begins, and its number."""
    found: dict[int, int] = {}
    place = 0
    while place + 2 < len(data):
        found[place] = len(found)
        place += _size(data, place, bits)
        if len(found) > count:
            raise ValueError("too many segments")
    return found


def _size(data: list[int], place: int, bits: int) -> int:
    """Length of a segment: opcode, number, and what follows."""
    kind, number = data[place : place + 2]
    if kind > _INDIRECT or number == 0:
        raise ValueError("no segment")
    return 2 + {_DISCRETE: number, _LINEAR: 1, _INDIRECT: 32 // bits}[kind]


def _append(entries: list[int], data: list[int], start: int) -> None:
    """Append the entries of a discrete or linear segment; those of an indirect one are never copied."""
    kind, number = data[start : start + 2]
    if kind == _DISCRETE:
        entries += data[start + 2 : start + 2 + number]
    elif kind == _LINEAR:
        begin, end = entries[-1], data[start + 2]
        entries += [round(begin + (end - begin) * step / number) for step in range(1, number + 1)]
    else:
        raise ValueError("an indirect segment of an indirect one")
