"""From stored values to what a display shows: modality and VOI look-up, inversion, colour, 8 bits."""

from dataclasses import replace
from typing import Any

import numpy as np

from meddap_monai.errors import UnreadableImage
from meddap_monai.images.reading.decode import Layout
from meddap_monai.images.reading.header import Header, finite
from meddap_monai.images.reading.look_up import Table, describe, entries_of, look_up
from meddap_monai.images.reading.palette import Palette

WINDOWS = ("file", "none", "minmax")


def to_display(
    values: np.ndarray, header: Header, layout: Layout, palette: Palette | None = None, window: str = "file"
) -> np.ndarray:
    """Turn one decoded frame into 8-bit display values.

    Args:
        values: (H, W) stored values or palette indices, or (H, W, 3) RGB, of 8 or 16 bits.
        header: the file, for its look-up tables.
        layout: its layout.
        palette: its palette, if it has one.
        window: "file" applies the first VOI window or VOI LUT of the file, where it is valid; "none" maps the whole
            stored range to 0..255; "minmax" maps the frame's own range.

    Returns:
        (H, W) or (H, W, 3) uint8; for MONOCHROME1 already inverted, so that white is high.

    Raises:
        UnreadableImage: a slope or intercept that makes no sense.
    """
    if values.ndim == 3:
        return _eight_bits(values, layout.stored)
    if palette is None:
        return _grey(values, header, layout, window)
    if not palette.supplemental:
        return palette.paint(values)
    grey = _grey(values, header, layout, window)[..., None]
    return np.where((values >= palette.first)[..., None], palette.paint(values), grey)


def _grey(values: np.ndarray, header: Header, layout: Layout, window: str) -> np.ndarray:
    """Grey levels (H, W) uint8 of stored values (H, W)."""
    _slope(header)
    plain = layout.stored == 8 and not layout.signed
    if window == "minmax":
        shown = _stretch(values.astype(np.float64), float(values.min()), float(values.max()))
    elif window == "file" and (windowed := _windowed(values, header, layout)) is not None:
        shown = windowed
    elif plain:
        shown = values.astype(np.uint8, copy=False)
    else:
        low = -(1 << (layout.stored - 1)) if layout.signed else 0
        shown = _stretch(values.astype(np.float64), low, low + (1 << layout.stored) - 1)
    return 255 - shown if layout.photometric == "MONOCHROME1" else shown


def _eight_bits(values: np.ndarray, stored: int) -> np.ndarray:
    if stored == 8:
        return values.astype(np.uint8, copy=False)
    return _stretch(values.astype(np.float64), 0, (1 << stored) - 1)


def _stretch(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Map low..high to 0..255, rounded and clipped; a flat range becomes 0."""
    if not high > low:
        return np.zeros(values.shape, np.uint8)
    return np.clip(np.rint((values - low) * (255.0 / (high - low))), 0, 255).astype(np.uint8)


def _slope(header: Header) -> tuple[float, float]:
    """Rescale slope and intercept, 1 and 0 when the file has none.

    Raises:
        UnreadableImage: not a finite number, or a slope of 0 or below.
    """
    found = []
    for name, tag, default in (("RescaleSlope", "0028,1053", 1.0), ("RescaleIntercept", "0028,1052", 0.0)):
        value = header.get(name)
        number = default if value is None or value == "" else finite(value)
        kind = "one above 0" if name == "RescaleSlope" else "one"
        if number is None or (name == "RescaleSlope" and number <= 0) or abs(number) > 1e9:
            raise UnreadableImage(f"{header.path}: {name} ({tag}) is not a usable number, expected a finite {kind}")
        found.append(number)
    return found[0], found[1]


def _windowed(values: np.ndarray, header: Header, layout: Layout) -> np.ndarray | None:
    """Apply modality and VOI transformation (PS3.3 C.11.1, C.11.2); None when the file has no valid one."""
    slope, intercept = _slope(header)
    modality = _first_table(header, "ModalityLUTSequence", layout.signed)
    voi = _first_table(header, "VOILUTSequence", layout.signed or intercept < 0)
    centre, width = (_first(header.get(name)) for name in ("WindowCenter", "WindowWidth"))
    function = str(header.get("VOILUTFunction") or "LINEAR").strip().upper()
    least = 1.0 if function == "LINEAR" else 1e-6
    usable = centre is not None and width is not None and least <= width < 1e9 and abs(centre) < 1e9
    if not (modality or voi or usable):
        return None
    if modality:
        scaled = look_up(values, modality[0].first, modality[1]).astype(np.float64)
    else:
        scaled = values.astype(np.float64) * slope + intercept
    if voi:
        return _stretch(look_up(np.rint(scaled), voi[0].first, voi[1]).astype(np.float64), 0, _most(voi[0]))
    if usable:
        assert centre is not None and width is not None
        return _window(scaled, centre, width, function)
    assert modality is not None
    return _stretch(scaled, 0, _most(modality[0]))


def _first_table(header: Header, name: str, signed: bool) -> tuple[Table, np.ndarray] | None:
    """The first table of a sequence, None without one."""
    items = header.get(name)
    if not items:
        return None
    item = replace(header, dataset=items[0])
    table = describe(item, "LUTDescriptor", signed)
    return table, entries_of(item, "LUTData", table)


def _most(table: Table) -> int:
    return (1 << min(max(table.bits, 8), 16)) - 1


def _window(values: np.ndarray, centre: float, width: float, function: str) -> np.ndarray:
    """PS3.3 C.11.2.1.2 and C.11.2.1.3, to 0..255."""
    if function == "SIGMOID":
        shown = 255.0 / (1.0 + np.exp(np.clip(-4.0 * (values - centre) / width, -60, 60)))
        return np.rint(shown).astype(np.uint8)
    if function == "LINEAR_EXACT":
        return _stretch(values, centre - width / 2, centre + width / 2)
    if width == 1:
        return np.where(values > centre - 0.5, 255, 0).astype(np.uint8)
    return _stretch(values, centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2)


def _first(value: Any) -> float | None:
    """The first of one or several numbers."""
    if value is not None and not isinstance(value, (str, bytes)) and hasattr(value, "__len__"):
        value = value[0] if len(value) else None
    return finite(value)
