"""The header of a DICOM file, read within limits and with every number checked.

Only a short list of attributes is looked at; nothing else of the file is kept.
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag, Tag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from meddap_monai.errors import UnreadableImage
from meddap_monai.images.reading.elements import FRAME_GROUPS, SHARED_GROUPS, Encoding, Span, Walk
from meddap_monai.images.reading.limits import MIB, Limits, open_regular

_NAMES = (
    "SpecificCharacterSet", "SyntheticData", "Modality", "Manufacturer", "ManufacturerModelName", "InstitutionName",
    "PatientID", "StudyInstanceUID", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration",
    "NumberOfFrames", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "PixelSpacing", "FrameTime", "SequenceOfUltrasoundRegions", "RescaleSlope", "RescaleIntercept", "WindowCenter",
    "WindowWidth", "VOILUTFunction", "VOILUTSequence", "ModalityLUTSequence", "RedPaletteColorLookupTableDescriptor",
    "GreenPaletteColorLookupTableDescriptor", "BluePaletteColorLookupTableDescriptor",
    "RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData", "BluePaletteColorLookupTableData",
    "SegmentedRedPaletteColorLookupTableData", "SegmentedGreenPaletteColorLookupTableData",
    "SegmentedBluePaletteColorLookupTableData", "PixelPresentation", "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
)  # fmt: skip
TAGS = [Tag(name) for name in _NAMES]
_SYNTAX = Tag("TransferSyntaxUID")
_MACROS = {
    "FrameVOILUTSequence": ("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence"),
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
    "PixelMeasuresSequence": ("PixelSpacing",),
}
"""What a functional group macro says in place of the header (PS3.3 C.7.6.16.2)."""


@dataclass
class Header:
    """An opened DICOM file.

    Attributes:
        path: for messages.
        dataset: the attributes of `TAGS` that the file holds, functional groups left out.
        stream: positioned at the first byte of the value of PixelData (7FE0,0010).
        pixel_vr: value representation of PixelData.
        pixel_bytes: length of its value, `UNDEFINED` when encapsulated.
        pixel_start: offset of the value in `stream`.
        available: bytes from there to the end of the stream.
        syntax: transfer syntax UID.
        little_endian: byte order.
        items: where the items of sequences lie in `stream`.
    """

    path: Path
    dataset: Dataset
    stream: BinaryIO
    pixel_vr: str
    pixel_bytes: int
    pixel_start: int
    available: int
    syntax: str
    little_endian: bool
    items: dict[int, list[Span]]

    def get(self, name: str) -> Any:
        """Return the value of an attribute by its keyword, None when the file does not hold it."""
        return value_of(self.dataset, name)

    def raw(self, name: str) -> tuple[str, bytes] | None:
        """Return VR (empty in implicit VR) and bytes of an attribute that nobody took with `get`, None without it."""
        element = self.dataset.get_item(_tag(name))
        if not isinstance(element, RawDataElement) or element.value is None:
            return None
        return element.VR or "", element.value

    def of_frame(self, number: int) -> Header:
        """Return the header as if the file held this frame only: functional groups are laid over it (PS3.3 C.7.6.16).

        Args:
            number: frame, 0 is the first.

        Raises:
            UnreadableImage: there are functional groups, but none for this frame.
        """
        frames, shared = self.items.get(FRAME_GROUPS, []), self.items.get(SHARED_GROUPS, [])
        if not frames and not shared:
            return self
        if frames and number >= len(frames):
            raise UnreadableImage(
                f"{self.path}: has functional groups (5200,9230) of {len(frames)} frames, expected one for each frame"
            )
        groups = [self._group(span) for span in (*frames[number : number + 1], *shared[:1])]
        laid = Dataset({tag: self.dataset.get_item(tag) for tag in self.dataset.keys()})  # noqa: SIM118
        for macro, names in _MACROS.items():
            found = next((items[0] for group in groups if (items := group.get(macro))), None)
            if found is None:
                continue
            for name in names:
                laid.pop(name, None)
                if name in found:
                    laid[name] = found[name]
        return replace(self, dataset=laid)

    def _group(self, span: Span) -> Dataset:
        """Parse the functional groups of one item."""
        if span.end - span.begin > MIB:
            raise UnreadableImage(f"{self.path}: functional groups of {span.end - span.begin:,} bytes for one frame")
        self.stream.seek(span.begin)
        data = io.BytesIO(self.stream.read(span.end - span.begin))
        implicit = bool(self.dataset.original_encoding[0])
        return read_dataset(data, implicit, self.little_endian, bytelength=span.end - span.begin)


@contextmanager
def open_header(path: Path | str, limits: Limits, extra: tuple[int, ...] = ()) -> Iterator[Header]:
    """Open a DICOM file up to its pixels; the stream is closed at the end.

    Args:
        path: the file.
        limits: ceilings.
        extra: further tags to read.

    Raises:
        UnreadableImage: not DICOM, damaged, too large, nested too deep, or without PixelData.
    """
    path = Path(path)
    stream, size = open_regular(path, limits)
    with stream:
        start = stream.read(4096)
        marked = start[128:132] == b"DICM"
        if not marked and not _looks_like_a_bare_dataset(start):
            raise UnreadableImage(f"{path}: is not DICOM (no DICM prefix at byte 128 and no data set at byte 0)")
        syntax, place = _meta(path, stream, size, 132 if marked else 0, limits)
        if syntax == DeflatedExplicitVRLittleEndian:
            stream.seek(place)
            inflated = _inflate(path, stream, limits)
            size, place, syntax = inflated.getbuffer().nbytes, 0, ExplicitVRLittleEndian
            yield _header(path, inflated, size, place, syntax, limits, extra)
        else:
            yield _header(path, stream, size, place, syntax, limits, extra)


def _looks_like_a_bare_dataset(start: bytes) -> bool:
    """Whether the bytes begin with an element of group 0002 or 0008 (files without preamble exist)."""
    if len(start) < 16:
        return False
    for order in "<>":
        group, element = struct.unpack(order + "HH", start[:4])
        if group in (2, 8) and element <= 0x0100:
            short = struct.unpack(order + "H", start[6:8])[0] if start[4:6].isalpha() else 0
            length = struct.unpack(order + "I", start[4:8])[0]
            return bool(start[4:6].isalpha() and start[4:6].isupper() and short < 4096) or length < 4096
    return False


def _meta(path: Path, stream: BinaryIO, size: int, place: int, limits: Limits) -> tuple[str, int]:
    """Transfer syntax UID of the file meta information, empty without one, and where the data set begins."""
    found = Walk(path, stream, size, {_SYNTAX}, limits).run(place, Encoding(False, True), meta=True)
    raw = found.wanted.get(_SYNTAX)
    value = raw.value if raw is not None else b""
    return (value or b"").decode("latin1").strip(" \0"), found.end


def _inflate(path: Path, stream: BinaryIO, limits: Limits) -> io.BytesIO:
    """Inflate a deflated data set within limits (PS3.5 A.5)."""
    machine = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated, taken = io.BytesIO(), 0
    while block := stream.read(MIB):
        taken += len(block)
        while block:
            inflated.write(machine.decompress(block, MIB))
            block = machine.unconsumed_tail
            total = inflated.tell()
            if total > limits.inflated_bytes or (total > 32 * MIB and total > limits.inflate_ratio * taken):
                raise UnreadableImage(
                    f"{path}: deflated data grow to more than {total:,} bytes, expected at most "
                    f"{limits.inflated_bytes:,} and {limits.inflate_ratio} times the deflated size"
                )
    return inflated


def _header(
    path: Path, stream: BinaryIO, size: int, place: int, syntax: str, limits: Limits, extra: tuple[int, ...]
) -> Header:
    """Walk to the pixels."""
    stream.seek(place)
    encoding = _encoding(syntax, stream.read(6))
    found = Walk(path, stream, size, {*TAGS, *extra}, limits).run(place, encoding)
    implicit, little = found.encoding
    if found.pixels is None:
        raise UnreadableImage(f"{path}: has no PixelData (7FE0,0010); expected an image")
    tag, vr, length, begin = found.pixels
    if tag != 0x7FE00010:
        raise UnreadableImage(
            f"{path}: has ({tag >> 16:04X},{tag & 0xFFFF:04X}) where integer PixelData (7FE0,0010) is expected"
        )
    if not syntax:
        syntax = "1.2.840.10008.1.2" if implicit else ("1.2.840.10008.1.2.1" if little else "1.2.840.10008.1.2.2")
    dataset = Dataset(found.wanted)
    dataset.set_original_encoding(implicit, little)
    return Header(path, dataset, stream, vr or "OW", length, begin, size - begin, syntax, little, found.items)


def _encoding(syntax: str, start: bytes) -> Encoding:
    """How the data set is encoded; without a syntax by its first tag and VR, as pydicom does."""
    if syntax:
        return Encoding(syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian)
    swapped = len(start) == 6 and start[4:6].isalpha() and start[0] == 0 and start[1] > 0
    return Encoding(True, not swapped)


@lru_cache(maxsize=256)
def _tag(name: str) -> BaseTag:
    return Tag(name)


_NUMBERS = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d"}


def value_of(dataset: Dataset, name: str) -> Any:
    """Return the value of an attribute by its keyword, None when it is missing.

    Single numbers and plain ASCII text are taken straight from their bytes; everything else is left to pydicom.
    """
    tag = _tag(name)
    if tag not in dataset.keys():  # noqa: SIM118  (`in dataset` parses the tag anew)
        return None
    raw = dataset.get_item(tag)
    if isinstance(raw, RawDataElement) and raw.value is not None:
        data, vr = raw.value, raw.VR
        if vr in _NUMBERS and len(data) == struct.calcsize(_NUMBERS[vr]):
            return struct.unpack(("<" if raw.is_little_endian else ">") + _NUMBERS[vr], data)[0]
        if vr in ("CS", "LO", "UI", "SH", "DS", "IS") and data.isascii() and b"\\" not in data and b"\x1b" not in data:
            return data.decode().strip(" \0")
    return dataset[tag].value


def integer(header: Header, name: str, valid: range | tuple[int, ...], default: int | None = None) -> int:
    """Return a whole-number attribute.

    Raises:
        UnreadableImage: missing without a default, not one whole number, or not in `valid`.
    """
    value = header.get(name)
    if (value is None or value == "") and default is not None:
        return default
    number = finite(value)
    if number is not None and number == int(number) and int(number) in valid:
        return int(number)
    tag = _tag(name)
    if value is None or value == "":
        problem = "is missing"
    else:
        problem = "is not one whole number" if number is None or number != int(number) else f"is {int(number)}"
    wanted = f"{valid[0]} to {valid[-1]}" if isinstance(valid, range) else " or ".join(map(str, valid))
    raise UnreadableImage(f"{header.path}: {name} ({tag.group:04X},{tag.element:04X}) {problem}, expected {wanted}")


def finite(value: Any) -> float | None:
    """Return one finite number, or None for text, lists, bytes, nan and infinity."""
    if value is None or isinstance(value, (bytes, bool)):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError, ArithmeticError):
        return None
    return number if math.isfinite(number) and abs(number) < 1e15 else None


def word(header: Header, name: str) -> str:
    """Return a code string in capitals, empty when it is missing or not one short text."""
    value = header.get(name)
    return value.strip().upper()[:64] if isinstance(value, str) else ""
