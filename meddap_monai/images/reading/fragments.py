"""Where the frames of encapsulated pixel data lie (PS3.5 A.4): fragments are trusted, offset tables are checked."""

import struct
from itertools import pairwise
from typing import BinaryIO

from meddap_monai.errors import UnreadableImage
from meddap_monai.images.reading.codestream import begins_frame
from meddap_monai.images.reading.header import Header
from meddap_monai.images.reading.limits import Limits

Fragment = tuple[int, int]
"""Offset of a fragment's bytes in the stream, and their number."""
_ITEM = b"\xfe\xff\x00\xe0"


def find_frames(header: Header, frames: int, limits: Limits) -> list[list[Fragment]]:
    """Say which fragments each frame consists of.

    As many fragments as frames are one each, whatever the tables say. Otherwise the codestreams that the fragments
    begin decide, and where they do not show it, a basic or extended offset table whose entries are ascending beginnings
    of fragments.

    Args:
        header: opened file with encapsulated pixel data.
        frames: NumberOfFrames, checked.
        limits: for the number of fragments.

    Returns:
        `frames` lists of fragments.

    Raises:
        UnreadableImage: damaged, too many fragments, or the number of frames contradicts the fragments.
    """
    table, spans = _fragments(header, limits)
    if len(spans) != frames:
        spans = [span for span in spans if span[1]]
    if len(spans) == frames:
        return [[span] for span in spans]
    begins = [number for number, span in enumerate(spans) if begins_frame(_read(header.stream, span, 12))]
    if len(begins) > frames or len(spans) < frames:
        raise UnreadableImage(
            f"{header.path}: PixelData (7FE0,0010) holds {len(begins) or len(spans)} compressed frames in "
            f"{len(spans)} fragments, NumberOfFrames (0028,0008) is {frames}"
        )
    if frames == 1:
        return [spans]
    if len(begins) != frames or begins[0]:
        begins = _by_table(header, table, spans, frames)
    return [spans[begin:end] for begin, end in zip(begins, [*begins[1:], None], strict=True)]


def is_encapsulated(header: Header) -> bool:
    """Whether the value of PixelData begins with an item, as an offset table does."""
    header.stream.seek(header.pixel_start)
    return header.stream.read(4) == _ITEM


def read_frame(header: Header, spans: list[Fragment]) -> bytes:
    """The bytes of one frame.

    Raises:
        UnreadableImage: the file ends before.
    """
    parts = [_read(header.stream, span) for span in spans]
    if any(len(part) < size for part, (_, size) in zip(parts, spans, strict=True)):
        raise UnreadableImage(f"{header.path}: truncated: it ends inside of a fragment of PixelData (7FE0,0010)")
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _read(stream: BinaryIO, span: Fragment, most: int | None = None) -> bytes:
    stream.seek(span[0])
    return stream.read(span[1] if most is None else min(most, span[1]))


def _fragments(header: Header, limits: Limits) -> tuple[list[int], list[Fragment]]:
    """The basic offset table and all fragments."""
    stream, place = header.stream, header.pixel_start
    spans: list[Fragment] = []
    while True:
        stream.seek(place)
        head = stream.read(8)
        if len(head) < 8 or head[:4] != _ITEM:  # the delimiter, or what follows where it is missing
            break
        size = struct.unpack("<I", head[4:])[0]
        spans.append((place + 8, size))
        place += 8 + size
        if len(spans) > limits.fragments:
            raise UnreadableImage(
                f"{header.path}: PixelData (7FE0,0010) has more than {limits.fragments:,} fragments; raise the limit "
                "fragments if the file can be trusted"
            )
    if not spans:
        raise UnreadableImage(f"{header.path}: PixelData (7FE0,0010) has no fragments, expected a compressed image")
    first = _read(stream, spans[0], 4 * limits.frames)
    if begins_frame(first[:12]):  # some writers leave the table out
        return [], spans
    return [*struct.unpack(f"<{len(first) // 4}I", first[: len(first) // 4 * 4])], spans[1:]


def _by_table(header: Header, basic: list[int], spans: list[Fragment], frames: int) -> list[int]:
    """The first fragment of each frame, by the extended offset table, else by the basic one."""
    extended = header.get("ExtendedOffsetTable")
    if isinstance(extended, bytes) and len(extended) == 8 * frames:
        offsets = [*struct.unpack(f"<{frames}Q", extended)]
    else:
        offsets = basic
    numbers = {place - spans[0][0]: number for number, (place, _) in enumerate(spans)}
    begins = [numbers.get(offset, -1) for offset in offsets]
    if len(begins) != frames or begins[0] or any(a >= b for a, b in pairwise(begins)):
        raise UnreadableImage(
            f"{header.path}: {len(spans)} fragments of {frames} frames, and no offset table that says which belong "
            f"together: expected {frames} ascending beginnings of fragments"
        )
    return begins
