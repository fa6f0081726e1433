"""What a PNG, JPEG or TIFF file says about itself, found by walking over it before Pillow allocates anything.

Counts that a file claims bound nothing: here they are compared with what the file holds and with the ceilings.
"""

import re
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from meddap_monai.errors import UnreadableImage
from meddap_monai.images.reading.limits import MIB, Limits

_CHUNKS = 100_000
_TEXT = (b"tEXt", b"zTXt", b"iTXt")
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_REDUCED, _MASK = 1, 4
_DESCRIPTION, _DEPTH = 270, 32997
_STACK = re.compile(rb'ImageJ=[^\0]*?\bimages=(\d{1,9})|\{"shape": \[(\d{1,9}), [^\0]*"truncated": true')
"""How ImageJ and tifffile say that pictures follow the one that a page describes."""


@dataclass(frozen=True)
class Contents:
    """What a raster file holds.

    Attributes:
        pages: Pillow's numbers of its pictures; thumbnails, masks and second views are left out.
        may_turn: whether an EXIF block or XMP may turn the picture.
    """

    pages: range | tuple[int, ...] = (0,)
    may_turn: bool = False


def contents(path: Path | str, stream: BinaryIO, size: int, limits: Limits) -> Contents:
    """Walk over a raster file.

    Args:
        path: for messages.
        stream: the opened file.
        size: its bytes.
        limits: ceilings.

    Raises:
        UnreadableImage: more pages, scans or chunks than may be, or claims that contradict the file.
    """
    stream.seek(0)
    start = stream.read(4)
    if start == b"\x89PNG":
        return _png(path, stream, limits)
    if start[:3] == b"\xff\xd8\xff":
        return Contents(may_turn=True)  # of an MPO, the first picture is the picture, the others are its by-products
    if start in (b"II*\0", b"MM\0*"):
        return Contents(_tiff(path, stream, size, limits))
    return Contents()


def check_scans(path: Path | str, stream: BinaryIO, pixels: int, limits: Limits) -> None:
    """Refuse a JPEG whose scans, each of which passes over all pixels, cost more than ten over the largest frame."""
    stream.seek(0)
    scans, tail = 0, b""
    while block := stream.read(MIB):
        block = tail + block
        scans += block.count(b"\xff\xda")  # cannot occur inside of entropy-coded data
        tail = b"\xff" if block.endswith(b"\xff") else b""
    if scans > 10 and scans * pixels > 10 * limits.frame_pixels:
        raise UnreadableImage(
            f"{path}: {scans} scans over {pixels:,} pixels, expected at most {10 * limits.frame_pixels:,} pixels in "
            "all scans; save it again as a baseline JPEG"
        )


def png_chunks(path: Path | str, stream: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Yield (kind, length) of every chunk of a PNG up to its end; the stream stands at the chunk's data.

    Raises:
        UnreadableImage: more chunks than any writer makes.
    """
    place = 8
    for _ in range(_CHUNKS):
        stream.seek(place)
        head = stream.read(8)
        if len(head) < 8:
            return
        length, kind = struct.unpack(">I4s", head)
        yield kind, length
        if kind == b"IEND":
            return
        place += 12 + length
    raise UnreadableImage(f"{path}: has more than {_CHUNKS:,} chunks, expected at most that many")


def _png(path: Path | str, stream: BinaryIO, limits: Limits) -> Contents:
    early: Counter[bytes] = Counter()
    late: Counter[bytes] = Counter()
    seen, claimed, turns = early, 0, False
    for kind, length in png_chunks(path, stream):
        seen = late if kind == b"IDAT" else seen
        seen[kind] += 1
        if kind == b"acTL" and seen is early:
            claimed = int.from_bytes(stream.read(4), "big")
        elif kind in _TEXT:
            turns = turns or stream.read(min(length, 24)).startswith((b"Raw profile type", b"XML:com.adobe.xmp"))
    turns = turns or bool(early[b"eXIf"] + late[b"eXIf"])
    if not claimed:
        return Contents(may_turn=turns)
    frames = early[b"fcTL"] + late[b"fcTL"]
    if claimed > limits.pages:
        raise UnreadableImage(f"{path}: claims {claimed:,} animation frames, expected at most {limits.pages:,}")
    if claimed != frames:
        raise UnreadableImage(f"{path}: claims {claimed:,} animation frames and holds {frames:,}")
    if not early[b"fcTL"]:
        raise UnreadableImage(f"{path}: its picture is no frame of its animation; which one is meant cannot be told")
    return Contents(range(claimed), turns)


def _tiff(path: Path | str, stream: BinaryIO, size: int, limits: Limits) -> tuple[int, ...]:
    pages, claimed = [], 0
    for tags, bytes_claimed in _directories(path, stream, limits):
        pages.append(tags)
        claimed += bytes_claimed
        if claimed > size + 64 * MIB:
            raise UnreadableImage(f"{path}: its directories claim {claimed:,} bytes, the file has {size:,}")
    stacked = max((max(tags.get(_DEPTH, 1), tags.get(_DESCRIPTION, 1) - len(pages) + 1) for tags in pages), default=1)
    if stacked > 1:
        raise UnreadableImage(
            f"{path}: {stacked:,} pictures lie in one page, which says the size of one; save it with a page for each"
        )
    whole = [number for number, tags in enumerate(pages) if not tags.get(254, 0) & (_REDUCED | _MASK)]
    chosen = whole or list(range(len(pages)))
    forms = {tuple(pages[number].get(tag, 1) for tag in (256, 257, 277)) for number in chosen}
    if len(forms) > 1:
        sizes = ", ".join(sorted(f"{rows} x {columns} x {samples}" for columns, rows, samples in forms)[:3])
        raise UnreadableImage(
            f"{path}: its pages differ in size ({sizes}), expected equal ones; which one is the picture cannot be told"
        )
    return tuple(chosen)


def _directories(path: Path | str, stream: BinaryIO, limits: Limits) -> Iterator[tuple[dict[int, int], int]]:
    """Yield, page by page, the tags that hold one short or long, and how many bytes all its values claim.

    The description stands for the number of pictures that it speaks of.
    """
    stream.seek(0)
    order = "<" if stream.read(2) == b"II" else ">"
    stream.seek(4)
    place, seen = struct.unpack(order + "I", stream.read(4).ljust(4, b"\0"))[0], set()
    while place and place not in seen:
        seen.add(place)
        if len(seen) > limits.pages:
            raise UnreadableImage(f"{path}: has more than {limits.pages:,} pages; raise the limit pages")
        stream.seek(place)
        head = stream.read(2)
        entries = stream.read(12 * struct.unpack(order + "H", head)[0]) if len(head) == 2 else b""
        following = stream.read(4).ljust(4, b"\0")
        tags, claimed = {}, 0
        for tag, kind, count, value in struct.iter_unpack(order + "HHI4s", entries[: len(entries) // 12 * 12]):
            room = _SIZES.get(kind, 0) * count
            claimed += room if room > 4 else 0
            if tag == _DESCRIPTION and count > 4:
                stream.seek(struct.unpack(order + "I", value)[0])
                said = _STACK.match(stream.read(min(count, 4096)))
                tags[tag] = int(said[1] or said[2]) if said else 1
            elif count == 1 and kind in (3, 4):
                tags[tag] = struct.unpack(order + ("I" if kind == 4 else "H"), value[: 4 if kind == 4 else 2])[0]
        yield tags, claimed
        place = struct.unpack(order + "I", following)[0]
