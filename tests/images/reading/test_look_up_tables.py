"""Modality and VOI look-up tables in every way to store them."""

import struct
from pathlib import Path

import numpy as np
import pytest
import raw_dicom as raw
from raw_dicom import GREY, dicom, short, text

from meddap_monai.images.reading.dicom import read_ultrasound

KEY = b"k" * 32
MODALITY, VOI = 0x00283000, 0x00283010
ORDERS = {raw.EXPLICIT: "<", raw.IMPLICIT: "<", raw.BIG: ">"}
CURVE = np.rint(255 * np.sqrt(np.arange(256) / 255)).astype(int)


def table(syntax: str, entries: np.ndarray, bits: int, vr: str, first: int = 0) -> tuple[str, bytes]:
    """A sequence with one table, 16-bit words."""
    order, implicit = ORDERS[syntax], syntax == raw.IMPLICIT
    descriptor = struct.pack(order + "HhH", len(entries) % 65536, first, bits)
    data = entries.astype(order + "u2").tobytes()
    item = b"".join(
        raw.element(tag, kind, value, order, implicit)
        for tag, kind, value in ((0x00283002, "SS" if first < 0 else "US", descriptor), (0x00283006, vr, data))
    )
    return "SQ", struct.pack(order + "HHI", 0xFFFE, 0xE000, len(item)) + item


@pytest.mark.parametrize("syntax", ORDERS)
@pytest.mark.parametrize("vr", ["US", "OW"])
@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("tag", [MODALITY, VOI])
def test_a_table_of_words(tag: int, bits: int, vr: str, syntax: str, tmp_path: Path) -> None:
    most = (1 << bits) - 1
    (tmp_path / "x").write_bytes(dicom({tag: table(syntax, CURVE * most // 255, bits, vr)}, syntax))
    got = read_ultrasound(tmp_path / "x", key=KEY)[0][0, 0]
    assert np.abs(got.astype(int) - CURVE[GREY]).max() <= 1


@pytest.mark.parametrize("syntax", ORDERS)
def test_a_window_looks_at_what_the_modality_table_gives(syntax: str, tmp_path: Path) -> None:
    changes = {MODALITY: table(syntax, CURVE * 16, 12, "OW")}
    changes |= {0x00281050: text("DS", "2040.5"), 0x00281051: text("DS", "4081")}
    (tmp_path / "x").write_bytes(dicom(changes, syntax))
    assert np.array_equal(read_ultrasound(tmp_path / "x", key=KEY)[0][0, 0], CURVE[GREY])


@pytest.mark.parametrize("syntax", ORDERS)
def test_tables_of_negative_values(syntax: str, tmp_path: Path) -> None:
    """Values below the first entry take it, values above the last take that."""
    values = GREY.astype(int) - 125
    changes = {VOI: table(syntax, np.arange(100) * 2, 8, "OW", first=-50), 0x00280103: short(1, order=ORDERS[syntax])}
    changes[0x7FE00010] = "OB", values.astype("i1").tobytes()
    (tmp_path / "x").write_bytes(dicom(changes, syntax))
    assert np.array_equal(read_ultrasound(tmp_path / "x", key=KEY)[0][0, 0], np.clip(values + 50, 0, 99) * 2)
