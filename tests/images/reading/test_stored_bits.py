"""HighBit and BitsStored count for every codec as for native pixels; what contradicts the codestream is refused."""

import struct
from pathlib import Path

import numpy as np
import pytest
import raw_dicom as raw
from raw_dicom import compressed, dicom, short

from meddap_monai.errors import UnreadableImage
from meddap_monai.images.reading.dicom import read_ultrasound

KEY = b"k" * 32
ROWS, COLUMNS = 48, 64  # as many as the JPEG 2000 encoder asks for
TWELVE = (np.arange(ROWS * COLUMNS) % 251 * 16).astype(np.uint16).reshape(ROWS, COLUMNS)
SHOWN = np.rint(TWELVE * (255 / 4095))


def bits(allocated: int, stored: int, high: int, signed: int = 0) -> dict:
    return {
        0x00280010: short(ROWS),
        0x00280011: short(COLUMNS),
        0x00280100: short(allocated),
        0x00280101: short(stored),
        0x00280102: short(high),
        0x00280103: short(signed),
    }


def rle_16(cells: np.ndarray) -> bytes:
    """Two segments, the higher bytes first (PS3.5 G.2)."""
    high, low = (raw.rle((cells >> shift).astype(np.uint8))[64:] for shift in (8, 0))
    return struct.pack("<16I", 2, 64, 64 + len(high), *[0] * 13) + high + low


def jpeg_ls(cells: np.ndarray, precision: int) -> bytes:
    from jpeg_ls import encode_buffer

    return bytes(encode_buffer(cells.tobytes(), *cells.shape, 1, precision))


def jpeg_2000(cells: np.ndarray, precision: int, signed: bool = False) -> bytes:
    from openjpeg.utils import encode_buffer

    rows, columns = cells.shape
    return bytes(
        encode_buffer(cells.tobytes(), columns, rows, 1, precision, signed, photometric_interpretation=2, use_mct=False)
    )


def native(cells: np.ndarray, changes: dict) -> bytes:
    return dicom({**changes, 0x7FE00010: ("OW", cells.astype("<u2").tobytes())})


CODECS = {
    "native": lambda cells, precision, changes: native(cells, changes),
    "RLE": lambda cells, precision, changes: compressed(raw.RLE, rle_16(cells), changes=changes),
    "JPEG-LS": lambda cells, precision, changes: compressed(raw.JPEG_LS, jpeg_ls(cells, precision), changes=changes),
    "JPEG 2000": lambda cells, precision, changes: compressed(
        raw.JPEG_2000, jpeg_2000(cells, precision), changes=changes
    ),
}


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("high", [11, 12, 15])
def test_the_cells_are_coded(high: int, signed: bool, codec: str, tmp_path: Path) -> None:
    """16 bits are coded; the bits around the stored ones hold rubbish, as overlays in pixel data did."""
    values = TWELVE.astype(int) - (2048 if signed else 0)
    cells = ((values & 0xFFF) << (high - 11)) | (0 if high == 15 else 0x8000)
    (tmp_path / "x").write_bytes(CODECS[codec](cells.astype(np.uint16), 16, bits(16, 12, high, int(signed))))
    assert np.array_equal(read_ultrasound(tmp_path / "x", key=KEY)[0][0, 0], SHOWN)


@pytest.mark.parametrize("codec", ["JPEG-LS", "JPEG 2000"])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("high", [11, 15])
def test_the_stored_bits_alone_are_coded(high: int, signed: bool, codec: str, tmp_path: Path) -> None:
    """12 bits are coded: there is no bit above them that HighBit could count from."""
    values = (TWELVE.astype(int) - (2048 if signed else 0)) & 0xFFF
    (tmp_path / "x").write_bytes(CODECS[codec](values.astype(np.uint16), 12, bits(16, 12, high, int(signed))))
    assert np.array_equal(read_ultrasound(tmp_path / "x", key=KEY)[0][0, 0], SHOWN)


@pytest.mark.parametrize("signed", [False, True])
def test_jpeg_2000_that_knows_its_sign(signed: bool, tmp_path: Path) -> None:
    """A codestream that says signed reads alike under either Pixel Representation."""
    values = TWELVE.astype(np.int16) - (2048 if signed else 0)
    frame = jpeg_2000(values, 13, signed=True)
    (tmp_path / "x").write_bytes(compressed(raw.JPEG_2000, frame, changes=bits(16, 12, 11, int(signed))))
    assert np.array_equal(read_ultrasound(tmp_path / "x", key=KEY)[0][0, 0], SHOWN)


@pytest.mark.parametrize("codec", ["JPEG-LS", "JPEG 2000"])
def test_more_bits_than_are_allocated_are_refused(codec: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(CODECS[codec](TWELVE, 12, bits(8, 8, 7)))
    with pytest.raises(UnreadableImage, match="announces 1 samples of 12 bits, the header 1 of 8"):
        read_ultrasound(tmp_path / "x", key=KEY)


@pytest.mark.parametrize("codec", CODECS)
def test_against_simpleitk(codec: str, tmp_path: Path) -> None:
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed (pip install SimpleITK)")
    path = tmp_path / "x.dcm"
    path.write_bytes(CODECS[codec](TWELVE, 16 if codec in ("native", "RLE") else 12, bits(16, 12, 11)))
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path)))[0], TWELVE)
    assert np.array_equal(read_ultrasound(path, key=KEY)[0][0, 0], SHOWN)
