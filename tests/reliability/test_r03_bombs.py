"""R3: ceilings are checked before memory is taken: each bomb is refused within 1 s and 100 MB."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))

import raw_dicom as raw

import meddap_monai
from meddap_monai.errors import UnreadableImage
from meddap_monai.images.dicom import read_ultrasound
from meddap_monai.images.limits import Limits
from meddap_monai.images.plain import read_plain

READ = """
import json, resource, sys, time
from meddap_monai.errors import UnreadableImage
from meddap_monai.images.dicom import read_ultrasound
from meddap_monai.images.plain import read_plain
import nibabel, openjpeg
from PIL import TiffImagePlugin
read = read_plain if sys.argv[2] == "plain" else lambda path: read_ultrasound(path, key=b"k" * 32)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
begin = time.process_time()  # the load of other programs does not count; a hang meets the timeout
try:
    read(sys.argv[1])
    outcome = "read"
except UnreadableImage as error:
    outcome = str(error)
seconds = time.process_time() - begin
print(json.dumps([outcome, seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024]))
"""


def deflated(megabytes: int) -> bytes:
    return raw.meta(raw.DEFLATED) + raw.deflated_zeros(megabytes)


def huge_codestream() -> bytes:
    frame = bytearray(raw.jpeg2000())
    frame[8:16] = struct.pack(">2I", 65535, 65535)
    wide = {0x00280010: raw.short(8000), 0x00280011: raw.short(8000)}
    return raw.compressed(raw.JPEG_2000, bytes(frame), changes=wide)


def nested() -> bytes:
    start = raw.meta(raw.EXPLICIT)
    return start + raw.sequence_of_depth(100_000) + raw.dicom()[len(start) :]


def png_of(side: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"\x78\xda" + raw.deflated_zeros((side + 1) * side // 2**20 + 1)
    head = struct.pack(">2I5B", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def gzipped_nifti() -> bytes:
    import gzip

    import nibabel

    head = nibabel.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4)).header
    head.set_data_shape((8000, 8000, 100))
    return gzip.compress(head.binaryblock + b"\0" * 4 + b"\0" * (150 * 2**20), 1)


WIDE = {0x00280010: raw.short(65535), 0x00280011: raw.short(65535)}
FRAMES = {0x00280010: raw.short(4000), 0x00280011: raw.short(4000), 0x00280008: raw.text("IS", "90000")}
BOMBS = {
    "deflated to 900 MB": ("dicom", lambda path: path.write_bytes(deflated(900)), "deflated data grow"),
    "100,000 nested sequences": ("dicom", lambda path: path.write_bytes(nested()), "nested deeper"),
    "65,535 x 65,535": ("dicom", lambda path: path.write_bytes(raw.dicom(WIDE)), "65535 x 65535 pixels"),
    "90,000 frames": (
        "dicom",
        lambda path: path.write_bytes(raw.compressed(raw.JPEG, raw.jpeg(), changes=FRAMES)),
        "expected at most 1,073,741,824 bytes",
    ),
    "huge codestream": ("dicom", lambda path: path.write_bytes(huge_codestream()), "announces 65535 x 65535"),
    "named pipe": ("dicom", os.mkfifo, "a named pipe"),
    "png of 20,000 x 20,000": (
        "plain",
        lambda path: path.write_bytes(png_of(20_000)),
        "too many pixels, expected at most 64,000,000",
    ),
    "gzipped nifti": ("plain", lambda path: path.write_bytes(gzipped_nifti()), "grows to more than"),
    "pipe as png": ("plain", os.mkfifo, "a named pipe"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_refused_within_a_second_and_100_mb(name: str, tmp_path: Path) -> None:
    kind, put, says = BOMBS[name]
    path = tmp_path / ("bomb.nii.gz" if "nifti" in name else "bomb")
    put(path)
    environment = os.environ | {"PYTHONPATH": str(Path(meddap_monai.__file__).parents[1])}
    words = [sys.executable, "-c", READ, str(path), kind]
    result = subprocess.run(words, capture_output=True, text=True, timeout=30, env=environment)
    assert result.returncode == 0, result.stderr[-1500:]
    outcome, seconds, megabytes = json.loads(result.stdout)
    assert says in outcome
    assert seconds < 1 and megabytes < 100


def test_the_deflated_bomb_is_small_on_disk() -> None:
    assert len(deflated(900)) < 1_000_000


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        (Limits(file_bytes=1000), "expected at most 1,000; raise the limit file_bytes"),
        (Limits(frame_pixels=700), "expected at most 700 pixels; raise the limit frame_pixels"),
        (Limits(decoded_bytes=700), "ask for fewer frames or raise the limit decoded_bytes"),
        (Limits(frames=1), "NumberOfFrames"),
    ],
)
def test_every_ceiling_can_be_moved(limits: Limits, says: str, tmp_path: Path) -> None:
    two = {0x00280008: raw.text("IS", "2"), 0x7FE00010: ("OB", raw.GREY.tobytes() * 2)}
    path = tmp_path / "good.dcm"
    path.write_bytes(raw.dicom(two))
    assert read_ultrasound(path, key=b"k" * 32)[0].shape == (2, 1, 24, 32)
    with pytest.raises(UnreadableImage, match=says.replace("(", r"\(")):
        read_ultrasound(path, key=b"k" * 32, limits=limits)


def defined(depth: int) -> bytes:
    """Nested sequences of defined length in a private-looking sequence that the reader never enters."""
    data = b""
    for _ in range(depth):
        item = b"\xfe\xff\x00\xe0" + struct.pack("<I", len(data)) + data
        data = raw.element(0x00081115, "SQ", item)
    return data


@pytest.mark.parametrize(
    "build", [lambda depth: raw.sequence_of_depth(depth, 0x00081115), defined], ids=["open", "defined"]
)
@pytest.mark.parametrize(("depth", "fine"), [(1, True), (32, True), (33, False), (200, False), (3000, False)])
def test_sequences_may_be_32_levels_deep(build, depth: int, fine: bool, tmp_path: Path) -> None:
    start = raw.meta(raw.EXPLICIT)
    (tmp_path / "x.dcm").write_bytes(start + build(depth) + raw.dicom()[len(start) :])
    if fine:
        assert np.array_equal(read_ultrasound(tmp_path / "x.dcm", key=b"k" * 32)[0][0, 0], raw.GREY)
    else:
        with pytest.raises(UnreadableImage, match="nested deeper than"):
            read_ultrasound(tmp_path / "x.dcm", key=b"k" * 32)


def test_one_frame_of_a_long_clip_is_no_bomb(tmp_path: Path) -> None:
    """The ceiling counts the frames asked for."""
    changes = {0x00280008: raw.text("IS", "40"), 0x7FE00010: ("OB", raw.GREY.tobytes() * 40)}
    path = tmp_path / "clip.dcm"
    path.write_bytes(raw.dicom(changes))
    limits = Limits(decoded_bytes=2 * raw.GREY.size)
    assert read_ultrasound(path, frames="middle", key=b"k" * 32, limits=limits)[0].shape == (1, 1, 24, 32)
    with pytest.raises(UnreadableImage, match="40 frames"):
        read_ultrasound(path, key=b"k" * 32, limits=limits)


def test_plain_ceilings(tmp_path: Path) -> None:
    Image.fromarray(raw.GREY).save(tmp_path / "a.png")
    with pytest.raises(UnreadableImage, match="24 x 32 pixels, expected at most 100"):
        read_plain(tmp_path / "a.png", limits=Limits(frame_pixels=100))
