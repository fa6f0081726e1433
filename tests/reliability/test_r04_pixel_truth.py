"""R4: 24 golden cases: what a display would show, whatever the storage."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
import raw_dicom as raw
from PIL import Image
from pydicom.data import get_testdata_file
from raw_dicom import GREY, compressed, dicom, short, text

from meddap_monai.images.reading.dicom import read_ultrasound

KEY = b"k" * 32
Y, X = np.mgrid[0:24, 0:32]
COLOUR = np.stack([X * 8, Y * 10, 255 - X * 4 - Y * 4], -1).astype(np.uint8)
RGB = {0x00280002: short(3), 0x00280004: text("CS", "RGB"), 0x00280006: short(0)}


def to_ybr(rgb: np.ndarray) -> np.ndarray:
    """PS3.3 C.7.6.3.1.2, rounded."""
    forward = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
    return np.clip(np.rint(rgb @ forward.T + [0, 128, 128]), 0, 255).astype(np.uint8)


YBR = to_ybr(COLOUR)


def photometric(name: str, data: bytes, planar: int = 0) -> dict:
    return {**RGB, 0x00280004: text("CS", name), 0x00280006: short(planar), 0x7FE00010: ("OB", data)}


def stored(values: np.ndarray, bits: int, order: str = "<", signed: int = 0, **extra) -> dict:
    return {
        0x00280100: short(16, order=order),
        0x00280101: short(bits, order=order),
        0x00280102: short(bits - 1, order=order),
        0x00280103: short(signed, order=order),
        0x7FE00010: ("OW", values.astype(order + ("i2" if signed else "u2")).tobytes()),
        **extra,
    }


def palette(bits: int, order: str = "<", first: int = 0) -> dict:
    """Indices `GREY` and a palette whose red, green and blue are the index, its half and its complement."""
    entries = np.arange(256)
    tables = [entries, entries // 2, 255 - entries]
    changes = {0x00280004: text("CS", "PALETTE COLOR")}
    for tag, table in zip((0x00281101, 0x00281102, 0x00281103), tables, strict=True):
        descriptor = struct.pack(order + "HhH", 256, first, bits)
        data = table.astype("u1").tobytes() if bits == 8 else (table * 257).astype(order + "u2").tobytes()
        if bits == 8 and order == ">":
            data = np.frombuffer(data, "u2").byteswap().tobytes()
        changes |= {tag: ("US", descriptor), tag + 0x100: ("OW", data)}
    return changes


PALETTE_RGB = np.stack([GREY, GREY // 2, 255 - GREY], -1)
TWELVE = GREY.astype(int) * 16
WINDOW = {0x00281050: text("DS", "2000"), 0x00281051: text("DS", "1000")}
WINDOWED = np.clip(np.rint((TWELVE - (2000 - 0.5 - 499.5)) * 255 / 999), 0, 255)
CLIP = np.stack([GREY, 255 - GREY, GREY // 2])
_ITEM = raw.element(0x00283002, "US", struct.pack("<3H", 256, 0, 8))
_ITEM += raw.element(0x00283006, "OW", (255 - np.arange(256)).astype("<u2").tobytes())
TABLE = {0x00283010: ("SQ", b"\xfe\xff\x00\xe0" + struct.pack("<I", len(_ITEM)) + _ITEM)}


def photometric_only(name: str) -> dict:
    return {**RGB, 0x00280004: text("CS", name)}


def big(changes: dict) -> bytes:
    """Big endian; the numbers that `changes` leaves alone are made so by the builder."""
    return dicom({tag: value for tag, value in changes.items()}, raw.BIG)


def swapped(values: np.ndarray) -> bytes:
    return np.frombuffer(values.tobytes(), "u2").byteswap().tobytes()


def smooth() -> np.ndarray:
    """Colours that are equal in pairs of columns, so that subsampling loses nothing."""
    return COLOUR[:, (np.arange(32) // 2) * 2]


def smooth_grey() -> np.ndarray:
    return (X * 4 + Y * 3).astype(np.uint8)


def subsampled() -> bytes:
    values = to_ybr(smooth())
    pairs = np.stack([values[:, 0::2, 0], values[:, 1::2, 0], values[:, 0::2, 1], values[:, 0::2, 2]], -1)
    return pairs.tobytes()


CASES: dict[str, tuple[Callable[[], bytes], np.ndarray, int]] = {
    "MONOCHROME2": (dicom, GREY, 0),
    "MONOCHROME2 implicit": (lambda: dicom(syntax=raw.IMPLICIT), GREY, 0),
    "MONOCHROME1 inverted": (lambda: dicom({0x00280004: text("CS", "MONOCHROME1")}), 255 - GREY, 0),
    "RGB planar 0": (lambda: dicom(photometric("RGB", COLOUR.tobytes())), COLOUR, 0),
    "RGB planar 1": (lambda: dicom(photometric("RGB", COLOUR.transpose(2, 0, 1).tobytes(), 1)), COLOUR, 0),
    "YBR_FULL planar 0": (lambda: dicom(photometric("YBR_FULL", YBR.tobytes())), COLOUR, 2),
    "YBR_FULL planar 1": (lambda: dicom(photometric("YBR_FULL", YBR.transpose(2, 0, 1).tobytes(), 1)), COLOUR, 2),
    "YBR_FULL_422": (lambda: dicom(photometric("YBR_FULL_422", subsampled())), smooth(), 2),
    "YBR_RCT": (
        lambda: compressed(raw.JPEG_2000, raw.jpeg2000(COLOUR), changes=photometric_only("YBR_RCT")),
        COLOUR,
        0,
    ),
    "PALETTE 8 bit": (lambda: dicom(palette(8)), PALETTE_RGB, 0),
    "PALETTE 16 bit": (lambda: dicom(palette(16)), PALETTE_RGB, 0),
    "PALETTE 16 bit big endian": (lambda: big(palette(16, ">")), PALETTE_RGB, 0),
    "PALETTE 8 bit big endian": (lambda: big(palette(8, ">")), PALETTE_RGB, 0),
    "8 bit in words, big endian": (lambda: big({0x7FE00010: ("OW", swapped(GREY))}), GREY, 0),
    "12 bit": (lambda: dicom(stored(TWELVE, 12)), np.rint(TWELVE * 255 / 4095), 0),
    "12 bit with a window": (lambda: dicom(stored(TWELVE, 12) | WINDOW), WINDOWED, 0),
    "12 bit signed": (lambda: dicom(stored(TWELVE - 2048, 12, signed=1)), np.rint(TWELVE * 255 / 4095), 0),
    "16 bit big endian": (lambda: big(stored(GREY.astype(int) * 257, 16, ">")), GREY, 0),
    "VOI LUT sequence": (lambda: dicom(TABLE), 255 - GREY, 0),
    "RLE": (lambda: compressed(raw.RLE, raw.rle()), GREY, 0),
    "JPEG-LS": (lambda: compressed(raw.JPEG_LS, raw.jpeg_ls()), GREY, 0),
    "JPEG baseline": (lambda: compressed(raw.JPEG, raw.jpeg(smooth_grey())), smooth_grey(), 2),
    "clip": (lambda: dicom({0x00280008: text("IS", "3"), 0x7FE00010: ("OB", CLIP.tobytes())}), CLIP, 0),
    "clip in RLE": (
        lambda: compressed(raw.RLE, *map(raw.rle, CLIP), changes={0x00280008: text("IS", "3")}),
        CLIP,
        0,
    ),
}


def test_there_are_24() -> None:
    assert len(CASES) == 24


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str, tmp_path: Path) -> None:
    build, expected, tolerance = CASES[name]
    (tmp_path / "x.dcm").write_bytes(build())
    pixels, _ = read_ultrasound(tmp_path / "x.dcm", key=KEY)
    frames = expected[None] if expected.ndim == 2 or expected.shape[-1] == 3 else expected
    frames = frames[:, None] if frames.ndim == 3 else np.moveaxis(frames, -1, 1)
    assert pixels.dtype == np.uint8 and pixels.shape == frames.shape
    assert np.abs(pixels.astype(int) - frames).max() <= tolerance


REAL = {
    "examples_ybr_color.dcm": ((30, 3, 240, 320), "YBR_FULL_422", 1),
    "examples_palette.dcm": ((1, 3, 350, 800), "PALETTE COLOR", 1),
    "examples_rgb_color.dcm": ((1, 3, 240, 320), "RGB", 0),
    "examples_jpeg2k.dcm": ((1, 3, 480, 640), "YBR_RCT", 0),
    "ExplVR_BigEnd.dcm": ((1, 3, 60, 80), "RGB", 0),
}


@pytest.mark.parametrize("name", REAL)
def test_real_ultrasound_of_the_pydicom_wheel(name: str) -> None:
    """Real files against pydicom's own conversion to RGB."""
    shape, stored_as, regions = REAL[name]
    path = get_testdata_file(name)
    pixels, info = read_ultrasound(path, key=KEY)
    assert pixels.shape == shape and info.photometric == stored_as and len(info.regions) == regions
    dataset = pydicom.dcmread(path)
    if stored_as == "PALETTE COLOR":
        reference = pydicom.pixels.apply_color_lut(dataset.pixel_array, dataset)
        reference = reference >> 8 if reference.max() > 255 else reference
    else:
        reference = pydicom.pixels.pixel_array(path)
    frames = reference if reference.ndim == 4 else reference[None]
    assert np.abs(pixels.astype(int) - np.moveaxis(frames, -1, 1)).max() <= 2


def test_a_wanted_frame_equals_that_frame_of_all() -> None:
    path = get_testdata_file("examples_ybr_color.dcm")
    every = read_ultrasound(path, key=KEY)[0]
    chosen, info = read_ultrasound(path, frames=[3, 17], key=KEY)
    assert np.array_equal(chosen, every[[3, 17]]) and info.chosen_frames == (3, 17)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*REAL, "JPGExtended.dcm", "SC_rgb_jpeg_dcmtk.dcm", "SC_rgb_jpeg_gdcm.dcm"])
def test_against_an_independent_reader(name: str, tmp_path: Path) -> None:
    """dcmtk's dcmj2pnm shows the same picture."""
    import shutil
    import subprocess

    if not (tool := shutil.which("dcmj2pnm")):
        pytest.skip("dcmtk's dcmj2pnm is not installed (apt-get install dcmtk)")
    path = get_testdata_file(name)
    result = subprocess.run(
        [tool, "+on", "+F", "1", str(path), str(tmp_path / "x.png")], capture_output=True, text=True
    )
    if result.returncode or not (tmp_path / "x.png").exists():
        pytest.skip(f"dcmj2pnm does not decode it: {result.stderr.strip()[:80]}")
    with Image.open(tmp_path / "x.png") as image:
        reference = np.asarray(image.convert("RGB")).astype(int)
    pixels = np.moveaxis(read_ultrasound(path, frames="first", key=KEY)[0][0], 0, -1).astype(int)
    largest = np.abs(np.broadcast_to(pixels, reference.shape) - reference)
    assert largest.max() <= 2 or (largest > 2).mean() < 0.01 and largest.max() <= 8, "lossy chroma may differ at edges"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["examples_jpeg2k.dcm", "examples_rgb_color.dcm", "MR_small_jp2klossless.dcm"])
def test_against_simpleitk(name: str) -> None:
    """SimpleITK (GDCM) shows the same picture; it is not a dependency."""
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed (pip install SimpleITK)")
    path = get_testdata_file(name)
    reference = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    window = "minmax" if name.startswith("MR") else "file"
    pixels = read_ultrasound(path, window=window, key=KEY)[0]
    if name.startswith("MR"):
        values = reference.astype(float)
        reference = np.rint((values - values.min()) * 255 / np.ptp(values))
    frames = np.moveaxis(reference, -1, 1) if reference.ndim == 4 else reference[:, None]
    assert np.abs(pixels.astype(int) - frames).max() <= 2
