"""R3: ceilings are checked before memory is taken: each bomb is refused within 1 s and 100 MB."""

from __future__ import annotations

import io
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
from meddap_monai.classifier.inference import InferConfig, read_frames
from meddap_monai.errors import UnreadableImage
from meddap_monai.images.dicom import read_ultrasound
from meddap_monai.images.index import IndexConfig, index
from meddap_monai.images.limits import Limits
from meddap_monai.images.plain import read_plain
from meddap_monai.records import read_records

READ = """
import json, resource, sys, time
from meddap_monai.errors import UnreadableImage
from meddap_monai.images.dicom import read_ultrasound
from meddap_monai.images.plain import read_plain
import nibabel, openjpeg
from PIL import TiffImagePlugin
ways = {"plain": read_plain, "middle": lambda path: read_plain(path, frames="middle")}
read = ways.get(sys.argv[2]) or (lambda path: read_ultrasound(path, key=b"k" * 32))
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


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of 8 x 8 black pixels with these chunks before and after them."""
    head = (b"IHDR", struct.pack(">2I5B", 8, 8, 8, 0, 0, 0, 0))
    every = [head, *chunks, (b"IEND", b"")]
    made = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in every
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(made)


BLACK = (b"IDAT", zlib.compress(bytes(72)))


def animated(claimed: int, held: int = 0) -> bytes:
    frame = struct.pack(">5I2H2B", 0, 8, 8, 0, 0, 1, 1, 0, 0)
    return png((b"acTL", struct.pack(">2I", claimed, 0)), *[(b"fcTL", frame)] * held, BLACK)


def long_animation(frames: int, side: int) -> bytes:
    """Frames of `side` x `side` black pixels, each a few kB; the last cannot be had without all before it."""
    packed = zlib.compress(bytes((side + 1) * side))
    chunks = [(b"IHDR", struct.pack(">2I5B", side, side, 8, 0, 0, 0, 0)), (b"acTL", struct.pack(">2I", frames, 0))]
    for number in range(frames):
        chunks.append((b"fcTL", struct.pack(">5I2H2B", max(0, 2 * number - 1), side, side, 0, 0, 1, 1, 0, 0)))
        chunks.append((b"fdAT", struct.pack(">I", 2 * number) + packed) if number else (b"IDAT", packed))
    return png()[:8] + png(*chunks)[33:]


def tiff(pages: int, *tags: tuple[int, int, int, int], tail: int = 64) -> bytes:
    """Pages of 8 x 8 pixels with further tags (number, type, count, value)."""
    own = [(256, 4, 1, 8), (257, 4, 1, 8), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8)]
    own += [(277, 3, 1, 1), (278, 4, 1, 8), (279, 4, 1, 64), *tags]
    page = struct.pack("<H", len(own)) + b"".join(struct.pack("<HHII", *entry) for entry in own)
    ends = [8 + (number + 1) * (len(page) + 4) for number in range(pages - 1)]
    return b"II*\0" + struct.pack("<I", 8) + b"".join(page + struct.pack("<I", end) for end in (*ends, 0)) + bytes(tail)


def many_scans(side: int, scans: int) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    stream = io.BytesIO()
    Image.fromarray(np.zeros((side, side), np.uint8)).save(stream, "JPEG", progressive=True)
    data = stream.getvalue()
    return data[:-2] + data[data.rfind(b"\xff\xda") : -2] * scans + b"\xff\xd9"


def sloping_nifti(slices: int) -> bytes:
    """Slices of 1 MiB that pack well, with a slope that would make 8 bytes of each."""
    import gzip

    import nibabel

    head = nibabel.Nifti1Header()
    head.set_data_dtype(np.uint8)
    head.set_data_shape((1024, 1024, slices))
    head.set_slope_inter(2.0, 1.0)
    head["magic"], head["vox_offset"], head["sform_code"] = b"n+1", 352, 1
    head["srow_x"][0], head["srow_y"][1], head["srow_z"][2] = -1, -1, 1
    noise = np.repeat(np.random.default_rng(0).integers(0, 256, 2**17).astype(np.uint8), 8)
    return gzip.compress(head.binaryblock + bytes(4) + noise.tobytes() * slices, 1)


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
    "png of 2^31 - 1 frames": ("plain", lambda path: path.write_bytes(animated(2**31 - 1)), "claims 2,147,483,647"),
    "png of frames it lacks": (
        "plain",
        lambda path: path.write_bytes(animated(4000, 3)),
        "claims 4,000 animation frames and holds 3",
    ),
    "png of large frames": (
        "plain",
        lambda path: path.write_bytes(long_animation(300, 2000)),
        "at most 1,073,741,824 bytes",
    ),
    "png of a million chunks": (
        "plain",
        lambda path: path.write_bytes(png(BLACK, *[(b"abCd", b"")] * 1_000_000)),
        "more than 100,000 chunks",
    ),
    "tiff of 60,000 pages": ("plain", lambda path: path.write_bytes(tiff(60_000)), "more than 4,096 pages"),
    "tiff of 60,000 tags over one block": (
        "plain",
        lambda path: path.write_bytes(
            tiff(1, *[(1000 + tag, 7, 10 * 2**20, 8) for tag in range(60_000)], tail=10 * 2**20)
        ),
        "its directories claim",
    ),
    "jpeg of 300 scans": (
        "plain",
        lambda path: path.write_bytes(many_scans(4000, 300)),
        "scans over 16,000,000 pixels",
    ),
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


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("a.tif", lambda: tiff(4096)),
        ("a.png", lambda: long_animation(1000, 8)),
        ("a.jpg", lambda: many_scans(700, 300)),
        ("a.nii.gz", lambda: sloping_nifti(64)),
    ],
)
def test_one_frame_of_what_is_allowed_costs_little(name: str, make, tmp_path: Path) -> None:
    """The middle one, in a process of its own: within R3's second and 100 MB."""
    (tmp_path / name).write_bytes(make())
    environment = os.environ | {"PYTHONPATH": str(Path(meddap_monai.__file__).parents[1])}
    words = [sys.executable, "-c", READ, str(tmp_path / name), "middle"]
    result = subprocess.run(words, capture_output=True, text=True, timeout=60, env=environment)
    outcome, seconds, megabytes = json.loads(result.stdout)
    assert outcome == "read" and seconds < 1 and megabytes < 100


def test_the_protected_worker_and_infer_refuse_it_too(tmp_path: Path) -> None:
    (tmp_path / "in" / "benign").mkdir(parents=True)
    bomb = tmp_path / "in" / "benign" / "x.png"
    bomb.write_bytes(animated(2**31 - 1))
    Image.fromarray(raw.GREY).save(tmp_path / "in" / "benign" / "y.png")
    (tmp_path / "key").write_bytes(b"k" * 32)
    config = IndexConfig(source=tmp_path / "in", key_file=tmp_path / "key", frames="all", workers=1, split="train")
    assert len(read_records(index(config, tmp_path / "out"))) == 1
    assert "claims 2,147,483,647 animation frames" in (tmp_path / "out" / "rejects.csv").read_text()
    with pytest.raises(UnreadableImage, match="claims 2,147,483,647 animation frames"):
        read_frames(bomb, InferConfig())


def test_plain_ceilings(tmp_path: Path) -> None:
    Image.fromarray(raw.GREY).save(tmp_path / "a.png")
    with pytest.raises(UnreadableImage, match="24 x 32 pixels, expected at most 100"):
        read_plain(tmp_path / "a.png", limits=Limits(frame_pixels=100))
