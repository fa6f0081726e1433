"""The data elements of a DICOM data set, found by walking over their heads: everything is counted, little is kept.

pydicom builds what it reads; a small file can make that take minutes. Here only the values that are wanted are read,
each within a ceiling, and nothing is built.
"""

import struct
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

from pydicom.dataelem import DataElement, RawDataElement
from pydicom.tag import BaseTag

from meddap_monai.errors import UnreadableImage
from meddap_monai.images.reading.limits import Limits

UNDEFINED = 0xFFFFFFFF
PIXELS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
"""Float, double and integer pixel data."""
SHARED_GROUPS, FRAME_GROUPS = 0x52009229, 0x52009230
_REGIONS, _MODALITY_TABLES, _VOI_TABLES = 0x00186011, 0x00283000, 0x00283010
_SEQUENCES = {SHARED_GROUPS, FRAME_GROUPS, _REGIONS, _MODALITY_TABLES, _VOI_TABLES}
"""Those that are wanted; in implicit VR a sequence of defined length looks like any other value."""
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_LONG = {b"OB", b"OW", b"OD", b"OF", b"OL", b"OV", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
_BULK = {b"OB", b"OW", b"OD", b"OF", b"OL", b"OV"}
_BLOCK = 2**15
_NEVER = 2**63


class Span(NamedTuple):
    """Bytes of the stream."""

    begin: int
    end: int


class Encoding(NamedTuple):
    """How a data set is encoded."""

    implicit: bool
    little_endian: bool


@dataclass
class Elements:
    """What a walk found.

    Attributes:
        wanted: elements that were asked for, as pydicom keeps what it has not parsed yet.
        items: of the wanted sequences; the functional groups (5200,9229 and 9230) stand here only.
        pixels: tag, VR and announced length of the first pixel data, and the offset of its value; None without any.
        encoding: as found.
        end: where the walk ended.
    """

    wanted: dict[BaseTag, DataElement | RawDataElement] = field(default_factory=dict)
    items: dict[int, list[Span]] = field(default_factory=dict)
    pixels: tuple[int, str, int, int] | None = None
    encoding: Encoding = Encoding(False, True)
    end: int = 0


@dataclass
class _Open:
    """A sequence or item that the walk is in, `tag` that of the outermost sequence, or 0 further in."""

    sequence: bool
    tag: int
    begin: int
    end: int
    implicit: bool


class Walk:
    """One walk over a data set (PS3.5 7.1 and 7.5)."""

    def __init__(self, path: Path, stream: BinaryIO, size: int, wanted: Collection[int], limits: Limits) -> None:
        self.path, self.stream, self.size, self.wanted, self.limits = path, stream, size, wanted, limits
        self.found = Elements()
        self.little_endian, self.count = True, 0
        self._open: list[_Open] = []
        self._block, self._block_begin = b"", 0

    def run(self, place: int, encoding: Encoding, meta: bool = False) -> Elements:
        """Walk from an element to the pixel data, or to the end.

        Args:
            place: offset of the first element.
            encoding: what the transfer syntax says; the VR that is found decides between explicit and implicit.
            meta: stop behind group 0002.

        Raises:
            UnreadableImage: more elements, deeper sequences or longer values than the limits allow.
        """
        self.little_endian = encoding.little_endian
        implicit = self._is_implicit(place, encoding.implicit)
        while place + 8 <= self.size:
            while self._open and self._open[-1].end <= place:
                place = self._close(self._open[-1].end)
            self._counted()
            if self._open:
                place = self._nested(place)
                continue
            tag, vr, length, value = self._head(place, implicit)
            if meta and tag >> 16 != 2:
                break
            if tag in PIXELS:
                self.found.pixels = (tag, vr.decode("latin1"), length, value)
                break
            place = self._enter(tag, vr, length, value, implicit)
        self.found.encoding, self.found.end = Encoding(implicit, self.little_endian), place
        return self.found

    def _nested(self, place: int) -> int:
        """One element inside of a sequence; return where the next one begins."""
        inner = self._open[-1]
        tag, vr, length, value = self._head(place, inner.implicit)
        if tag == _ITEM and inner.tag in (SHARED_GROUPS, FRAME_GROUPS) and len(self._open) == 1 and length != UNDEFINED:
            self.found.items.setdefault(inner.tag, []).append(Span(value, min(value + length, inner.end)))
            return value + length  # a clip has one for each frame; only those of wanted frames are looked into
        if tag == _ITEM:
            implicit = inner.implicit or self._is_implicit(value, False)
            self._push(_Open(False, inner.tag, value, value + length if length != UNDEFINED else _NEVER, implicit))
            return value
        if tag in (_ITEM_END, _SEQUENCE_END):
            while self._open:
                sequence = self._open[-1].sequence
                self._close(place)
                if sequence == (tag == _SEQUENCE_END):
                    break
            return value
        return self._enter(tag, vr, length, value, inner.implicit)

    def _enter(self, tag: int, vr: bytes, length: int, value: int, implicit: bool) -> int:
        """Go into a sequence, take a wanted value or pass by; return where the next element begins."""
        top, undefined = not self._open, length == UNDEFINED
        if undefined and (vr in _BULK or tag in PIXELS):
            return self._pass_fragments(value)
        if undefined or vr == b"SQ" or (implicit and top and tag in _SEQUENCES):
            inner_implicit = implicit or vr == b"UN"  # PS3.5 6.2.2
            self._push(_Open(True, tag if top else 0, value, _NEVER if undefined else value + length, inner_implicit))
            return value
        if top and tag in self.wanted and value + length <= self.size:
            self._keep(tag, vr.decode("latin1") or None, Span(value, value + length), implicit)
        return value + length

    def _push(self, inner: _Open) -> None:
        if self._open:
            inner.end = min(inner.end, self._open[-1].end)
        self._open.append(inner)
        if len(self._open) > 2 * self.limits.depth:  # a sequence and its item
            raise UnreadableImage(f"{self.path}: sequences are nested deeper than {self.limits.depth} levels")

    def _close(self, place: int) -> int:
        """Leave the innermost sequence or item, whose content ends at `place`."""
        inner = self._open.pop()
        if not inner.tag or inner.tag not in self.wanted:
            return place
        items = self.found.items.setdefault(inner.tag, [])
        if inner.sequence and not self._open and inner.tag not in (SHARED_GROUPS, FRAME_GROUPS):
            self._keep(inner.tag, "SQ", Span(inner.begin, place), inner.implicit)
        elif not inner.sequence and len(self._open) == 1:
            items.append(Span(inner.begin, place))
            if len(items) > self.limits.items and inner.tag not in (SHARED_GROUPS, FRAME_GROUPS):
                raise UnreadableImage(
                    f"{self.path}: the sequence ({inner.tag >> 16:04X},{inner.tag & 0xFFFF:04X}) has more than "
                    f"{self.limits.items:,} items; raise the limit items if the file can be trusted"
                )
        return place

    def _keep(self, tag: int, vr: str | None, span: Span, implicit: bool) -> None:
        length = span.end - span.begin
        if length > self.limits.value_bytes:
            raise UnreadableImage(
                f"{self.path}: ({tag >> 16:04X},{tag & 0xFFFF:04X}) holds {length:,} bytes, expected at most "
                f"{self.limits.value_bytes:,}; raise the limit value_bytes if the file can be trusted"
            )
        key = BaseTag(tag)
        self.found.wanted[key] = RawDataElement(
            key, vr, length, self._bytes(*span), span.begin, implicit, self.little_endian
        )

    def _counted(self) -> None:
        self.count += 1
        if self.count > self.limits.elements:
            raise UnreadableImage(
                f"{self.path}: has more than {self.limits.elements:,} data elements before its pixels; raise the limit "
                "elements if the file can be trusted"
            )

    def _pass_fragments(self, place: int) -> int:
        """Pass encapsulated data, such as those of an icon; return where the next element begins."""
        while place + 8 <= self.size:
            self._counted()
            tag, _, length, value = self._head(place, True)
            if tag != _ITEM or length == UNDEFINED:
                return value if tag == _SEQUENCE_END else self.size
            place = value + length
        return self.size

    def _head(self, place: int, implicit: bool) -> tuple[int, bytes, int, int]:
        """Tag, VR, length and offset of the value of the element at `place`."""
        head = self._bytes(place, place + 12)
        order = "<" if self.little_endian else ">"
        group, element = struct.unpack_from(order + "HH", head)
        tag, vr = group << 16 | element, head[4:6]
        if implicit or group == 0xFFFE:
            return tag, b"", struct.unpack_from(order + "I", head, 4)[0], place + 8
        if vr not in _LONG:
            return tag, vr, struct.unpack_from(order + "H", head, 6)[0], place + 8
        return tag, vr, struct.unpack_from(order + "I", head, 8)[0] if len(head) == 12 else self.size, place + 12

    def _is_implicit(self, place: int, expected: bool) -> bool:
        """Whether the element at `place` has no VR of two capitals; expected where there is no element."""
        vr = self._bytes(place + 4, place + 6)
        return not (vr.isalpha() and vr.isupper()) if len(vr) == 2 else expected

    def _bytes(self, begin: int, end: int) -> bytes:
        """Bytes of the stream, fewer at its end; blocks are kept, so that small steps cost nothing."""
        if begin < self._block_begin or end > self._block_begin + len(self._block):
            self.stream.seek(begin)
            self._block, self._block_begin = self.stream.read(max(_BLOCK, end - begin)), begin
        return self._block[begin - self._block_begin : end - self._block_begin]
