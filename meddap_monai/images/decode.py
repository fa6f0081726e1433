"""Frames out of PixelData: one at a time, the others untouched where the transfer syntax allows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels import get_decoder
from pydicom.pixels.decoders.base import Decoder
from pydicom.uid import UID, RLELossless

from meddap_monai.errors import UnreadableImage
from meddap_monai.images.codestream import announced_size
from meddap_monai.images.header import UNDEFINED, Header, integer, word
from meddap_monai.images.limits import Limits, check_frame_size

NATIVE = {"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"}
GREY = ("MONOCHROME1", "MONOCHROME2")
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")


@dataclass(frozen=True)
class Layout:
    """How the pixels of a file are stored (PS3.3 C.7.6.3), checked."""

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

    @property
    def frame_bytes(self) -> int:
        """Bytes of one uncompressed frame."""
        samples = 2 if self.native and self.photometric == "YBR_FULL_422" else self.samples
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
        high_bit=integer(header, "HighBit", range(stored - 1, allocated), default=stored - 1),
        signed=integer(header, "PixelRepresentation", (0, 1), default=0) == 1,
        planar=planar,
        native=native,
    )
    _check_storage(header, layout)
    return layout


def _check_storage(header: Header, layout: Layout) -> None:
    path = header.path
    if layout.native:
        if layout.photometric in ("YBR_RCT", "YBR_ICT"):
            raise UnreadableImage(f"{path}: {layout.photometric} without JPEG 2000 compression, which cannot be")
        if layout.photometric == "YBR_FULL_422" and (layout.columns % 2 or layout.allocated != 8):
            raise UnreadableImage(f"{path}: uncompressed YBR_FULL_422 needs an even number of columns and 8 bits")
        if layout.samples == 3 and layout.signed:
            raise UnreadableImage(f"{path}: PixelRepresentation (0028,0103) is 1 for colour, expected 0")
        needed = layout.frame_bytes * layout.frames
        held = header.available if header.pixel_bytes == UNDEFINED else min(header.pixel_bytes, header.available)
        if header.pixel_bytes == UNDEFINED or held < needed:
            raise UnreadableImage(
                f"{path}: truncated: PixelData (7FE0,0010) holds {held:,} bytes, expected {needed:,} "
                f"({layout.frames} frames of {layout.rows} x {layout.columns})"
            )
        if header.pixel_bytes > header.available:
            raise UnreadableImage(
                f"{path}: truncated: PixelData (7FE0,0010) announces {header.pixel_bytes:,} bytes, "
                f"the file holds {held:,}"
            )
    elif header.pixel_bytes != UNDEFINED:
        raise UnreadableImage(f"{path}: compressed transfer syntax, but PixelData (7FE0,0010) is not encapsulated")


def decode_frame(header: Header, layout: Layout, number: int) -> np.ndarray:
    """Decode one frame.

    Args:
        header: opened file.
        layout: its checked layout.
        number: frame, 0 is the first.

    Returns:
        (H, W) stored values or palette indices, or (H, W, 3) RGB; unsigned or signed integers of 8 or 16 bits.

    Raises:
        UnreadableImage: damaged or unsupported; a missing codec is named with its pip package.
    """
    if layout.native:
        return _native(header, layout, number)
    return _encapsulated(header, layout, number)


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
    if layout.photometric == "YBR_FULL_422":
        return _expand_422(values.reshape(layout.rows, layout.columns // 2, 4))
    values = _stored_bits(values, layout)
    if layout.samples == 1:
        return values.reshape(layout.rows, layout.columns)
    if layout.planar:
        values = values.reshape(3, layout.rows, layout.columns).transpose(1, 2, 0)
    colour = values.reshape(layout.rows, layout.columns, 3)
    return ybr_to_rgb(colour) if layout.photometric == "YBR_FULL" else colour


def _stored_bits(values: np.ndarray, layout: Layout) -> np.ndarray:
    """Cut the stored bits out of the allocated ones and give them their sign."""
    shift = layout.high_bit + 1 - layout.stored
    if shift:
        values = values >> shift
    if layout.stored < layout.allocated:
        values = values & np.array((1 << layout.stored) - 1, values.dtype)
    if layout.signed:
        spare = layout.allocated - layout.stored
        signed = np.ascontiguousarray(values << spare if spare else values).view(f"i{layout.allocated // 8}")
        values = signed >> spare if spare else signed
    return values


def _expand_422(pairs: np.ndarray) -> np.ndarray:
    """Uncompressed YBR_FULL_422 (H, W/2, 4), stored Y Y Cb Cr (PS3.3 C.7.6.3.1.2), to RGB (H, W, 3)."""
    rows, half, _ = pairs.shape
    full = np.empty((rows, half, 2, 3), np.uint8)
    full[..., 0] = pairs[..., :2]
    full[..., 1:] = pairs[..., None, 2:]
    return ybr_to_rgb(full.reshape(rows, half * 2, 3))


def ybr_to_rgb(values: np.ndarray) -> np.ndarray:
    """YBR_FULL (..., 3) uint8 to RGB, rounded (PS3.3 C.7.6.3.1.2)."""
    luma, blue, red = (values[..., channel].astype(np.float32) for channel in range(3))
    blue, red = blue - 128, red - 128
    colour = np.stack([luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue], -1)
    return np.clip(np.rint(colour), 0, 255).astype(np.uint8)


def _encapsulated(header: Header, layout: Layout, number: int) -> np.ndarray:
    decoder = _decoder(header)
    header.stream.seek(header.pixel_start)
    dataset = header.dataset
    table = dataset.get("ExtendedOffsetTable"), dataset.get("ExtendedOffsetTableLengths")
    frame = get_frame(
        header.stream,
        number,
        number_of_frames=layout.frames,
        extended_offsets=table if all(isinstance(part, bytes) for part in table) else None,
    )
    if not frame:
        raise UnreadableImage(f"{header.path}: frame {number} of {layout.frames} is empty")
    announced = announced_size(frame)
    if announced is None and header.syntax != RLELossless:
        raise UnreadableImage(f"{header.path}: frame {number} has no {UID(header.syntax).name} frame header")
    if announced is not None and b"\xff\xd9" not in frame[-64:]:
        raise UnreadableImage(f"{header.path}: frame {number} is truncated: it has no end-of-image marker")
    if announced not in (None, (layout.rows, layout.columns)):
        raise UnreadableImage(
            f"{header.path}: frame {number} announces {announced[0]} x {announced[1]} pixels, the header "
            f"{layout.rows} x {layout.columns}"
        )
    try:
        values = _decode(decoder, frame, layout)
    except RuntimeError as error:
        raise UnreadableImage(
            f"{header.path}: frame {number} is damaged: no installed codec decodes it as {UID(header.syntax).name}"
        ) from error
    expected = (layout.rows, layout.columns) + ((3,) if layout.samples == 3 else ())
    if values.shape != expected:
        raise UnreadableImage(f"{header.path}: frame {number} decodes to {values.shape}, expected {expected}")
    return values


def _decode(decoder: Decoder, frame: bytes, layout: Layout) -> np.ndarray:
    options: dict[str, Any] = {
        "rows": layout.rows,
        "columns": layout.columns,
        "number_of_frames": 1,
        "samples_per_pixel": layout.samples,
        "bits_allocated": layout.allocated,
        "bits_stored": layout.stored,
        "pixel_representation": int(layout.signed),
        "photometric_interpretation": layout.photometric,
        "planar_configuration": layout.planar,
        "pixel_keyword": "PixelData",
    }
    values, found = decoder.as_array(encapsulate([frame], has_bot=False), index=0, raw=True, **options)
    stored_as = str(found.get("photometric_interpretation", ""))
    return ybr_to_rgb(values) if stored_as.startswith("YBR_FULL") and values.dtype == np.uint8 else values


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
