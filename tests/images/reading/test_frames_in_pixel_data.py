"""Which bytes are which frame: lengths of native pixels, offset tables and fragments of compressed ones."""

import struct
from pathlib import Path

import numpy as np
import pytest
import raw_dicom as raw
from raw_dicom import GREY, compressed, dicom, short, text

from meddap_monai.errors import UnreadableImage
from meddap_monai.images.reading.dicom import read_ultrasound

KEY = b"k" * 32
CLIP = np.stack([GREY, 255 - GREY, GREY // 2])
THREE = {0x00280008: text("IS", "3")}
COLOUR = {0x00280002: short(3), 0x00280006: short(0)}
RGB = np.stack([GREY, GREY // 2, 255 - GREY], -1)


def read(tmp_path: Path, data: bytes, **how) -> np.ndarray:
    (tmp_path / "x.dcm").write_bytes(data)
    return read_ultrasound(tmp_path / "x.dcm", key=KEY, **how)[0]


def offsets(parts: list[bytes], kind: str = "I") -> bytes:
    """The table that says the truth: each part's item, counted from the first."""
    places = np.cumsum([0, *(len(part) + len(part) % 2 + 8 for part in parts[:-1])])
    return struct.pack(f"<{len(places)}{kind}", *places)


def extended(table: bytes, lengths: bytes) -> dict:
    return {0x7FE00001: ("UN", table), 0x7FE00002: ("UN", lengths)}


FRAMES = {raw.RLE: [raw.rle(frame) for frame in CLIP], raw.JPEG_LS: [raw.jpeg_ls(frame) for frame in CLIP]}
LIES = {
    "empty": lambda right: b"",
    "right": lambda right: right,
    "zeros": lambda right: bytes(len(right)),
    "reversed": lambda right: b"".join(right[i : i + len(right) // 3] for i in range(0, len(right), len(right) // 3))[
        ::-1
    ],
    "short": lambda right: right[: len(right) // 3],
    "long": lambda right: right + right,
    "beyond the file": lambda right: b"\xf0\xff\xff\x7f" * (len(right) // 4),
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("syntax", FRAMES)
@pytest.mark.parametrize("kind", ["basic", "extended"])
def test_fragments_count_where_tables_lie(kind: str, syntax: str, lie: str, tmp_path: Path) -> None:
    parts = FRAMES[syntax]
    if kind == "basic":
        data = compressed(syntax, *parts, changes=THREE, table=LIES[lie](offsets(parts)))
    else:
        table, lengths = LIES[lie](offsets(parts, "Q")), struct.pack("<3Q", *map(len, parts))
        data = compressed(syntax, *parts, changes=THREE | extended(table, lengths))
    for number, frame in enumerate(CLIP):
        assert np.array_equal(read(tmp_path, data, frames=[number])[0, 0], frame)


def halves(parts: list[bytes]) -> list[bytes]:
    return [piece for part in parts for piece in (part[: len(part) // 4 * 2], part[len(part) // 4 * 2 :])]


@pytest.mark.parametrize("lie", LIES)
def test_frames_of_two_fragments_are_found_by_their_beginnings(lie: str, tmp_path: Path) -> None:
    pieces = halves(FRAMES[raw.JPEG_LS])
    table = LIES[lie](b"".join(offsets(pieces)[place : place + 4] for place in (0, 8, 16)))
    data = compressed(raw.JPEG_LS, *pieces, changes=THREE, table=table)
    assert np.array_equal(read(tmp_path, data)[:, 0], CLIP)


@pytest.mark.parametrize("lie", LIES)
def test_where_beginnings_do_not_show_the_table_must_be_right(lie: str, tmp_path: Path) -> None:
    """Four bytes of an RLE frame are too few to recognise it by."""
    first, *others = FRAMES[raw.RLE]
    pieces = [first[:4], first[4:], *others]
    table = LIES[lie](b"".join(offsets(pieces)[place : place + 4] for place in (0, 8, 12)))
    data = compressed(raw.RLE, *pieces, changes=THREE, table=table)
    if lie == "right":
        assert np.array_equal(read(tmp_path, data)[:, 0], CLIP)
    else:
        with pytest.raises(UnreadableImage, match="4 fragments of 3 frames, and no offset table that says which"):
            read(tmp_path, data)


@pytest.mark.parametrize("number", [None, "1", "2", "4"])
def test_a_wrong_number_of_compressed_frames_is_refused(number: str | None, tmp_path: Path) -> None:
    changes = {} if number is None else {0x00280008: text("IS", number)}
    says = rf"holds 3 compressed frames in 3 fragments, NumberOfFrames \(0028,0008\) is {number or 1}"
    with pytest.raises(UnreadableImage, match=says):
        read(tmp_path, compressed(raw.JPEG_LS, *FRAMES[raw.JPEG_LS], changes=changes))


@pytest.mark.parametrize("padding", [b"\0" * 2, b"\0" * 100, b"\0" * 5000, b"\xff" * 300, b" " * 300])
@pytest.mark.parametrize(
    ("syntax", "frame"), [(raw.JPEG, raw.jpeg()), (raw.JPEG_LS, raw.jpeg_ls()), (raw.JPEG_2000, raw.jpeg2000())]
)
def test_padding_behind_the_end_marker_is_cut(syntax: str, frame: bytes, padding: bytes, tmp_path: Path) -> None:
    assert np.array_equal(
        read(tmp_path, compressed(syntax, frame + padding)), read(tmp_path, compressed(syntax, frame))
    )


@pytest.mark.parametrize("photometric", ["YBR_FULL", "YBR_FULL_422"])
@pytest.mark.parametrize("planar", [0, 1])
def test_ybr_with_three_whole_samples(photometric: str, planar: int, tmp_path: Path) -> None:
    forward = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
    ybr = np.clip(np.rint(RGB @ forward.T + [0, 128, 128]), 0, 255).astype(np.uint8)
    data = (ybr.transpose(2, 0, 1) if planar else ybr).tobytes()
    changes = COLOUR | {0x00280004: text("CS", photometric), 0x00280006: short(planar), 0x7FE00010: ("OB", data)}
    assert np.abs(read(tmp_path, dicom(changes))[0] - np.moveaxis(RGB, -1, 0).astype(int)).max() <= 2


GROWN = GREY.tobytes()
LENGTHS = {
    "as said": (GROWN, True),
    "few spare bytes": (GROWN + b"\7" * 22, True),
    "a row of zeros": (GROWN + bytes(32), True),
    "a row more": (GROWN + b"\7" * 32, False),
    "a column more": (GROWN + b"\7" * 24, False),
    "twice": (GROWN * 2, False),
    "twice, black": (GROWN + bytes(len(GROWN)), False),
    "a byte short": (GROWN[:-2], False),
}


@pytest.mark.parametrize("name", LENGTHS)
def test_the_length_of_native_pixels(name: str, tmp_path: Path) -> None:
    data, fine = LENGTHS[name]
    if fine:
        assert np.array_equal(read(tmp_path, dicom({0x7FE00010: ("OB", data)}))[0, 0], GREY)
    else:
        with pytest.raises(UnreadableImage, match=f"PixelData .* holds {len(data):,} bytes, expected 768 "):
            read(tmp_path, dicom({0x7FE00010: ("OB", data)}))


def test_frames_without_their_number_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage, match=r"holds 2,304 bytes, expected 768 \(1 frames"):
        read(tmp_path, dicom({0x7FE00010: ("OB", CLIP.tobytes())}))


def test_a_file_that_ends_in_a_fragment(tmp_path: Path) -> None:
    data = compressed(raw.JPEG_LS, *FRAMES[raw.JPEG_LS], changes=THREE, end=False)[:-40]
    assert np.array_equal(read(tmp_path, data, frames=[0, 1])[:, 0], CLIP[:2])
    with pytest.raises(UnreadableImage, match="truncated: it ends inside of a fragment"):
        read(tmp_path, data, frames="last")


@pytest.mark.parametrize("count", [1, 3])
def test_pixel_data_without_an_offset_table(count: int, tmp_path: Path) -> None:
    """Some writers begin with the first frame."""
    whole = raw.fragments(*FRAMES[raw.JPEG_LS][:count])[8:]
    changes = {0x00280008: text("IS", str(count)), 0x7FE00010: ("OB", whole)}
    pixels = read(tmp_path, dicom(changes, raw.JPEG_LS, pixel_length=0xFFFFFFFF))
    assert np.array_equal(pixels[:, 0], CLIP[:count])


def test_what_follows_fragments_without_a_delimiter(tmp_path: Path) -> None:
    data = compressed(raw.JPEG_LS, raw.jpeg_ls(), end=False) + raw.element(0xFFFCFFFC, "OB", bytes(40))
    assert np.array_equal(read(tmp_path, data)[0, 0], GREY)
