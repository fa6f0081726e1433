"""R5: every common transfer syntax decodes, or the error names the pip package to install."""

from pathlib import Path

import numpy as np
import pytest
import raw_dicom as raw
from pydicom.data import get_testdata_file
from pydicom.pixels.decoders.base import Decoder

from meddap_monai.errors import UnreadableImage
from meddap_monai.images.reading.dicom import read_ultrasound

KEY = b"k" * 32
FILES = {
    "implicit little endian": ("MR_small_implicit.dcm", "MR_small.dcm"),
    "explicit big endian": ("MR_small_bigendian.dcm", "MR_small.dcm"),
    "deflated": ("image_dfl.dcm", None),
    "RLE": ("MR_small_RLE.dcm", "MR_small.dcm"),
    "JPEG baseline": ("SC_rgb_jpeg_dcmtk.dcm", None),
    "JPEG extended, 12 bit": ("JPGExtended.dcm", None),
    "JPEG lossless": ("SC_rgb_jpeg_gdcm.dcm", None),
    "JPEG-LS lossless": ("MR_small_jpeg_ls_lossless.dcm", "MR_small.dcm"),
    "JPEG-LS near-lossless": ("JPEGLSNearLossless_08.dcm", None),
    "JPEG 2000 lossless": ("MR_small_jp2klossless.dcm", "MR_small.dcm"),
    "JPEG 2000": ("JPEG2000.dcm", None),
}


@pytest.mark.parametrize("name", FILES)
def test_it_decodes(name: str) -> None:
    file, same_as = FILES[name]
    pixels, _ = read_ultrasound(get_testdata_file(file), key=KEY)
    assert np.ptp(pixels) > 0
    if same_as:
        assert np.array_equal(pixels, read_ultrasound(get_testdata_file(same_as), key=KEY)[0])


@pytest.mark.parametrize(
    ("syntax", "frame"), [(raw.JPEG_LS, raw.jpeg_ls()), (raw.JPEG_2000, raw.jpeg2000()), (raw.JPEG, raw.jpeg())]
)
def test_a_missing_codec_is_named(syntax: str, frame: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.dcm"
    path.write_bytes(raw.compressed(syntax, frame))
    monkeypatch.setattr(Decoder, "is_available", property(lambda self: False))
    with pytest.raises(UnreadableImage, match=r'install it with `pip install "pylibjpeg\[all\]" pyjpegls`'):
        read_ultrasound(path, key=KEY)


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.102", "1.2.840.10008.1.2.4.100", "1.2.826.0.1.3680043.1.1"])
def test_what_is_not_supported_says_what_to_do(syntax: str, tmp_path: Path) -> None:
    path = tmp_path / "x.dcm"
    path.write_bytes(raw.compressed(syntax, b"\0\0\1\xb3" * 40))
    with pytest.raises(UnreadableImage, match="not supported .*convert the file first"):
        read_ultrasound(path, key=KEY)


def test_lossless_syntaxes_agree_bit_for_bit(tmp_path: Path) -> None:
    frames = {raw.RLE: raw.rle(), raw.JPEG_LS: raw.jpeg_ls(), raw.JPEG_2000: raw.jpeg2000()}
    for syntax, frame in frames.items():
        (tmp_path / "x.dcm").write_bytes(raw.compressed(syntax, frame))
        assert np.array_equal(read_ultrasound(tmp_path / "x.dcm", key=KEY)[0][0, 0], raw.GREY)


@pytest.mark.parametrize(("syntax", "frame"), [(raw.JPEG_LS, raw.jpeg_ls()), (raw.JPEG, raw.jpeg())])
def test_a_frame_without_its_end_is_refused(syntax: str, frame: bytes, tmp_path: Path) -> None:
    """CharLS never returns from some cut streams."""
    (tmp_path / "x.dcm").write_bytes(raw.compressed(syntax, frame[:-12]))
    with pytest.raises(UnreadableImage, match="no end-of-image marker"):
        read_ultrasound(tmp_path / "x.dcm", key=KEY)
