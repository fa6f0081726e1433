"""R6: nonsense in slope, intercept, spacing, PhysicalDelta and window is refused or counts as missing; 0 bad pixels."""

import struct
from pathlib import Path

import numpy as np
import pytest
import raw_dicom as raw
from raw_dicom import dicom, element, text

from meddap_monai.errors import UnreadableImage
from meddap_monai.images.reading.dicom import read_ultrasound

KEY = b"k" * 32
NONSENSE = ["nan", "inf", "-inf", "0", "-1", "wide"]
DOUBLE = {"nan": np.nan, "inf": np.inf, "-inf": -np.inf, "0": 0.0, "-1": -1.0}
SLOPE, INTERCEPT, SPACING, CENTRE, WIDTH = 0x00281053, 0x00281052, 0x00280030, 0x00281050, 0x00281051


def region(delta: str) -> tuple[str, bytes]:
    """One B-mode region whose PhysicalDeltaX is `delta`."""
    numbers = {0x00186018: 2, 0x0018601A: 2, 0x0018601C: 30, 0x0018601E: 22}
    item = element(0x00186012, "US", struct.pack("<H", 1)) + element(0x00186014, "US", struct.pack("<H", 1))
    item += b"".join(element(tag, "UL", struct.pack("<I", number)) for tag, number in numbers.items())
    item += element(0x00186024, "US", struct.pack("<H", 3)) + element(0x00186026, "US", struct.pack("<H", 3))
    if delta == "wide":
        item += element(0x0018602C, "LO", b"wide")
    else:
        item += element(0x0018602C, "FD", struct.pack("<d", DOUBLE[delta]))
    item += element(0x0018602E, "FD", struct.pack("<d", 0.03))
    return "SQ", b"\xfe\xff\x00\xe0" + struct.pack("<I", len(item)) + item


def read(tmp_path: Path, changes: dict):
    (tmp_path / "x.dcm").write_bytes(dicom(changes))
    return read_ultrasound(tmp_path / "x.dcm", key=KEY)


@pytest.mark.parametrize("value", NONSENSE)
def test_slope_is_refused(value: str, tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage, match=r"RescaleSlope \(0028,1053\) is not a usable number, expected a finite"):
        read(tmp_path, {SLOPE: text("DS", value)})


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e99", "wide", "1\\2"])
def test_intercept_is_refused(value: str, tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage, match=r"RescaleIntercept \(0028,1052\)"):
        read(tmp_path, {INTERCEPT: text("DS", value)})


@pytest.mark.parametrize("value", NONSENSE)
def test_spacing_counts_as_missing(value: str, tmp_path: Path) -> None:
    pixels, info = read(tmp_path, {SPACING: text("DS", f"0.1\\{value}")})
    assert info.spacing_mm is None and np.array_equal(pixels[0, 0], raw.GREY)


@pytest.mark.parametrize("value", NONSENSE)
def test_physical_delta_counts_as_missing(value: str, tmp_path: Path) -> None:
    pixels, info = read(tmp_path, {0x00186011: region(value)})
    assert len(info.regions) == 1 and info.regions[0].spacing_mm is None and info.spacing_mm is None
    assert np.array_equal(pixels[0, 0], raw.GREY)


@pytest.mark.parametrize("value", NONSENSE)
def test_window_counts_as_missing(value: str, tmp_path: Path) -> None:
    pixels, _ = read(tmp_path, {CENTRE: text("DS", "100"), WIDTH: text("DS", value)})
    assert np.array_equal(pixels[0, 0], raw.GREY)


def test_good_values_are_used(tmp_path: Path) -> None:
    """The tables above would pass on a reader that ignores everything; this one would not."""
    pixels, info = read(tmp_path, {SPACING: text("DS", "0.1\\0.2"), CENTRE: text("DS", "100"), WIDTH: text("DS", "50")})
    assert info.spacing_mm == (0.1, 0.2)
    assert not np.array_equal(pixels[0, 0], raw.GREY) and set(np.unique(pixels)) >= {0, 255}
    halved = read(tmp_path, {SLOPE: text("DS", "0.5"), CENTRE: text("DS", "50"), WIDTH: text("DS", "25")})[0]
    assert np.abs(halved.astype(int) - pixels).max() <= 12
