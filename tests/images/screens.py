"""Screens without a declared region, with a name where a search for the scan could take it for a part of it."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from meddap_monai.phantom.simulation import simulate_image

NAME = "DOE^JANE 1970-01-01 ID 00417"
BARS = ("plain", "gradient", "noisy", "striped", "coloured", "inverse")


@lru_cache
def _scan(seed: int, scanner: str) -> np.ndarray:
    return simulate_image(("benign", "malignant")[seed % 2], seed, scanner, size=(300, 320))


def background(seed: int, level: float, scanner: str = "own") -> np.ndarray:
    """A scan of some brightness on a black screen (480, 640) uint8; there are two of each scanner."""
    found = np.zeros((480, 640), np.uint8)
    found[120:420, 150:470] = np.rint(_scan(seed % 2, scanner) * level)
    return found


def with_bar(seed: int, level: float, bar: str, height: float) -> tuple[np.ndarray, np.ndarray]:
    """A header bar with dark text, for "inverse" a dark grey one with bright text."""
    scan = background(seed, level)
    rows = int(height * len(scan))
    noise = np.random.default_rng(seed).normal(0, 1, (rows, scan.shape[1]))
    grey = {
        "plain": np.full_like(noise, 200),
        "gradient": np.linspace(120, 240, rows)[:, None] + 0 * noise,
        "noisy": 190 + 12 * noise,
        "striped": 190 + 30 * (np.arange(rows) // 4 % 2)[:, None] + 3 * noise,
        "coloured": 180 + 4 * noise,
        "inverse": 60 + 2 * noise,
    }[bar]
    screen = np.repeat(scan[..., None], 3, -1)
    tint = np.array([0.3, 0.5, 1.0]) if bar == "coloured" else np.ones(3)
    screen[:rows] = np.clip(grey[..., None] * tint, 0, 255)
    lines = [(12, 6 + 22 * line, NAME) for line in range(max(1, (rows - 8) // 22))]
    return write(screen, lines, 245 if bar == "inverse" else 15, 18)


def with_panel(level: float, side: str) -> tuple[np.ndarray, np.ndarray]:
    """A bright column or a bright work sheet with dark text beside the scan."""
    screen = np.repeat(background(0, level)[..., None], 3, -1)
    left, right = {"left": (0, 145), "right": (475, 640), "wide": (0, 300)}[side]
    screen[:, left:right] = 210
    lines = [(left + 4, 10 + 30 * line, NAME[: 11 if side != "wide" else None]) for line in range(15)]
    return write(screen, lines, 0, 16)


def with_text(scanner: str, edge: str) -> tuple[np.ndarray, np.ndarray]:
    """Bright text that begins outside of the scan and ends in it, or lies in it."""
    place: dict[str, Any] = {
        "top": (200, 110), "bottom": (200, 412), "left": (60, 250), "right": (400, 250), "corner": (60, 114),
        "inside": (180, 260), "word": (82, 250), "dim": (60, 250),
    }  # fmt: skip
    text = "JANE  DOE" if edge == "word" else NAME  # the gap of "word" lies on the edge
    screen = np.repeat(background(1, 1.0, scanner)[..., None], 3, -1)
    return write(screen, [(*place[edge], text)], 150 if edge == "dim" else 255, 18)


def write(
    screen: np.ndarray, lines: list[tuple[int, int, str]], value: int, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw lines of text; return the screen and where they are."""
    picture, letters = Image.fromarray(screen), Image.new("L", screen.shape[1::-1])
    for column, row, text in lines:
        font = ImageFont.load_default(size)
        ImageDraw.Draw(picture).text((column, row), text, fill=(value,) * 3, font=font)
        ImageDraw.Draw(letters).text((column, row), text, fill=255, font=font)
    return np.asarray(picture), np.asarray(letters) > 100


SCREENS: dict[str, Callable[[], tuple[np.ndarray, np.ndarray]]] = {
    f"{bar} bar of {height:.0%}, scan of {level:.0%}": partial(with_bar, number, level, bar, height)
    for number, bar in enumerate(BARS)
    for level, height in ((0.04, 0.12), (0.12, 0.22), (0.35, 0.34))
}
"""Name -> what makes a screen (480, 640, 3) uint8 and a (480, 640) bool mask of the pixels that its text covers."""
SCREENS |= {
    f"{side} panel, scan of {level:.0%}": partial(with_panel, level, side)
    for side in ("left", "right", "wide")
    for level in (0.05, 0.3)
}
SCREENS |= {
    f"text over the {edge}, {scanner}": partial(with_text, scanner, edge)
    for edge in ("top", "bottom", "left", "right", "corner", "inside", "word", "dim")
    for scanner in ("own", "unseen")
}
