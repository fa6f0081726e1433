"""Palettes: look-up tables from stored values to colour, whatever the width, byte order and VR they are stored in."""

import struct
from dataclasses import dataclass

import numpy as np

from meddap_monai.errors import UnreadableImage
from meddap_monai.images.reading.decode import Layout
from meddap_monai.images.reading.header import Header, word
from meddap_monai.images.reading.look_up import Table, describe, entries_of, look_up, packed_bytes, raw, words

_COLOURS = ("Red", "Green", "Blue")
_DISCRETE, _LINEAR, _INDIRECT = range(3)


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
        if self.first == 0 and values.dtype == np.uint8 and len(self.colours) >= 256:
            return self.colours[values]
        return look_up(values, self.first, self.colours)


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
        described = [
            describe(header, f"{colour}PaletteColorLookupTableDescriptor", layout.signed) for colour in _COLOURS
        ]
        table = described[0]
        if any((other.count, other.first) != (table.count, table.first) for other in described):
            raise UnreadableImage(f"{header.path}: the descriptors of red, green and blue (0028,1101 to 1103) differ")
        if any(other.bits not in (8, 16) for other in described):
            raise UnreadableImage(
                f"{header.path}: the palette's entries have {table.bits} bits (0028,1101), expected 8 or 16"
            )
        tables = [_entries(header, *both) for both in zip(_COLOURS, described, strict=True)]
    except (KeyError, IndexError, struct.error) as error:
        raise UnreadableImage(
            f"{header.path}: the palette (0028,1101 to 1223) is missing or damaged ({type(error).__name__})"
        ) from error
    wide = any(entries.dtype != np.uint8 and entries.max() > 255 for entries in tables)
    colours = np.stack([_as_bytes(entries, wide) for entries in tables], -1)
    return Palette(table.first, colours, layout.photometric != "PALETTE COLOR")


def _as_bytes(table: np.ndarray, wide: bool) -> np.ndarray:
    """Entries to 0..255; some machines announce 16 bits and write 8, so the range of all three tables decides."""
    if table.dtype == np.uint8 or not wide:
        return table.astype(np.uint8)
    return np.rint(table * (255.0 / 65535)).astype(np.uint8)


def _entries(header: Header, colour: str, table: Table) -> np.ndarray:
    """The entries of one table (N,): uint8 where they are stored as bytes, else uint16."""
    name = f"{colour}PaletteColorLookupTableData"
    found = header.raw(name)
    if found and found[1]:
        return entries_of(header, name, table)
    vr, data = raw(header, f"Segmented{name}")
    segments = packed_bytes(header, vr, data) if table.bits == 8 else words(header, data)
    return _expand(header, segments.tolist(), table.bits, table.count)


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
