"""Where on the screen the ultrasound image is: the regions a file declares, or a tight box found in the pixels.

Everything outside of the chosen region can hold burned-in names, dates and settings.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from scipy import ndimage

from meddap_monai.errors import UnreadableImage
from meddap_monai.images.reading.burned_in import text_lines
from meddap_monai.images.reading.header import finite, value_of

KINDS = {1: "2d", 2: "m-mode", 3: "spectral", 4: "waveform", 5: "graphics"}
"""Region Spatial Format (0018,6012)."""
TISSUE, COLOUR_FLOW = 1, 2
"""Region Data Type (0018,6014)."""
_CENTIMETRE = 3
_SMALLEST_SIDE = 16
_WHOLE = 0.95
"""Share of the screen from which a declared region counts as none; scanners declare up to 0.91 below a name."""
_PLAUSIBLE = 0.08
"""Share of the screen that a scan takes at least."""
_MOST = 256
"""Regions that a file may declare; scanners declare up to about ten."""
_DENSE = 0.72
"""Share of bright pixels in a window from which it counts as scan: lines of text reach about 0.5, speckle 0.9."""
_SCAN_HEIGHT, _SCAN_WIDTH = 0.3, 0.25
"""Shares of the screen that a scan, unlike a bar of text, is high and wide."""
_BLACK, _BESIDE = 2, 0.1
"""Share of the screen beside the patch that may be brighter than black; text is less, another picture is more."""
_EVEN = 0.45
_MILLIMETRE_RANGE = (1e-3, 20.0)


@dataclass(frozen=True)
class Region:
    """A rectangle of the screen; rows and columns count from 0, `bottom` and `right` lie outside.

    Attributes:
        kind: "b-mode", "colour", "m-mode", "spectral", "waveform", "graphics", "other", or "found" for a tight box.
        top: first row.
        left: first column.
        bottom: one after the last row.
        right: one after the last column.
        spacing_mm: (row, column) spacing in mm, or None where the file gives none or nonsense.
    """

    kind: str
    top: int
    left: int
    bottom: int
    right: int
    spacing_mm: tuple[float, float] | None = None

    @property
    def area(self) -> int:
        """Pixels in the rectangle."""
        return (self.bottom - self.top) * (self.right - self.left)

    @property
    def slices(self) -> tuple[slice, slice]:
        """Row and column slices."""
        return slice(self.top, self.bottom), slice(self.left, self.right)


def declared_regions(dataset: Dataset, rows: int, columns: int, path: Path | str = "the header") -> tuple[Region, ...]:
    """Read the Sequence of Ultrasound Regions (0018,6011; PS3.3 C.8.5.5).

    Items whose rectangle is not a rectangle on the screen are left out.

    Args:
        dataset: the header.
        rows: of the screen.
        columns: of the screen.
        path: of the file, for messages.

    Returns:
        The regions in the order of the file.

    Raises:
        UnreadableImage: more regions than a scanner declares.
    """
    items = value_of(dataset, "SequenceOfUltrasoundRegions") or []
    if len(items) > _MOST:
        raise UnreadableImage(
            f"{path}: declares {len(items):,} ultrasound regions (0018,6011), expected at most {_MOST}"
        )
    found = (_region(item, rows, columns) for item in items)
    return tuple(region for region in found if region is not None)


def _region(item: Dataset, rows: int, columns: int) -> Region | None:
    names = ("RegionLocationMinY0", "RegionLocationMinX0", "RegionLocationMaxY1", "RegionLocationMaxX1")
    numbers = [finite(value_of(item, name)) for name in names]
    if any(number is None for number in numbers):
        return None
    top, left, bottom, right = (int(number) for number in numbers if number is not None)
    if top < 0 or left < 0 or bottom < top or right < left or top >= rows or left >= columns:
        return None
    bottom, right = min(bottom + 1, rows), min(right + 1, columns)
    if bottom - top < _SMALLEST_SIDE or right - left < _SMALLEST_SIDE:
        return None
    return Region(_kind(item), top, left, bottom, right, _spacing(item))


def _kind(item: Dataset) -> str:
    shape, content = finite(value_of(item, "RegionSpatialFormat")), finite(value_of(item, "RegionDataType"))
    kind = KINDS.get(int(shape), "other") if shape is not None else "other"
    if kind == "2d":
        kind = {TISSUE: "b-mode", COLOUR_FLOW: "colour"}.get(int(content or 0), "other")
    return kind


def _spacing(item: Dataset) -> tuple[float, float] | None:
    """Spacing in mm; only centimetres are a length among the units of (0018,6024)."""
    found = []
    for axis in "YX":
        delta = finite(value_of(item, f"PhysicalDelta{axis}"))
        if delta is None or finite(value_of(item, f"PhysicalUnits{axis}Direction")) != _CENTIMETRE:
            return None
        if not _MILLIMETRE_RANGE[0] <= delta * 10 <= _MILLIMETRE_RANGE[1]:
            return None
        found.append(round(delta * 10, 9))
    return found[0], found[1]


def pixel_spacing(value: Any) -> tuple[float, float] | None:
    """Check Pixel Spacing (0028,0030): (row, column) in mm, or None when it is missing or nonsense."""
    if value is None or isinstance(value, (str, bytes)) or not hasattr(value, "__len__") or len(value) != 2:
        return None
    numbers = [finite(part) for part in value]
    if any(number is None or not _MILLIMETRE_RANGE[0] <= number <= _MILLIMETRE_RANGE[1] for number in numbers):
        return None
    return float(numbers[0] or 0), float(numbers[1] or 0)


def choose_region(regions: tuple[Region, ...], rows: int, columns: int) -> Region | None:
    """Return the region that is the image: the tightest plausible B-mode region, or else colour-flow region.

    M-mode, spectral and waveform regions never count as images, nor does a region of the whole screen, which says
    nothing about where text is burned in. A region that holds another one of its kind gives way to it, unless that
    one is too small to be the scan; of several that lie side by side the largest is chosen.

    Args:
        regions: that the file declares.
        rows: of the screen.
        columns: of the screen.

    Returns:
        None when no region is left.
    """
    screen = rows * columns
    for kind in ("b-mode", "colour"):
        known = [region for region in regions if region.kind == kind and region.area < _WHOLE * screen]
        inner = [region for region in known if region.area >= _PLAUSIBLE * screen]
        tightest = [region for region in known if not any(_holds(region, other) for other in inner)]
        if tightest:
            return max(tightest, key=lambda region: (region.area, -region.top, -region.left))
    return None


def shows_one_image(regions: tuple[Region, ...]) -> bool:
    """Whether what a file declares allows to look for the scan in its pixels: no M-mode, spectral or other region."""
    return all(region.kind in ("b-mode", "colour") for region in regions)


def _holds(outer: Region, inner: Region) -> bool:
    """Whether almost all of a smaller region lies in a larger one."""
    height = min(outer.bottom, inner.bottom) - max(outer.top, inner.top)
    width = min(outer.right, inner.right) - max(outer.left, inner.left)
    return inner.area < outer.area and min(height, width) > 0 and height * width >= 0.9 * inner.area


def find_region(planes: np.ndarray) -> tuple[Region, np.ndarray] | None:
    """Guess where the scan is on a screen without declared regions.

    The scan is the one large connected patch of echoes on a black background that has a scan's shape, shows speckle in
    every plane, and holds no line of text, also none that begins outside of it. Where there is no such patch (the
    picture fills the screen, there are several, another picture stands beside it), nothing is returned.

    It stays a guess: short or faint text in the scan is not recognised.

    Args:
        planes: (N, H, W) uint8, frames or channels of one picture.

    Returns:
        The tight box and an (H, W) bool mask of the scan, or None.
    """
    brightest = planes.max(0)
    found = _find_patch(brightest)
    if found is None:
        return None
    box, mask = found
    rows, columns = brightest.shape
    large = box.bottom - box.top >= _SCAN_HEIGHT * rows and box.right - box.left >= _SCAN_WIDTH * columns
    beside = (brightest > _BLACK) & ~ndimage.binary_dilation(mask, np.ones((3, 3)), iterations=max(3, rows // 60))
    if not large or beside.mean() > _BESIDE or max(_evenness(plane, mask) for plane in planes) > _EVEN:
        return None
    text = [text_lines(picture) for picture in (brightest, planes.min(0))[: len(planes)]]
    text.append(text_lines(np.where(mask, 0, brightest), letters=3))  # on black, chance aligns nothing
    for top, left, bottom, right in np.concatenate(text):
        if mask[max(0, top - 1) : bottom + 1, max(0, left - 1) : right + 1].any():
            return None
    return box, mask


def _evenness(plane: np.ndarray, mask: np.ndarray) -> float:
    """Share of neighbouring pixels in a mask that are equal, along rows or columns; up to about 0.4 in speckle."""
    shares = []
    for one, other in ((slice(1, None), slice(None)), (slice(None), slice(1, None))):
        here, there = (one, other), (slice(None, -1) if one.start else one, slice(None, -1) if other.start else other)
        pairs = mask[here] & mask[there]
        shares.append(float((plane[here] == plane[there])[pairs].mean()) if pairs.any() else 1.0)
    return max(shares)


def _find_patch(image: np.ndarray) -> tuple[Region, np.ndarray] | None:
    """Return the large connected patch of (H, W) uint8 that is dense with echoes: its tight box and mask.

    Text is made of strokes with gaps between them, so that windows on bright text are never dense, and only dense
    windows count.
    """
    rows, columns = image.shape
    if min(rows, columns) < 4 * _SMALLEST_SIDE:
        return None
    bright = image > max(6, int(np.percentile(image, 5)) + 4)
    window = max(9, round(min(rows, columns) / 22) // 2 * 2 + 1)
    dense = ndimage.uniform_filter(bright.astype(np.float32), window, mode="constant") > _DENSE
    solid = ndimage.binary_opening(dense, np.ones((window, window)))
    labels, count = ndimage.label(solid)
    if count == 0:
        return None
    sizes = np.bincount(labels.ravel())[1:]
    order = np.argsort(sizes)[::-1]
    if sizes[order[0]] < _PLAUSIBLE * image.size or (count > 1 and sizes[order[1]] > 0.3 * sizes[order[0]]):
        return None
    mask = ndimage.binary_fill_holes(labels == order[0] + 1)
    lost = round(window * (_DENSE - 0.5))  # a straight edge is half dense: this much of it was cut away
    mask = mask | (ndimage.binary_dilation(mask, np.ones((3, 3)), iterations=lost) & bright)
    where_rows, where_columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, left = int(where_rows[0]), int(where_columns[0])
    box = Region("found", top, left, int(where_rows[-1]) + 1, int(where_columns[-1]) + 1)
    tight = box.area <= 0.9 * image.size and mask.sum() >= 0.5 * box.area
    return (box, mask) if tight and min(box.bottom - box.top, box.right - box.left) >= _SMALLEST_SIDE else None
