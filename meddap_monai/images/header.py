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
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag, Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from meddap_monai.errors import UnreadableImage
from meddap_monai.images.limits import MIB, Limits, open_regular
from meddap_monai.images.nesting import nesting_depth

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
    "ExtendedOffsetTableLengths",
)  # fmt: skip
TAGS = [Tag(name) for name in _NAMES]
_DEFLATED = b"\x02\0\x10\0UI\x16\0" + DeflatedExplicitVRLittleEndian.encode()
_LONG_VR = {b"OB", b"OW", b"OD", b"OF", b"OL", b"OV", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
UNDEFINED = 0xFFFFFFFF


@dataclass
class Header:
    """An opened DICOM file.

    Attributes:
        path: for messages.
        dataset: the attributes of `TAGS` that the file holds.
        stream: positioned at the first byte of the value of PixelData (7FE0,0010).
        pixel_vr: value representation of PixelData.
        pixel_bytes: length of its value, `UNDEFINED` when encapsulated.
        pixel_start: offset of the value in `stream`.
        available: bytes from there to the end of the stream.
        syntax: transfer syntax UID.
        little_endian: byte order.
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

    def get(self, name: str) -> Any:
        """Return the value of an attribute by its keyword, None when the file does not hold it."""
        return value_of(self.dataset, name)

    def raw(self, name: str) -> tuple[str, bytes] | None:
        """Return VR (empty in implicit VR) and bytes of an attribute that nobody took with `get`, None without it."""
        element = self.dataset.get_item(_tag(name))
        if not isinstance(element, RawDataElement) or element.value is None:
            return None
        return element.VR or "", element.value


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
        stream.seek(0)
        tags: list[Any] = [*TAGS, *extra]
        if marked and _DEFLATED in start:
            header = _locate(path, *_inflate(path, stream, start, limits, tags))
            _check_depth(header, 0, limits)
            yield header
        else:
            dataset = dcmread(stream, stop_before_pixels=True, force=not marked, specific_tags=tags)
            header = _locate(path, dataset, stream, size)
            _check_depth(header, 132 if marked else 0, limits)
            yield header


def _check_depth(header: Header, start: int, limits: Limits) -> None:
    header.stream.seek(0)
    before = header.stream.read(header.pixel_start)
    implicit = bool(header.dataset.original_encoding[0])
    if nesting_depth(before, start, implicit, header.little_endian, limits.depth) > limits.depth:
        raise UnreadableImage(f"{header.path}: sequences are nested deeper than {limits.depth} levels")


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


def _inflate(
    path: Path, stream: BinaryIO, start: bytes, limits: Limits, tags: list[Any]
) -> tuple[Dataset, BinaryIO, int]:
    """Inflate a deflated data set within limits (PS3.5 A.5): its header, the inflated stream and its size."""
    if start[132:136] != b"\x02\0\0\0" or start[136:138] != b"UL":
        raise UnreadableImage(f"{path}: deflated, without the group length (0002,0000) that says where the data begin")
    stream.seek(144 + struct.unpack("<I", start[140:144])[0])
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
    size = inflated.tell()
    inflated.seek(0)
    dataset = read_dataset(
        inflated, False, True, stop_when=lambda tag, _vr, _length: tag >= 0x7FE00008, specific_tags=tags
    )
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.set_original_encoding(False, True)
    return dataset, inflated, size


def _locate(path: Path, dataset: Dataset, stream: BinaryIO, size: int) -> Header:
    """Find the value of PixelData, which begins where the reader of the header stopped."""
    implicit, little = dataset.original_encoding
    little = little is not False
    order = "<" if little else ">"
    head = stream.read(8)
    if len(head) < 8:
        raise UnreadableImage(f"{path}: has no PixelData (7FE0,0010); expected an image")
    group, element = struct.unpack(order + "HH", head[:4])
    if (group, element) != (0x7FE0, 0x0010):
        raise UnreadableImage(
            f"{path}: has ({group:04X},{element:04X}) where integer PixelData (7FE0,0010) is expected"
        )
    if implicit:
        vr, length = b"OW", struct.unpack(order + "I", head[4:])[0]
    elif (vr := head[4:6]) in _LONG_VR:
        tail = stream.read(4)
        length = struct.unpack(order + "I", tail)[0] if len(tail) == 4 else 0
    else:
        length = struct.unpack(order + "H", head[6:])[0]
    place = stream.tell()
    syntax = str(getattr(dataset, "file_meta", {}).get("TransferSyntaxUID", "") or "")
    if not syntax:
        syntax = "1.2.840.10008.1.2" if implicit else ("1.2.840.10008.1.2.1" if little else "1.2.840.10008.1.2.2")
    return Header(path, dataset, stream, vr.decode("latin1"), length, place, size - place, syntax, little)


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
