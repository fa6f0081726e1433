"""Frames out of PixelData: one at a time, the others untouched where the transfer syntax allows it."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder
from pydicom.pixels.decoders.base import Decoder
from pydicom.pixels.utils import expand_ybr422
from pydicom.uid import UID, RLELossless

from meddap_monai.errors import UnreadableImage
from meddap_monai.images.reading.codestream import Codestream, check_work, read_codestream, without_padding
from meddap_monai.images.reading.colour import ybr_to_rgb
from meddap_monai.images.reading.elements import UNDEFINED
from meddap_monai.images.reading.fragments import Fragment, find_frames, is_encapsulated, read_frame
from meddap_monai.images.reading.header import Header, integer, word
from meddap_monai.images.reading.limits import MIB, Limits, check_frame_size

NATIVE = {"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"}
GREY = ("MONOCHROME1", "MONOCHROME2")
LOSSY = {f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 81, 91, 203)}
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")


@dataclass(frozen=True)
class Layout:
    """How the pixels of a file are stored (PS3.3 C.7.6.3), checked.

    `subsampled` is native YBR_FULL_422 with two samples per pixel; `fragments` are those of each compressed frame.
    """

    rows: int
    columns: int
    frames: int
    samples: int
    photometric: str
    allocated: int
    stored: int
    high_bit: int
    signed: bool
    planar: int
    native: bool
    subsampled: bool = False
    fragments: tuple[list[Fragment], ...] = ()

    @property
    def frame_bytes(self) -> int:
        """Bytes of one uncompressed frame."""
        samples = 2 if self.subsampled else self.samples
        return self.rows * self.columns * samples * self.allocated // 8


def read_layout(header: Header, limits: Limits) -> Layout:
    """Check everything that the pixels depend on.

    Raises:
        UnreadableImage: an attribute is missing, out of range, or the combination cannot be an image.
    """
    path = header.path
    rows, columns = (integer(header, name, range(1, 65536)) for name in ("Rows", "Columns"))
    check_frame_size(path, rows, columns, limits)
    photometric = word(header, "PhotometricInterpretation")
    if photometric not in (*GREY, *COLOUR, "PALETTE COLOR"):
        raise UnreadableImage(
            f"{path}: PhotometricInterpretation (0028,0004) is missing or not supported, expected one of "
            f"{', '.join((*GREY, *COLOUR, 'PALETTE COLOR'))}"
        )
    samples = integer(header, "SamplesPerPixel", (1, 3), default=1)
    if (samples == 3) != (photometric in COLOUR):
        raise UnreadableImage(f"{path}: SamplesPerPixel (0028,0002) is {samples}, which {photometric} never has")
    allocated = integer(header, "BitsAllocated", (8, 16))
    stored = integer(header, "BitsStored", range(1, allocated + 1), default=allocated)
    native = header.syntax in NATIVE
    planar = integer(header, "PlanarConfiguration", (0, 1), default=0) if samples == 3 else 0
    layout = Layout(
        rows=rows,
        columns=columns,
        frames=integer(header, "NumberOfFrames", range(1, limits.frames + 1), default=1),
        samples=samples,
        photometric=photometric,
        allocated=allocated,
        stored=stored,
        high_bit=_high_bit(header, allocated, stored),
        signed=integer(header, "PixelRepresentation", (0, 1), default=0) == 1,
        planar=planar,
        native=native,
    )
    if native:
        return _check_native(header, layout)
    if header.pixel_bytes != UNDEFINED and not is_encapsulated(header):
        raise UnreadableImage(f"{path}: compressed transfer syntax, but PixelData (7FE0,0010) is not encapsulated")
    return replace(layout, fragments=tuple(find_frames(header, layout.frames, limits)))


def _high_bit(header: Header, allocated: int, stored: int) -> int:
    """Where the stored bits end; files whose stored bits fill the allocated ones often say nonsense."""
    if stored == allocated:
        return stored - 1
    return integer(header, "HighBit", range(stored - 1, allocated), default=stored - 1)


def _check_native(header: Header, layout: Layout) -> Layout:
    """Compare the length of uncompressed pixels with what the header says, and settle YBR_FULL_422 by it."""
    path, held = header.path, header.pixel_bytes
    if layout.photometric in ("YBR_RCT", "YBR_ICT"):
        raise UnreadableImage(f"{path}: {layout.photometric} without JPEG 2000 compression, which cannot be")
    if layout.samples == 3 and layout.signed:
        raise UnreadableImage(f"{path}: PixelRepresentation (0028,0103) is 1 for colour, expected 0")
    if held > header.available:
        announced = "an undefined number of" if held == UNDEFINED else f"{held:,}"
        raise UnreadableImage(
            f"{path}: truncated: PixelData (7FE0,0010) announces {announced} bytes, the file holds "
            f"{header.available:,}, expected {layout.frame_bytes * layout.frames:,}"
        )
    if layout.photometric == "YBR_FULL_422" and held - layout.frame_bytes * layout.frames not in (0, 1):
        if layout.columns % 2 or layout.allocated != 8:
            raise UnreadableImage(f"{path}: uncompressed YBR_FULL_422 needs an even number of columns and 8 bits")
        layout = replace(layout, subsampled=True)
    needed = layout.frame_bytes * layout.frames
    if held < needed or not _is_padding(header, layout, needed, held - needed):
        problem = "truncated: " if held < needed else ""
        raise UnreadableImage(
            f"{path}: {problem}PixelData (7FE0,0010) holds {held:,} bytes, expected {needed:,} "
            f"({layout.frames} frames of {layout.rows} x {layout.columns}, {layout.samples} samples of "
            f"{layout.allocated} bits)"
        )
    return layout


def _is_padding(header: Header, layout: Layout, needed: int, spare: int) -> bool:
    """Whether the bytes behind the last frame say nothing: fewer than a wrong size or number could give, or zeros."""
    if spare < max(2, min(layout.rows, layout.columns, layout.frames if layout.frames > 1 else layout.rows)):
        return True
    header.stream.seek(header.pixel_start + needed)
    return spare < layout.frame_bytes and not any(header.stream.read(spare))


def decode_frame(header: Header, layout: Layout, number: int, limits: Limits) -> np.ndarray:
    """Decode one frame.

    Args:
        header: opened file.
        layout: its checked layout.
        number: frame, 0 is the first.
        limits: for what a compressed frame may cost.

    Returns:
        (H, W) stored values or palette indices, or (H, W, 3) RGB; unsigned or signed integers of 8 or 16 bits.

    Raises:
        UnreadableImage: damaged or unsupported; a missing codec is named with its pip package.
    """
    if layout.native:
        return _native(header, layout, number)
    return _encapsulated(header, layout, number, limits)


def _native(header: Header, layout: Layout, number: int) -> np.ndarray:
    size = layout.frame_bytes
    begin = number * size
    swapped = not header.little_endian and layout.allocated == 8 and header.pixel_vr == "OW"
    if swapped:  # 8-bit samples in 16-bit words of the other byte order: pairs are exchanged, whole words are read
        first, last = begin - begin % 2, begin + size + (begin + size) % 2
        header.stream.seek(header.pixel_start + first)
        words = np.frombuffer(header.stream.read(last - first).ljust(last - first, b"\0"), "u1").reshape(-1, 2)
        values = words[:, ::-1].reshape(-1)[begin - first :][:size]
    else:
        header.stream.seek(header.pixel_start + begin)
        kind = "u1" if layout.allocated == 8 else ("<u2" if header.little_endian else ">u2")
        values = np.frombuffer(header.stream.read(size), kind)
    if layout.allocated == 16:
        values = values.astype(np.uint16, copy=False)
    if layout.subsampled:
        full = np.frombuffer(expand_ybr422(values.tobytes(), 8), np.uint8)
        return ybr_to_rgb(full.reshape(layout.rows, layout.columns, 3))
    values = _stored_bits(values, layout, layout.allocated)
    if layout.samples == 1:
        return values.reshape(layout.rows, layout.columns)
    if layout.planar:
        values = values.reshape(3, layout.rows, layout.columns).transpose(1, 2, 0)
    colour = values.reshape(layout.rows, layout.columns, 3)
    return colour if layout.photometric == "RGB" else ybr_to_rgb(colour, layout.stored)


def _stored_bits(values: np.ndarray, layout: Layout, precision: int) -> np.ndarray:
    """Cut the stored bits out of the coded ones and give them their sign.

    Args:
        values: unsigned, of 8 or 16 bits.
        layout: says where the stored bits lie in the allocated ones.
        precision: coded bits; a codestream that codes fewer than reach to HighBit holds the stored bits alone.
    """
    stored = min(layout.stored, precision)
    shift = layout.high_bit + 1 - layout.stored if precision > layout.high_bit else 0
    if shift:
        values = values >> shift
    bits = values.dtype.itemsize * 8
    if stored < bits:
        values = values & np.array((1 << stored) - 1, values.dtype)
    if layout.signed:
        spare = bits - stored
        signed = np.ascontiguousarray(values << spare if spare else values).view(f"i{bits // 8}")
        values = signed >> spare if spare else signed
    return values


def _encapsulated(header: Header, layout: Layout, number: int, limits: Limits) -> np.ndarray:
    decoder = _decoder(header)
    frame = read_frame(header, layout.fragments[number])
    if not frame:
        raise UnreadableImage(f"{header.path}: frame {number} of {layout.frames} is empty")
    precision = layout.allocated
    if header.syntax != RLELossless:
        codestream = _codestream(header, layout, number, frame)
        frame, precision = without_padding(frame, codestream), codestream.precision
        if not frame:
            raise UnreadableImage(f"{header.path}: frame {number} is truncated: it has no end-of-image marker")
        check_work(header.path, frame, codestream, limits)
    if layout.frame_bytes > max(32 * MIB, limits.frame_ratio * len(frame)):
        raise UnreadableImage(
            f"{header.path}: frame {number} grows from {len(frame):,} to {layout.frame_bytes:,} bytes, expected "
            f"at most {limits.frame_ratio} times the size; raise the limit frame_ratio if the file can be trusted"
        )
    try:
        values, colour = _decode(decoder, frame, layout, precision)
    except RuntimeError as error:
        raise UnreadableImage(
            f"{header.path}: frame {number} is damaged: no installed codec decodes it as {UID(header.syntax).name}"
        ) from error
    expected = (layout.rows, layout.columns) + ((3,) if layout.samples == 3 else ())
    if values.shape != expected:
        raise UnreadableImage(f"{header.path}: frame {number} decodes to {values.shape}, expected {expected}")
    if header.syntax in LOSSY and not layout.signed and layout.high_bit + 1 == layout.stored:
        values = np.minimum(values, np.array((1 << layout.stored) - 1, values.dtype))  # overshoot must not wrap
    values = _stored_bits(values, layout, precision)
    return ybr_to_rgb(values, layout.stored) if colour.startswith("YBR_FULL") else values


def _codestream(header: Header, layout: Layout, number: int, frame: bytes) -> Codestream:
    """The frame header of a compressed frame, checked against the file's."""
    found = read_codestream(frame)
    if found is None:
        raise UnreadableImage(f"{header.path}: frame {number} has no {UID(header.syntax).name} frame header")
    if (found.rows, found.columns) != (layout.rows, layout.columns):
        raise UnreadableImage(
            f"{header.path}: frame {number} announces {found.rows} x {found.columns} pixels, the header "
            f"{layout.rows} x {layout.columns}"
        )
    if found.components != layout.samples or found.precision > layout.allocated:
        raise UnreadableImage(
            f"{header.path}: frame {number} announces {found.components} samples of {found.precision} bits, the header "
            f"{layout.samples} of {layout.allocated}"
        )
    return found


def _decode(decoder: Decoder, frame: bytes, layout: Layout, precision: int) -> tuple[np.ndarray, str]:
    """Coded bits, unsigned, and their photometric interpretation."""
    options: dict[str, Any] = {
        "rows": layout.rows,
        "columns": layout.columns,
        "number_of_frames": 1,
        "samples_per_pixel": layout.samples,
        "bits_allocated": layout.allocated,
        "bits_stored": precision,
        "pixel_representation": int(layout.signed),
        "photometric_interpretation": layout.photometric,
        "planar_configuration": layout.planar,
        "pixel_keyword": "PixelData",
        "correct_unused_bits": False,
    }
    values, found = decoder.as_array(encapsulate([frame], has_bot=False), index=0, raw=True, **options)
    return values.view(f"u{values.dtype.itemsize}"), str(found.get("photometric_interpretation", ""))


def _decoder(header: Header) -> Decoder:
    name = UID(header.syntax).name if header.syntax.startswith("1.2.840.10008.1.2") else "a private transfer syntax"
    try:
        decoder = get_decoder(header.syntax)
    except NotImplementedError as error:
        raise UnreadableImage(
            f"{header.path}: {name} is not supported (video and private syntaxes are not); convert the file first, "
            "for example with dcmtk's dcmconv or with ffmpeg"
        ) from error
    if not decoder.is_available:
        raise UnreadableImage(
            f"{header.path}: {name} needs a codec that is not installed; install it with "
            '`pip install "pylibjpeg[all]" pyjpegls`'
        )
    return decoder
