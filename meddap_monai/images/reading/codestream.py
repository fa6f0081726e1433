"""What a compressed frame says about itself, read before any decoder allocates or works for it."""

import struct
from dataclasses import dataclass
from pathlib import Path

from meddap_monai.errors import UnreadableImage
from meddap_monai.images.reading.limits import Limits

_J2K = b"\xff\x4f\xff\x51"
_JP2 = b"\0\0\0\x0cjP  "
_END = b"\xff\xd9"
_MOST_TILES = 4096
_MOST_SCANS = 1000
_MOST_PRECINCTS = 100_000
_MOST_SEGMENTS = 100_000


@dataclass(frozen=True)
class Codestream:
    """The frame header of a JPEG, JPEG-LS or JPEG 2000 frame.

    Attributes:
        rows: of the picture.
        columns: of the picture.
        components: samples per pixel.
        precision: bits of a sample.
        tiles: of JPEG 2000, else 1.
        begin: where the codestream begins in the frame: 0, or inside of the boxes of a JP2 file.
        place: where its frame header begins.
    """

    rows: int
    columns: int
    components: int
    precision: int
    tiles: int
    begin: int
    place: int

    def precincts(self, sizes: bytes) -> int:
        """How many precincts JPEG 2000 has, by the exponents of their sizes for each resolution, smallest first."""
        count = self.tiles * self.components * len(sizes)
        for level, size in enumerate(reversed(sizes)):
            columns, rows = _halved(self.columns, level), _halved(self.rows, level)
            count += self.components * _halved(columns, size & 15) * _halved(rows, size >> 4)
        return count


def _halved(length: int, times: int) -> int:
    """Halved so many times, rounded up."""
    return -(-length >> times)


def begins_frame(start: bytes) -> bool:
    """Whether the first 12 bytes of a fragment are those of a JPEG, JPEG-LS, JPEG 2000 or RLE frame (PS3.5 G.5)."""
    if start[:3] == b"\xff\xd8\xff" or start[:4] == _J2K or start[:8] == _JP2:
        return True
    return len(start) >= 8 and 1 <= struct.unpack("<I", start[:4])[0] <= 15 and start[4:8] == b"\x40\0\0\0"


def read_codestream(frame: bytes) -> Codestream | None:
    """Read the frame header; None for RLE or when there is none.

    Sources: ISO 10918-1 B.2.2 (SOFn), ISO 14495-1 C.2.2 (SOF55), ISO 15444-1 A.5.1 (SIZ) and I.5 (JP2 boxes).
    """
    if frame[:8] == _JP2:
        place = _codestream_box(frame)
        return _jpeg2000(frame, place) if frame[place : place + 4] == _J2K else None
    if frame[:4] == _J2K:
        return _jpeg2000(frame, 0)
    return _jpeg(frame) if frame[:2] == b"\xff\xd8" else None


def without_padding(frame: bytes, codestream: Codestream) -> bytes:
    """The bytes from the begin of the codestream to its end marker; without an end marker, empty.

    Between the frame header and the end no coded byte pair can look like the end marker.
    """
    end = frame.rfind(_END, codestream.place) + 2
    if end < 2:
        return b""
    return frame[codestream.begin : end] if codestream.begin or end < len(frame) else frame


def check_work(path: Path | str, frame: bytes, codestream: Codestream, limits: Limits) -> None:
    """Refuse what would keep a decoder busy far longer than its size says.

    Args:
        path: for the message.
        frame: the bytes, of a JPEG file or of a DICOM frame.
        codestream: its frame header.
        limits: ten scans of the largest frame are allowed.

    Raises:
        UnreadableImage: too many tiles or precincts of JPEG 2000, or scans of progressive JPEG.
    """
    if frame[:2] == b"\xff\xd8":
        _check_scans(path, frame, codestream, limits)
        return
    if codestream.tiles > _MOST_TILES:
        raise UnreadableImage(f"{path}: JPEG 2000 of {codestream.tiles:,} tiles, expected at most {_MOST_TILES:,}")
    precincts = max(map(codestream.precincts, _coding_styles(path, frame)), default=0)
    if precincts > _MOST_PRECINCTS:
        raise UnreadableImage(
            f"{path}: JPEG 2000 of {precincts:,} precincts, expected at most {_MOST_PRECINCTS:,}; no decoder gets far"
        )


def _check_scans(path: Path | str, frame: bytes, codestream: Codestream, limits: Limits) -> None:
    scans = frame.count(b"\xff\xda", codestream.place)
    most = min(_MOST_SCANS, max(1, 10 * limits.frame_pixels // max(1, codestream.rows * codestream.columns)))
    if scans > most:
        raise UnreadableImage(f"{path}: JPEG of {scans:,} scans, expected at most {most:,} for its size")


def _coding_styles(path: Path | str, frame: bytes) -> list[bytes]:
    """The precinct sizes of all COD and COC segments, tile-part headers included (ISO 15444-1 A.6.1 and A.6.2)."""
    found: list[bytes] = []
    place, tile_end = 2, 0
    for _ in range(_MOST_SEGMENTS):
        if place + 12 > len(frame):
            return found
        marker, length = frame[place + 1], struct.unpack(">H", frame[place + 2 : place + 4])[0]
        if marker == 0x90:
            size = struct.unpack(">I", frame[place + 6 : place + 10])[0]
            tile_end = place + size if size >= 14 else len(frame)
        if marker == 0x93:
            if tile_end <= place:
                return found
            place = tile_end
            continue
        segment = frame[place + 4 : place + 2 + length]
        if marker == 0x52 and segment and segment[0] & 1:
            found.append(segment[10:])
        elif marker == 0x53 and len(segment) > 1 and segment[1] & 1:
            found.append(segment[7:])
        place += 2 + length
    raise UnreadableImage(f"{path}: JPEG 2000 of more than {_MOST_SEGMENTS:,} marker segments")


def _codestream_box(frame: bytes) -> int:
    """Where the contents of the box jp2c begin, 0 without one."""
    place = 0
    while place + 16 <= len(frame):
        size, kind = struct.unpack(">I4s", frame[place : place + 8])
        head = 16 if size == 1 else 8
        if kind == b"jp2c":
            return place + head
        size = struct.unpack(">Q", frame[place + 8 : place + 16])[0] if size == 1 else size
        if size < head:
            break
        place += size
    return 0


def _jpeg2000(frame: bytes, begin: int) -> Codestream | None:
    if len(frame) < begin + 43:
        return None
    right, bottom, left, top, wide, high, tile_left, tile_top, components, sign = struct.unpack(
        ">8IHB", frame[begin + 8 : begin + 43]
    )
    if not wide or not high or tile_left > right or tile_top > bottom:
        return None
    tiles = -(-(right - tile_left) // wide) * -(-(bottom - tile_top) // high)
    return Codestream(bottom - top, right - left, components, (sign & 0x7F) + 1, tiles, begin, begin)


def _jpeg(frame: bytes) -> Codestream | None:
    place = 2
    while place + 10 <= len(frame):
        if frame[place] != 0xFF:
            return None
        marker = frame[place + 1]
        if marker == 0xFF:
            place += 1
        elif marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            precision, rows, columns, components = struct.unpack(">BHHB", frame[place + 4 : place + 10])
            return Codestream(rows, columns, components, precision, 1, 0, place)
        elif marker == 0xDA:
            return None
        else:
            place += 2 + struct.unpack(">H", frame[place + 2 : place + 4])[0]
    return None
