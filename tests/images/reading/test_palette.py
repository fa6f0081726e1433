"""Palettes in every way to store them: what is drawn is what the construction says."""

import struct
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import raw_dicom as raw
from raw_dicom import COLUMNS, GREY, ROWS, dicom, short, text

from meddap_monai.errors import UnreadableImage
from meddap_monai.images.reading.dicom import read_ultrasound

KEY = b"k" * 32
TABLES = (0x00281101, 0x00281102, 0x00281103)
ORDERS = {raw.EXPLICIT: "<", raw.IMPLICIT: "<", raw.BIG: ">"}


def channels(count: int) -> np.ndarray:
    """Colours of `count` entries (3, N): up, down and up and down again, between 0 and 255."""
    ramp = np.arange(count) * 255 // max(count - 1, 1)
    return np.stack([ramp, 255 - ramp, np.minimum(ramp, 255 - ramp) * 2])


def packed(entries: np.ndarray, order: str, vr: str) -> bytes:
    """8-bit entries as bytes, padded; in words of big endian two of them change places (PS3.5 8.2)."""
    data = entries.astype(np.uint8).tobytes()
    data += b"\0" * (len(data) % 2)
    return np.frombuffer(data, "u2").byteswap().tobytes() if order == ">" and vr != "OB" else data


def palette(count: int, first: int, bits: int, order: str, tables: list[tuple[str, bytes]]) -> dict:
    descriptor = struct.pack(order + "HhH", count % 65536, first, bits)
    changes = {0x00280004: text("CS", "PALETTE COLOR")}
    for tag, table in zip(TABLES, tables, strict=True):
        changes |= {tag: ("US" if first >= 0 else "SS", descriptor), tag + 0x100: table}
    return changes


def indices(allocated: int, signed: bool, order: str, first: int, count: int) -> tuple[np.ndarray, dict]:
    """Indices that reach beyond both ends of the table, and the elements that hold them."""
    values = first - 3 + np.arange(ROWS * COLUMNS).reshape(ROWS, COLUMNS) * (count + 6) // (ROWS * COLUMNS)
    low = -(1 << (allocated - 1)) if signed else 0
    values = np.clip(values, low, low + (1 << allocated) - 1)
    kind = {8: "i1" if signed else "u1", 16: order + ("i2" if signed else "u2")}[allocated]
    changes = {
        0x00280100: short(allocated, order=order),
        0x00280101: short(allocated, order=order),
        0x00280102: short(allocated - 1, order=order),
        0x00280103: short(int(signed), order=order),
        0x7FE00010: ("OB" if allocated == 8 else "OW", values.astype(kind).tobytes()),
    }
    return values, changes


STORED = {  # bits announced, bytes of an entry, factor of its value
    "bytes": (8, 1, 1),
    "bytes that are announced as words": (16, 1, 1),
    "8 bits in words": (8, 2, 1),
    "words up to 255": (16, 2, 1),
    "words times 256": (16, 2, 256),
    "words times 257": (16, 2, 257),
}


def can_be_written(syntax: str, allocated: int, count: int, stored: str, vr: str) -> bool:
    """Whether a file can hold it, and only in one sense."""
    width = STORED[stored][1]
    explicit_short = syntax != raw.IMPLICIT or vr == "OW"
    one_word = count == 1 and stored == "bytes that are announced as words"  # padded, it is a word
    fits = not (allocated == 8 and count > 256) and not (vr == "US" and count * width > 65534)
    return explicit_short and fits and not one_word and not (vr == "OB" and width == 2)


GRID = [
    case
    for case in product(ORDERS, (8, 16), (1, 2, 255, 256, 4096, 65536), (0, 10, -20), STORED, ("OW", "OB", "US"))
    if can_be_written(*case[:3], *case[4:])
]


def test_the_grid_is_large() -> None:
    assert len(GRID) > 500


@pytest.mark.parametrize("syntax", ORDERS)
@pytest.mark.parametrize("allocated", [8, 16])
def test_every_way_to_store_a_palette(syntax: str, allocated: int, tmp_path: Path) -> None:
    wrong = []
    for case in GRID:
        if case[:2] != (syntax, allocated):
            continue
        _, _, count, first, stored, vr = case
        order, (bits, width, factor) = ORDERS[syntax], STORED[stored]
        colours = channels(count)
        if width == 2:
            tables = [(vr, (table * factor).astype(order + "u2").tobytes()) for table in colours]
        else:
            tables = [(vr, packed(table, order, vr)) for table in colours]
        values, changes = indices(allocated, first < 0, order, first, count)
        (tmp_path / "x").write_bytes(dicom(changes | palette(count, first, bits, order, tables), syntax))
        want = colours[:, np.clip(values - first, 0, count - 1)]
        got = read_ultrasound(tmp_path / "x", key=KEY)[0][0].astype(int)
        if got.shape != want.shape or np.abs(got - want).max() > (1 if factor == 256 else 0):
            wrong.append(case)
    assert not wrong


@pytest.mark.parametrize("vr", ["OW", "OB"])
def test_an_odd_table_without_padding(vr: str, tmp_path: Path) -> None:
    colours = channels(255)
    tables = [(vr, table.astype(np.uint8).tobytes()) for table in colours]
    (tmp_path / "x").write_bytes(dicom(palette(255, 0, 8, "<", tables)))
    assert np.array_equal(read_ultrasound(tmp_path / "x", key=KEY)[0][0], colours[:, GREY])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({0x00281201: ("OW", bytes(100))}, "a look-up table holds 100 bytes, expected 256 or 512 for 256 entries"),
        ({0x00281202: ("OW", bytes(1024))}, "a look-up table holds 1,024 bytes"),
        ({0x00281203: None}, "the palette .* is missing"),
        ({0x00281101: None}, "the palette .* is missing"),
        ({0x00281102: short(200, 0, 8)}, "descriptors of red, green and blue .* differ"),
        ({0x00281101: short(256, 0, 12)}, "entries have 12 bits .* expected 8 or 16"),
        ({0x00281101: short(256, 0)}, "the palette .* is missing or damaged"),
    ],
)
def test_palettes_that_contradict_themselves(changes: dict, says: str, tmp_path: Path) -> None:
    whole = palette(256, 0, 8, "<", [("OW", bytes(range(256)))] * 3)
    (tmp_path / "x").write_bytes(dicom(whole | changes))
    with pytest.raises(UnreadableImage, match=says):
        read_ultrasound(tmp_path / "x", key=KEY)


@pytest.mark.parametrize("presentation", ["COLOR", "MIXED", "MONOCHROME"])
@pytest.mark.parametrize("syntax", ORDERS)
def test_supplemental_palettes_colour_the_upper_values(syntax: str, presentation: str, tmp_path: Path) -> None:
    order, red = ORDERS[syntax], np.linspace(100, 250, 51).astype(int)
    tables = [("OW", (red * factor).astype(order + "u2").tobytes()) for factor in (257, 0, 0)]
    changes = palette(51, 200, 16, order, tables)
    changes |= {0x00280004: text("CS", "MONOCHROME2"), 0x00089205: text("CS", presentation)}
    (tmp_path / "x").write_bytes(dicom(changes, syntax))
    want = np.stack([GREY] * 3).astype(int)
    want[:, GREY >= 200] = np.stack([red[GREY[GREY >= 200] - 200], *np.zeros((2, (GREY >= 200).sum()), int)])
    got = read_ultrasound(tmp_path / "x", key=KEY)[0][0]
    assert np.array_equal(got, GREY[None] if presentation == "MONOCHROME" else want)


def segments(bits: int, order: str, unit: int) -> tuple[bytes, np.ndarray]:
    """A segmented table of 256 entries: discrete, linear, an indirect copy of the linear one, linear.

    `unit` is what one step of the indirect segment's offset means: 1 an entry, 2 the two bytes of one.
    """
    most = 200 if bits == 8 else 51400
    middle = 4 * unit  # the linear segment begins at the fifth entry
    offset = [middle, 0, 0, 0] if bits == 8 else [middle, 0]
    data = [0, 2, 0, most // 2, 1, 100, most, 2, 1, *offset, 1, 54, 0]
    line = [most // 2 + most * step / 200 for step in range(1, 101)]
    entries = [0, most // 2, *line, *[most] * 100, *[most - most * step / 54 for step in range(1, 55)]]
    return packed(np.array(data), order, "OW") if bits == 8 else np.array(data, order + "u2").tobytes(), np.array(
        entries
    )


@pytest.mark.parametrize(("bits", "unit"), [(8, 1), (16, 1), (16, 2)])
@pytest.mark.parametrize("syntax", ORDERS)
def test_segmented_palettes(syntax: str, bits: int, unit: int, tmp_path: Path) -> None:
    data, entries = segments(bits, ORDERS[syntax], unit)
    changes = palette(256, 0, bits, ORDERS[syntax], [("OW", data)] * 3)
    for tag in TABLES:
        changes[tag + 0x120] = changes.pop(tag + 0x100)
    (tmp_path / "x").write_bytes(dicom(changes, syntax))
    want = entries[GREY] if bits == 8 else entries[GREY] * 255 / 65535
    assert np.abs(read_ultrasound(tmp_path / "x", key=KEY)[0][0] - want[None]).max() <= 0.51
