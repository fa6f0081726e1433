"""The simulated breast behind the phantom images: what lies where, how bright it echoes, how much it attenuates.

A phantom is a stand-in for a patient in demos and tests. It follows the descriptors a reader of breast ultrasound uses
(shape, orientation, margin, echo pattern, posterior features), with overlapping distributions, so that the classes can
be told apart but not by a single cue.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, gaussian_filter1d

CLASSES = ("benign", "malignant", "normal")

# Mean echo level in dB relative to glandular tissue, and attenuation in dB per image depth, of each layer.
LAYERS = {
    "skin": (7.0, 4.0),
    "fat": (-11.0, 3.0),
    "gland": (0.0, 7.0),
    "deep fat": (-13.0, 3.0),
    "muscle": (-8.0, 8.0),
}


@dataclass(frozen=True)
class Tissue:
    """One simulated section through a breast.

    Attributes:
        echo_db: (H, W) float64, mean echo level in dB (glandular tissue is 0).
        attenuation_db: (H, W) float64, one-way loss in dB per image depth at that point.
        lesion: (H, W) float64 in 0 to 1, how much of the point belongs to the lesion (all 0 for a normal breast).
    """

    echo_db: np.ndarray
    attenuation_db: np.ndarray
    lesion: np.ndarray


def simulate_tissue(
    class_name: str, size: tuple[int, int], patient: np.random.Generator, view: np.random.Generator
) -> Tissue:
    """Simulate one section.

    Args:
        class_name: one of `CLASSES`.
        size: rows and columns of the section.
        patient: draws what images of one patient share (layer depths, echo levels).
        view: draws what changes from view to view (waviness, lesion).

    Returns:
        The section, as `Tissue` with (H, W) maps.
    """
    rows, columns = size
    depth = np.linspace(0.0, 1.0, rows)[:, None] * np.ones((1, columns))
    tops = _layer_tops(columns, patient, view)
    echo = np.zeros(size)
    attenuation = np.zeros(size)
    shift = patient.normal(0.0, 1.5, len(LAYERS))
    for number, (level, loss) in enumerate(LAYERS.values()):
        inside = depth >= tops[number][None, :]
        echo = np.where(inside, level + shift[number], echo)
        attenuation = np.where(inside, loss * patient.uniform(0.8, 1.2), attenuation)
    echo = gaussian_filter(echo, rows / 180)
    echo = echo + _texture(size, view, rows, depth, tops)
    attenuation = attenuation + _ligament_shadows(size, view, depth, tops)
    lesion = np.zeros(size)
    if class_name != "normal":
        echo, attenuation, lesion = _add_lesion(class_name, echo, attenuation, depth, tops, view)
    elif view.random() < 0.55:
        echo = _add_fat_lobule(echo, depth, tops, view)
    return Tissue(echo, attenuation, lesion)


def _layer_tops(columns: int, patient: np.random.Generator, view: np.random.Generator) -> list[np.ndarray]:
    """Depth (0 to 1) at which each layer begins, per column, as wavy lines that never cross."""
    fat = patient.uniform(0.05, 0.07)
    gland = fat + patient.uniform(0.07, 0.22)
    deep = patient.uniform(0.62, 0.80)
    muscle = deep + patient.uniform(0.03, 0.08)
    tops = [np.zeros(columns)]
    for mean, wave in ((fat, 0.004), (gland, 0.035), (deep, 0.03), (muscle, 0.015)):
        line = (
            mean
            + wave * _smooth_noise_1d(columns, columns / 7, view)
            + view.normal(0, 0.06) * np.linspace(-0.5, 0.5, columns)
        )
        tops.append(np.maximum(line, tops[-1] + 0.015))
    return tops


def _texture(
    size: tuple[int, int], view: np.random.Generator, rows: int, depth: np.ndarray, tops: list[np.ndarray]
) -> np.ndarray:
    """Fat lobules with bright septa, mottled gland, striped muscle: (H, W) dB to add."""
    coarse = _smooth_noise(size, (rows / 14, rows / 8), view)
    septa = 9.0 * np.exp(-((_smooth_noise(size, (rows / 22, rows / 9), view) / 0.16) ** 2))
    ducts = 4.0 * _smooth_noise(size, (rows / 45, rows / 14), view)
    tilt = view.uniform(-0.12, 0.12) * np.linspace(-0.5, 0.5, size[1])[None, :]
    stripes = 4.5 * np.sin(2 * np.pi * (depth + tilt) * view.uniform(28, 40) + 2.0 * coarse)
    in_fat = (depth >= tops[1][None, :]) & (depth < tops[2][None, :])
    in_gland = (depth >= tops[2][None, :]) & (depth < tops[3][None, :])
    in_muscle = depth >= tops[4][None, :]
    texture = 1.2 * coarse + in_fat * septa + in_gland * (3.0 * coarse + ducts) + in_muscle * stripes
    fascia = sum(7.0 * np.exp(-(((depth - tops[number][None, :]) / 0.008) ** 2)) for number in (2, 4))
    return texture + fascia


def _ligament_shadows(
    size: tuple[int, int], view: np.random.Generator, depth: np.ndarray, tops: list[np.ndarray]
) -> np.ndarray:
    """Weak shadows below Cooper's ligaments, in every class: (H, W) dB per image depth."""
    columns = np.linspace(0.0, 1.0, size[1])[None, :]
    loss = np.zeros(size)
    for _ in range(view.integers(0, 4)):
        centre, width = view.uniform(0, 1), view.uniform(0.015, 0.05)
        loss += view.uniform(3, 16) * np.exp(-(((columns - centre) / width) ** 2)) * (depth > tops[2][None, :])
    return loss


@dataclass(frozen=True)
class _Shape:
    """A lesion outline: radius over angle around a centre, in units of the image height."""

    across: float
    along: float
    angle: float
    waviness: float
    lobes: int
    spikes: float
    margin: float


def _draw_shape(class_name: str, view: np.random.Generator) -> _Shape:
    """Draw an outline; about one lesion in ten carries a descriptor typical of the other class."""
    looks = class_name if view.random() > 0.10 else ("malignant" if class_name == "benign" else "benign")
    radius = float(np.clip(view.lognormal(np.log(0.15), 0.28), 0.07, 0.23))
    if looks == "benign":
        ratio = view.uniform(0.50, 0.85)
        return _Shape(
            radius / np.sqrt(ratio),
            radius * np.sqrt(ratio),
            view.normal(0, 0.2),
            view.uniform(0.0, 0.07),
            int(view.integers(2, 4)),
            0.0,
            view.uniform(0.012, 0.03),
        )
    ratio = view.uniform(0.8, 1.35)
    return _Shape(
        radius / np.sqrt(ratio),
        radius * np.sqrt(ratio),
        view.normal(0, 0.35),
        view.uniform(0.07, 0.17),
        int(view.integers(3, 7)),
        view.uniform(0.0, 0.32),
        view.uniform(0.03, 0.10),
    )


def _add_lesion(
    class_name: str,
    echo: np.ndarray,
    attenuation: np.ndarray,
    depth: np.ndarray,
    tops: list[np.ndarray],
    view: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Place a lesion in the gland: hypoechoic inside, posterior enhancement (benign) or shadow (malignant)."""
    rows, columns = echo.shape
    shape = _draw_shape(class_name, view)
    aspect = columns / rows
    centre_x = view.uniform(0.33, 0.67) * aspect
    column = min(columns - 1, int(centre_x / aspect * columns))
    centre_y = float(np.clip(view.uniform(tops[2][column] + 0.6 * shape.along, tops[3][column]), 0.2, 0.68))
    lateral = np.linspace(0.0, aspect, columns)[None, :] - centre_x
    inside = _outline(shape, lateral, depth - centre_y, view)
    darkness = view.uniform(10, 22) if class_name == "benign" else view.uniform(11, 23)
    inner = view.uniform(0.6, 2.0) * (1.0 if class_name == "benign" else 2.2)
    target = -darkness + inner * _smooth_noise(echo.shape, (rows / 30, rows / 22), view)
    halo = 0.0
    if class_name == "malignant" and view.random() < 0.6:
        halo = view.uniform(2, 6) * (gaussian_filter(inside, rows * 0.03) - inside).clip(0)
    echo = echo * (1 - inside) + inside * target + halo
    if class_name == "benign":
        core = view.normal(-26, 17)
        if view.random() < 0.5:
            echo = echo + 5.0 * np.exp(-(((inside - 0.5) / 0.25) ** 2)) * (inside > 0.05)
    else:
        core = view.normal(42, 22)
        echo = echo + _calcifications(inside, view)
    return echo, attenuation + inside * core, inside


def _outline(shape: _Shape, lateral: np.ndarray, axial: np.ndarray, view: np.random.Generator) -> np.ndarray:
    """Membership (H, W) in 0 to 1: an ellipse whose radius wobbles with lobes and spicules over the angle."""
    cos, sin = np.cos(shape.angle), np.sin(shape.angle)
    across, along = lateral * cos + axial * sin, -lateral * sin + axial * cos
    distance = np.hypot(across / shape.across, along / shape.along)
    angle = np.arctan2(along / shape.along, across / shape.across)
    radius = 1.0 + shape.waviness * np.cos(shape.lobes * angle + view.uniform(0, 6.28))
    for number in range(shape.lobes + 1, shape.lobes + 6):
        radius = radius + 0.5 * shape.waviness * view.normal() * np.cos(number * angle + view.uniform(0, 6.28))
    if shape.spikes > 0:
        for _ in range(int(view.integers(4, 10))):
            offset = np.angle(np.exp(1j * (angle - view.uniform(-np.pi, np.pi))))
            radius = radius + shape.spikes * view.uniform(0.4, 1.3) * np.exp(-((offset / view.uniform(0.08, 0.2)) ** 2))
    margin = shape.margin / np.sqrt(shape.across * shape.along)
    return 1.0 / (1.0 + np.exp(np.clip((distance - radius) / (0.35 * margin), -50, 50)))


def _calcifications(inside: np.ndarray, view: np.random.Generator) -> np.ndarray:
    """A few bright dots in some malignant lesions: (H, W) dB to add."""
    dots = np.zeros(inside.shape)
    places = np.argwhere(inside > 0.8)
    if len(places) and view.random() < 0.4:
        for row, column in places[view.integers(0, len(places), view.integers(2, 8))]:
            dots[row, column] = 1.0
    blurred = gaussian_filter(dots, inside.shape[0] / 160)
    return view.uniform(8, 16) * blurred / max(blurred.max(), 1e-9)


def _add_fat_lobule(
    echo: np.ndarray, depth: np.ndarray, tops: list[np.ndarray], view: np.random.Generator
) -> np.ndarray:
    """A fat lobule within the gland of a normal breast: dark and oval, the classic look-alike of a lesion."""
    rows, columns = echo.shape
    shape = _Shape(view.uniform(0.08, 0.2), view.uniform(0.035, 0.075), view.normal(0, 0.3), 0.08, 3, 0.0, 0.07)
    aspect = columns / rows
    centre_x = view.uniform(0.15, 0.85) * aspect
    column = min(columns - 1, int(centre_x / aspect * columns))
    centre_y = view.uniform(tops[2][column] + 0.04, tops[3][column] - 0.02)
    inside = _outline(shape, np.linspace(0.0, aspect, columns)[None, :] - centre_x, depth - centre_y, view)
    return echo * (1 - inside) + inside * view.uniform(-12, -5)


def _smooth_noise(size: tuple[int, int], sigma: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """Unit-variance smooth noise (H, W)."""
    field = gaussian_filter(rng.standard_normal(size), sigma, mode="reflect")
    return (field - field.mean()) / (field.std() + 1e-12)


def _smooth_noise_1d(length: int, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Unit-variance smooth noise (length,)."""
    line = gaussian_filter1d(rng.standard_normal(length), sigma, mode="reflect")
    return (line - line.mean()) / (line.std() + 1e-12)
