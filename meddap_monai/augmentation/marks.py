"""Calipers, dotted lines and measured lengths, as examiners burn them into pictures."""

import numpy as np
import torch

from meddap_monai.augmentation.grey import per_image

_GLYPHS = {
    **{"0": "75557", "1": "26227", "2": "71747", "3": "71317", "4": "55711", "5": "74717", "6": "74757", "7": "71122"},
    **{"8": "75757", "9": "75717", ".": "00002", "c": "00747", "m": "00775", "D": "65556", "+": "02720", " ": "00000"},
}
"""Character -> its five rows of three pixels, each row an octal digit."""
_SIDE = 128
"""Marks are drawn one pixel thick on images of this side, thicker on larger ones."""


def burn_in(images: torch.Tensor, level: torch.Tensor, seed: torch.Tensor) -> torch.Tensor:
    """Draw marks into images; no pixel gets darker.

    Args:
        images: ``(B, C, H, W)`` float in 0..1.
        level: ``(B,)`` grey level of the marks; 0 draws none.
        seed: ``(B,)`` int64 of what is drawn and where.
    """
    rows, columns = images.shape[-2:]
    drawn = torch.zeros(len(images), 1, rows, columns)
    for place in torch.nonzero(level).flatten().tolist():
        drawn[place, 0] = torch.from_numpy(overlay(rows, columns, int(seed[place])))
    return torch.maximum(images, drawn.to(images) * per_image(level, images))


def overlay(rows: int, columns: int, seed: int) -> np.ndarray:
    """Return ``(rows, columns)`` float32 in {0, 1}: one or two measured distances and their figures in a corner."""
    rng = np.random.default_rng(seed)
    thick = max(1, round(min(rows, columns) / _SIDE))
    canvas = np.zeros((-(-rows // thick), -(-columns // thick)), dtype=np.float32)
    size = np.array(canvas.shape)
    lines = []
    for number in range(int(rng.integers(1, 3))):
        middle, half = rng.uniform(0.3, 0.7, 2) * size, rng.uniform(0.06, 0.2) * size.min()
        turn = rng.uniform(0, np.pi)
        step = half * np.array([np.sin(turn), np.cos(turn)])
        _caliper(canvas, middle - step)
        _caliper(canvas, middle + step)
        if rng.random() < 0.5:
            for share in np.arange(-1, 1, 3 / half):
                _fill(canvas, middle + share * step, 1, 1)
        lines.append(f"{'D+'[int(rng.integers(2))]}{number + 1} {2 * half / 20:.2f}cm")
    top, left = (int(rng.integers(1, max(2, room))) for room in size - (7 * len(lines), 4 * len(lines[0])))
    top = top if rng.random() < 0.3 else (1 if rng.random() < 0.5 else max(0, int(size[0]) - 7 * len(lines)))
    for number, line in enumerate(lines):
        _write(canvas, line, top + 7 * number, left)
    return canvas.repeat(thick, axis=0).repeat(thick, axis=1)[:rows, :columns]


def _fill(canvas: np.ndarray, corner: np.ndarray, rows: int, columns: int) -> None:
    """Set a block to 1, as far as it lies on the canvas."""
    top, left = (int(round(float(value))) for value in corner)
    canvas[max(top, 0) : max(top + rows, 0), max(left, 0) : max(left + columns, 0)] = 1


def _caliper(canvas: np.ndarray, place: np.ndarray) -> None:
    """Draw a cross of five pixels each way."""
    _fill(canvas, place - (2, 0), 5, 1)
    _fill(canvas, place - (0, 2), 1, 5)


def _write(canvas: np.ndarray, text: str, top: int, left: int) -> None:
    """Write a line of text, five pixels high; what does not fit is cut off."""
    for number, character in enumerate(text):
        for row, bits in enumerate(_GLYPHS[character]):
            for column in range(3):
                if int(bits) >> (2 - column) & 1:
                    _fill(canvas, np.array([top + row, left + 4 * number + column]), 1, 1)
