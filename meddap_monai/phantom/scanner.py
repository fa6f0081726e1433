"""The simulated scanners behind the phantom images: speckle, resolution, loss, compression, probe geometry, marks."""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates


@dataclass(frozen=True)
class Scanner:
    """How a simulated scanner turns tissue into grey levels.

    Attributes:
        axial: speckle size along depth, as a share of the image height.
        lateral: speckle size across, as a share of the image height, at the focus.
        focus: depth of best lateral resolution, 0 to 1.
        spread: how fast lateral speckle grows away from the focus.
        gain_db: brightness offset in dB.
        range_db: dynamic range in dB shown from black to white.
        falloff_db: loss in dB per image depth that the time gain compensation leaves.
        haze: share of blurred echo added on top (reverberation).
        gamma: display curve.
        fan: half opening angle in radians of a curved probe; 0 is a linear probe.
        ticks: whether a depth scale is burned in at the right edge.
        model: name written as the manufacturer's model.
    """

    axial: float
    lateral: float
    focus: float
    spread: float
    gain_db: float
    range_db: float
    falloff_db: float
    haze: float
    gamma: float
    fan: float
    ticks: bool
    model: str


SCANNERS = {
    "own": Scanner(0.0050, 0.0085, 0.42, 1.3, 0.0, 52.0, 4.0, 0.05, 1.0, 0.0, False, "Phantom A"),
    "unseen": Scanner(0.0075, 0.0120, 0.55, 2.0, 3.0, 64.0, 11.0, 0.12, 0.85, 0.17, True, "Phantom B"),
}


def compress(level_db: np.ndarray, device: Scanner, view: np.random.Generator) -> np.ndarray:
    """Speckle, haze, log compression: mean echo levels (H, W) in dB to grey levels (H, W) float in 0 to 255."""
    rows = level_db.shape[0]
    envelope = 10 ** (level_db / 20) * _speckle(level_db.shape, device, view)
    envelope = envelope + device.haze * gaussian_filter(envelope, (rows / 10, rows / 25))
    noise_floor = 0.012 * np.abs(view.standard_normal(level_db.shape))
    decibel = 20 * np.log10(envelope + noise_floor + 1e-6) + device.gain_db + view.normal(0, 1.5)
    grey = np.clip((decibel + 0.68 * device.range_db) / device.range_db, 0, 1) ** device.gamma
    return 255 * gaussian_filter(grey, rows * 0.0022)


def _speckle(size: tuple[int, int], device: Scanner, view: np.random.Generator) -> np.ndarray:
    """Rayleigh speckle (H, W) of unit mean power; lateral size grows away from the focus (blend of three widths)."""
    rows = size[0]
    scatterers = view.standard_normal(size) + 1j * view.standard_normal(size)
    widths = device.lateral * rows * np.array([1.0, 1.0 + device.spread / 2, 1.0 + device.spread])
    fields = []
    for width in widths:
        field = gaussian_filter(scatterers.real, (device.axial * rows, width)) + 1j * gaussian_filter(
            scatterers.imag, (device.axial * rows, width)
        )
        fields.append(field / np.sqrt(np.mean(np.abs(field) ** 2)))
    away = np.clip(2 * np.abs(np.linspace(0, 1, rows) - device.focus) / max(device.focus, 1 - device.focus), 0, 2)[
        :, None
    ]
    shares = [np.clip(1 - np.abs(away - number), 0, 1) for number in range(3)]
    norm = np.sqrt(sum(share**2 for share in shares))
    return np.abs(sum(share * field for share, field in zip(shares, fields, strict=True)) / norm)


def scan_convert(image: np.ndarray, half_angle: float) -> np.ndarray:
    """Bend a rectangular scan (H, W) into the sector of a curved probe; 0 outside of it."""
    rows, columns = image.shape
    radius = 0.5 * (columns - 1) / np.sin(half_angle) - (rows - 1)
    radius = max(radius, 0.6 * rows)
    lateral = np.arange(columns)[None, :] - 0.5 * (columns - 1)
    drop = radius * (1 - np.cos(half_angle))
    axial = np.arange(rows)[:, None] + radius - 0.5 * drop
    distance, angle = np.hypot(lateral, axial) - radius, np.arctan2(lateral, axial)
    return map_coordinates(
        image, [distance, (angle / half_angle + 1) * 0.5 * (columns - 1)], order=1, mode="constant", cval=0.0
    )


def draw_depth_scale(image: np.ndarray) -> None:
    """Draw a depth scale at the right edge, in place."""
    rows, columns = image.shape
    for number in range(1, 8):
        length = 5 if number % 4 == 0 else 2
        image[number * rows // 8, columns - 2 - length : columns - 2] = 200
