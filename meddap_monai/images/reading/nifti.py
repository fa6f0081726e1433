"""NIfTI-1 files as 8-bit pictures: one pass over the values, and rows and columns that run as the affine says.

A slice is shown as DICOM shows it: columns run to the patient's left (or back), rows to the back (or the feet). In
NIfTI's axes, which point to the right, the front and the head, all of these are negative directions.
"""

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from meddap_monai.errors import UnreadableImage
from meddap_monai.images.reading.frames import check_policy, choose_frames
from meddap_monai.images.reading.limits import MIB, Limits, check_decoded_size, check_frame_size

_HEADER = 348
_UNITS = {"meter": 1000.0, "micron": 0.001}


@dataclass(frozen=True)
class Volume:
    """What the header says, checked.

    Attributes:
        rows: length of axis 1 of the file.
        columns: length of axis 0.
        count: slices or frames.
        channels: 1, 3 (RGB) or 4 (RGBA).
        planar: colour as a fifth axis, channel after channel, instead of triples.
        kind: type of one value, of one channel for colour.
        slope: of the values, 1 where the file has none.
        intercept: likewise, 0.
        start: offset of the values.
        turn: (swap, flip rows, flip columns): what makes a slice [axis 1, axis 0] upright.
        spacing: (row, column) in mm of the upright picture, or None.
    """

    rows: int
    columns: int
    count: int
    channels: int
    planar: bool
    kind: np.dtype
    slope: float
    intercept: float
    start: int
    turn: tuple[bool, bool, bool]
    spacing: tuple[float, float] | None

    @property
    def planes(self) -> int:
        """Pieces in which the file is read: slices, or the slices of each channel."""
        return self.count * (self.channels if self.planar else 1)

    @property
    def plane_bytes(self) -> int:
        """Bytes of a piece."""
        return self.rows * self.columns * self.kind.itemsize * (1 if self.planar else self.channels)


def read_nifti(path: Path | str, stream: BinaryIO, size: int, frames: str, limits: Limits):
    """Read a NIfTI file, packed or not.

    Args:
        path: for messages.
        stream: the opened file.
        size: its bytes.
        frames: a policy over slices.
        limits: ceilings, checked on the header.

    Returns:
        (F, H, W, C) uint8; (row, column) spacing in mm or None; slices read; slices in the file.

    Raises:
        UnreadableImage: no NIfTI-1 file with 2-D slices, truncated, too large, or values that are not finite numbers.
    """
    with _unpacked(stream) as values:
        volume = _header(path, values.read(_HEADER), limits)
        needed = volume.start + volume.planes * volume.plane_bytes
        if values is stream and needed > size:
            raise UnreadableImage(f"{path}: truncated: has {size:,} bytes, its header asks for {needed:,}")
        most = max(32 * MIB, limits.inflate_ratio * size)
        if values is not stream and needed > min(limits.inflated_bytes, most):
            raise UnreadableImage(
                f"{path}: grows to more than {min(limits.inflated_bytes, most):,} bytes when unpacked; not read"
            )
        every = check_policy(frames)[0] == "different"
        wanted = list(range(volume.count)) if every else choose_frames(frames, volume.count, _undecoded)
        check_decoded_size(path, len(wanted), volume.rows * volume.columns * volume.kind.itemsize, limits)
        _skip(path, values, volume.start - _HEADER)
        held, show = _read(path, values, volume, frozenset(wanted))
        _to_the_end(path, values, needed, limits)
    if every:
        wanted = choose_frames(frames, volume.count, lambda number: _upright(show(held[number]), volume))
    pictures = [_upright(show(held.pop(number)), volume) for number in wanted]
    return np.stack(pictures), volume.spacing, tuple(wanted), volume.count


def head_of_nifti(path: Path | str, stream: BinaryIO, limits: Limits) -> bytes:
    """Return everything that stands before the values: the header and its extensions."""
    with _unpacked(stream) as values:
        head = values.read(_HEADER)
        volume = _header(path, head, limits)
        return head + values.read(volume.start - _HEADER)


def _unpacked(stream: BinaryIO) -> Any:
    packed = stream.read(2) == b"\x1f\x8b"
    stream.seek(0)
    return gzip.GzipFile(fileobj=stream) if packed else stream


def _undecoded(number: int) -> np.ndarray:
    raise AssertionError(f"slice {number} is chosen by its number")


def _header(path: Path | str, block: bytes, limits: Limits) -> Volume:
    import nibabel

    if block[344:348] == b"ni1\0":
        raise UnreadableImage(f"{path}: its values lie in another file (.img); convert it to one .nii file")
    if block[344:348] != b"n+1\0":
        raise UnreadableImage(f"{path}: is no NIfTI-1 file")
    header = nibabel.Nifti1Header(block)
    shape, kind, channels = tuple(header.get_data_shape()), header.get_data_dtype(), 1
    planar = len(shape) == 5 and shape[4] in (3, 4) and kind == np.uint8
    if colours := kind.names:
        kind, channels = np.dtype(np.uint8), len(colours)
    elif planar:
        shape, channels = shape[:4], shape[4]
    more = [side for side in shape[2:] if side != 1]
    if len(shape) < 2 or len(more) > 1 or min(shape) < 1:
        raise UnreadableImage(f"{path}: has shape {header.get_data_shape()}, expected 2 or 3 dimensions")
    if kind.kind not in "uif" or kind.itemsize > 8:
        raise UnreadableImage(f"{path}: holds values of type {kind}, expected integers or floats of up to 64 bits")
    check_frame_size(path, shape[1], shape[0], limits)
    start = max(int(header.get_data_offset()), _HEADER + 4)
    if start > limits.inflated_bytes:
        raise UnreadableImage(
            f"{path}: its values begin at byte {start:,}, expected one below {limits.inflated_bytes:,}"
        )
    slope, intercept = header.get_slope_inter() if channels == 1 else (None, None)
    turn = _turn(path, header)
    unit = _UNITS.get(header.get_xyzt_units()[0], 1.0)
    zooms = [float(zoom) * unit for zoom in header.get_zooms()[:2]]
    spacing = (zooms[0], zooms[1]) if turn[0] else (zooms[1], zooms[0])
    return Volume(
        rows=shape[1],
        columns=shape[0],
        count=more[0] if more else 1,
        channels=channels,
        planar=planar,
        kind=kind,
        slope=1.0 if slope is None else float(slope),
        intercept=0.0 if intercept is None else float(intercept),
        start=start,
        turn=turn,
        spacing=spacing if all(1e-3 <= zoom <= 20 for zoom in spacing) else None,
    )


def _turn(path: Path | str, header: Any) -> tuple[bool, bool, bool]:
    """What makes a slice [axis 1, axis 0] upright: (swap, flip rows, flip columns).

    A file without qform and sform code is taken as dcm2niix writes an ultrasound: rows from the bottom where the
    matrix that it holds all the same points up. A bare scaling without offset, as ``numpy.eye(4)``, says nothing.
    """
    from nibabel.orientations import io_orientation

    if not header["qform_code"] and not header["sform_code"]:
        return False, bool(header["srow_y"][1] > 0), False
    affine = header.get_best_affine()
    linear = affine[:3, :3]
    diagonal = np.diag(linear)
    if np.array_equal(linear, np.diag(diagonal)) and (diagonal > 0).all() and not affine[:3, 3].any():
        return False, False, False
    directions = io_orientation(affine) if np.isfinite(affine).all() else np.full((3, 2), np.nan)
    if not np.isfinite(directions[:2]).all():
        raise UnreadableImage(f"{path}: its affine gives an axis no direction, expected a regular matrix")
    (first, first_up), (second, second_up) = directions[:2]
    swap = bool(first > second)
    rows_up, columns_up = (first_up, second_up) if swap else (second_up, first_up)
    return swap, bool(rows_up > 0), bool(columns_up > 0)


def _upright(plane: np.ndarray, volume: Volume) -> np.ndarray:
    """(axis 1, axis 0, C) to (H, W, C)."""
    swap, flip_rows, flip_columns = volume.turn
    plane = plane.swapaxes(0, 1) if swap else plane
    return plane[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]


def _read(path: Path | str, stream: BinaryIO, volume: Volume, wanted: frozenset[int]):
    """Return the raw wanted slices, number -> (axis 1, axis 0, C), and what turns one into uint8."""
    held: dict[int, np.ndarray] = {}
    levels = _Levels(volume)
    for place, plane in enumerate(_planes(path, stream, volume)):
        levels.see(path, plane)
        channel, number = divmod(place, volume.count)
        if number in wanted:
            held[number] = np.concatenate([held[number], plane], -1) if channel else plane
    return held, levels.show


def _planes(path: Path | str, stream: BinaryIO, volume: Volume) -> Iterator[np.ndarray]:
    for _ in range(volume.planes):
        block = stream.read(volume.plane_bytes)
        if len(block) < volume.plane_bytes:
            raise UnreadableImage(f"{path}: truncated: holds fewer values than its header says")
        yield np.frombuffer(block, volume.kind).reshape(volume.rows, volume.columns, -1)


class _Levels:
    """From values to 0..255: bytes and whole numbers within 0..255 as they are, everything else from least to most.

    The range is that of the whole file, and is found while it is read, slice by slice.
    """

    def __init__(self, volume: Volume) -> None:
        self.volume = volume
        self.scaled = (volume.slope, volume.intercept) != (1.0, 0.0)
        self.bytes = volume.kind == np.uint8 and not self.scaled
        self.low, self.high, self.whole = np.inf, -np.inf, True

    def see(self, path: Path | str, plane: np.ndarray) -> None:
        """Take note of a slice."""
        if self.bytes:
            return
        low, high = float(plane.min()), float(plane.max())
        if not np.isfinite([low, high]).all():
            raise UnreadableImage(f"{path}: holds values that are not finite numbers")
        self.low, self.high = min(self.low, low), max(self.high, high)
        if self.whole:
            values = self._values(plane)
            self.whole = bool(((values >= 0) & (values <= 255) & (values == np.rint(values))).all())

    def _values(self, plane: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            return plane.astype(np.float64) * self.volume.slope + self.volume.intercept

    def show(self, plane: np.ndarray) -> np.ndarray:
        """(axis 1, axis 0, C) raw to uint8, transparency over black."""
        if self.bytes and plane.shape[-1] == 4:
            return ((plane[..., :3].astype(np.uint16) * plane[..., 3:] + 127) // 255).astype(np.uint8)
        if self.bytes:
            return plane
        if self.whole:
            return self._values(plane).astype(np.uint8)
        most = max(abs(self.low), abs(self.high))  # the difference of two large numbers may be none
        low, high = self.low / most, self.high / most
        if not high > low:
            return np.zeros(plane.shape, np.uint8)
        shown = np.rint((plane / np.float64(most) - low) * (255.0 / (high - low))).astype(np.uint8)
        return 255 - shown if self.volume.slope < 0 else shown


def _skip(path: Path | str, stream: BinaryIO, count: int) -> None:
    while count:
        passed = len(stream.read(min(count, MIB)))
        if not passed:
            raise UnreadableImage(f"{path}: truncated: ends before its values begin")
        count -= passed


def _to_the_end(path: Path | str, stream: Any, total: int, limits: Limits) -> None:
    """Read what follows the values of a packed file, so that its checksum is compared."""
    while isinstance(stream, gzip.GzipFile) and (block := stream.read(MIB)):
        total += len(block)
        if total > limits.inflated_bytes:
            raise UnreadableImage(f"{path}: grows to more than {limits.inflated_bytes:,} bytes when unpacked; not read")
