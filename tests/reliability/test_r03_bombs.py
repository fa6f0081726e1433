"""R3: ceilings are checked before memory is taken: each bomb is refused within 1 s and 100 MB."""

import os
import struct
from pathlib import Path

import numpy as np
import pytest
import raw_dicom as raw
from containers import chunk
from costs import read_cheaply
from PIL import Image

from meddap_monai.errors import UnreadableImage
from meddap_monai.images.reading.dicom import read_ultrasound
from meddap_monai.images.reading.limits import Limits
from meddap_monai.images.reading.plain import read_plain


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
    rows = b"\x78\xda" + raw.deflated_zeros((side + 1) * side // 2**20 + 1)
    head = struct.pack(">2I5B", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def gzipped_nifti() -> bytes:
    import gzip

    import nibabel

    head = nibabel.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4)).header
    head.set_data_shape((8000, 8000, 100))
    return gzip.compress(head.binaryblock + b"\0" * 4 + b"\0" * (150 * 2**20), 1)


def segmented(*numbers: int) -> bytes:
    """Segmented palettes of 65,536 entries."""
    changes: dict = {0x00280004: raw.text("CS", "PALETTE COLOR")}
    for tag in (0x00281101, 0x00281102, 0x00281103):
        changes |= {tag: raw.short(0, 0, 16), tag + 0x120: ("OW", np.array(numbers, "<u2").tobytes())}
    return raw.dicom(changes)


def many_components() -> bytes:
    """JPEG 2000 that announces 200 components (ISO 15444-1 A.5.1)."""
    frame = raw.jpeg2000()
    length = struct.unpack(">H", frame[4:6])[0] + 199 * 3
    head = frame[:4] + struct.pack(">H", length) + frame[6:40] + struct.pack(">H", 200)
    return raw.compressed(raw.JPEG_2000, head + frame[42:45] * 200 + frame[45:])


def many_tiles() -> bytes:
    frame = bytearray(raw.jpeg2000(np.zeros((512, 512), np.uint8)))
    frame[24:32] = struct.pack(">2I", 1, 1)
    return raw.compressed(raw.JPEG_2000, bytes(frame), changes={0x00280010: raw.short(512), 0x00280011: raw.short(512)})


def many_precincts(marker: bytes) -> bytes:
    """JPEG 2000 of 4,000 x 4,000 with precincts of 2 x 2, in COD or in COC (ISO 15444-1 A.6.1 and A.6.2)."""
    frame = raw.jpeg2000(np.zeros((4000, 4000), np.uint8))
    place = frame.find(b"\xff\x52")
    style = frame[place + 4 : place + 2 + struct.unpack(">H", frame[place + 2 : place + 4])[0]]
    small = b"\x11" * (style[5] + 1)
    segment = b"\1" + style[1:10] + small if marker == b"\xff\x52" else b"\0\1" + style[5:10] + small
    after = place if marker == b"\xff\x52" else place + 4 + len(style)
    skipped = place + 4 + len(style)
    frame = frame[:after] + marker + struct.pack(">H", len(segment) + 2) + segment + frame[skipped:]
    return raw.compressed(raw.JPEG_2000, frame, changes={0x00280010: raw.short(4000), 0x00280011: raw.short(4000)})


def decoy() -> bytes:
    """A JP2 file whose first SIZ stands in a box that no decoder looks at (ISO 15444-1 Annex I)."""

    def box(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data) + 8) + kind + data

    frame = bytearray(raw.jpeg2000())
    small = bytes(frame[:60])
    frame[8:16] = struct.pack(">2I", 16_000, 16_000)
    boxes = box(b"jP  ", b"\r\n\x87\n") + box(b"ftyp", b"jp2 \0\0\0\0jp2 ") + box(b"free", small)
    return raw.compressed(raw.JPEG_2000, boxes + box(b"jp2c", bytes(frame)))


def regions() -> bytes:
    item = raw.element(0x00186012, "US", b"\1\0")
    return raw.dicom({0x00186011: ("SQ", (b"\xfe\xff\x00\xe0" + struct.pack("<I", len(item)) + item) * 300_000)})


def fragments() -> bytes:
    items = b"\xfe\xff\x00\xe0\0\0\0\0" * 3_000_000
    return raw.dicom({0x7FE00010: ("OB", items)}, raw.JPEG, pixel_length=0xFFFFFFFF)


def rle_of_64_million() -> bytes:
    """Black, three segments of runs (PS3.5 G.3)."""
    segment = b"\x81\0" * (64_000_000 // 128)
    head = struct.pack("<16I", 3, *(64 + number * len(segment) for number in range(3)), *[0] * 12)
    side = {0x00280010: raw.short(8000), 0x00280011: raw.short(8000)}
    rgb = {0x00280002: raw.short(3), 0x00280004: raw.text("CS", "RGB"), 0x00280006: raw.short(0)}
    return raw.compressed(raw.RLE, head + segment * 3, changes=side | rgb)


def scans() -> bytes:
    """A progressive JPEG of 4 megapixels whose last scan comes 300 times."""
    frame = raw.jpeg(np.zeros((2000, 2000), np.uint8), progressive=True)
    begin, end = frame.rfind(b"\xff\xda"), frame.rfind(b"\xff\xd9")
    changes = {0x00280010: raw.short(2000), 0x00280011: raw.short(2000)}
    return raw.compressed(raw.JPEG, frame[:begin] + frame[begin:end] * 300 + frame[end:], changes=changes)


def long_patient_id(path: Path) -> None:
    """400 MB of zeros, sparse on disk."""
    with path.open("wb") as stream:
        stream.write(raw.meta(raw.IMPLICIT) + struct.pack("<HHI", 0x10, 0x20, 400_000_000))
        stream.truncate(stream.tell() + 400_000_100)


def puts(build, *arguments):
    return lambda path: path.write_bytes(build(*arguments))


WIDE = {0x00280010: raw.short(65535), 0x00280011: raw.short(65535)}
FRAMES = {0x00280010: raw.short(4000), 0x00280011: raw.short(4000), 0x00280008: raw.text("IS", "90000")}
BOMBS = {
    "deflated to 900 MB": ("dicom", puts(deflated, 900), "deflated data grow"),
    "100,000 nested sequences": ("dicom", puts(nested), "nested deeper"),
    "65,535 x 65,535": ("dicom", puts(raw.dicom, WIDE), "65535 x 65535 pixels"),
    "90,000 frames": (
        "dicom",
        lambda path: path.write_bytes(raw.compressed(raw.JPEG, *[raw.jpeg()] * 90_000, changes=FRAMES)),
        "expected at most 1,073,741,824 bytes",
    ),
    "huge codestream": ("dicom", puts(huge_codestream), "announces 65535 x 65535"),
    "segmented palette, indirect": ("dicom", puts(segmented, 0, 1, 0, *[2, 65535, 0, 0] * 280), "segmented palette"),
    "segmented palette, linear": ("dicom", puts(segmented, 0, 1, 0, *[1, 65535, 1] * 1480), "segmented palette"),
    "jpeg 2000 of 200 components": ("dicom", puts(many_components), "announces 200 samples of 8 bits, the header 1"),
    "jpeg 2000 of 262,144 tiles": ("dicom", puts(many_tiles), "262,144 tiles, expected at most 4,096"),
    "jpeg 2000 of small precincts": ("dicom", puts(many_precincts, b"\xff\x52"), "precincts, expected at most 100,000"),
    "the same for a component": ("dicom", puts(many_precincts, b"\xff\x53"), "precincts, expected at most 100,000"),
    "jp2 with a decoy size": ("dicom", puts(decoy), "announces 16000 x 16000 pixels, the header 24 x 32"),
    "300,000 regions": ("dicom", puts(regions), "(0018,6011) has more than 1,000 items"),
    "3,000,000 fragments": ("dicom", puts(fragments), "has more than 200,000 fragments"),
    "rle of 64 megapixels": ("dicom", puts(rle_of_64_million), "grows from 3,000,064 to 192,000,000 bytes"),
    "patient id of 400 MB": ("dicom", long_patient_id, "(0010,0020) holds 400,000,000 bytes"),
    "jpeg of 300 scans": ("dicom", puts(scans), "scans, expected at most 160 for its size"),
    "named pipe": ("dicom", os.mkfifo, "a named pipe"),
    "png of 20,000 x 20,000": ("plain", puts(png_of, 20_000), "too many pixels, expected at most 64,000,000"),
    "gzipped nifti": ("plain", puts(gzipped_nifti), "grows to more than"),
    "pipe as png": ("plain", os.mkfifo, "a named pipe"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_refused_within_a_second_and_100_mb(name: str, tmp_path: Path) -> None:
    kind, put, says = BOMBS[name]
    path = tmp_path / ("bomb.nii.gz" if "nifti" in name else "bomb")
    put(path)
    assert says in read_cheaply(path, kind)


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
