"""What is drawn over a scan is found; scans without marks stay whole."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from meddap_monai.images.reading.overlays import overlay_mask
from meddap_monai.phantom.simulation import simulate_image

CLASSES = ("benign", "malignant", "normal")
SCANS = [simulate_image(CLASSES[seed % 3], seed, size=(300, 360)) for seed in range(12)]


def draw_mark(pixels: np.ndarray, kind: str, x: int, y: int) -> np.ndarray:
    """Return an RGB scan with one mark; its middle lies at (x, y)."""
    image = Image.fromarray(pixels).convert("RGB")
    draw, white = ImageDraw.Draw(image), (255, 255, 255)
    if kind == "plus":
        draw.line((x - 6, y, x + 6, y), fill=white)
        draw.line((x, y - 6, x, y + 6), fill=white)
    elif kind == "cross":
        draw.line((x - 5, y - 5, x + 5, y + 5), fill=white)
        draw.line((x - 5, y + 5, x + 5, y - 5), fill=white)
    elif kind == "text":
        draw.text((x, y), "LEFT 3CM", fill=white)
    else:
        draw.line((x, y, x + 30, y + 12), fill=(255, 230, 0), width=2)
    return np.asarray(image)


@pytest.mark.parametrize(("kind", "least"), [("plus", 0.75), ("cross", 0.75), ("text", 0.75), ("colour", 1.0)])
def test_marks_are_found(kind: str, least: float) -> None:
    found = []
    for seed, scan in enumerate(SCANS):
        x, y = np.random.default_rng(seed).integers((30, 30), (260, 260))
        marked = draw_mark(scan, kind, int(x), int(y))
        drawn = (marked != np.asarray(Image.fromarray(scan).convert("RGB"))).any(axis=2)
        found.append(overlay_mask(marked)[drawn].mean() > 0.6)
    assert np.mean(found) >= least


def test_scans_without_marks_stay_whole() -> None:
    assert np.mean([overlay_mask(scan).mean() for scan in SCANS]) <= 0.002


def test_colour_that_is_the_image_is_no_mark() -> None:
    doppler = np.repeat(SCANS[0][..., None], 3, axis=2)
    doppler[100:200, 100:200] = (200, 20, 20)
    assert overlay_mask(doppler).mean() <= 0.002


@pytest.mark.parametrize("shape", [(40, 50), (40, 50, 1), (40, 50, 3)])
def test_any_form_of_image(shape: tuple[int, ...]) -> None:
    mask = overlay_mask(np.zeros(shape, np.uint8))
    assert mask.shape == (40, 50) and mask.dtype == bool and not mask.any()
