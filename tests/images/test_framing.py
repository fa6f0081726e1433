"""Framing: what each cropper keeps of an image, for every pair of shapes."""

import numpy as np
import pytest
from PIL import Image

from meddap_monai.images.framing import crop_top, frame


@pytest.mark.parametrize("fit", ["crop", "stretch", "pad", "top"])
def test_any_shape_becomes_any_other(fit: str) -> None:
    draw = np.random.default_rng(0)
    for _ in range(300):
        high, wide, height, width = (int(side) for side in draw.integers(1, 400, 4))
        image = Image.new("L", (wide, high), 255)
        framed = np.asarray(crop_top(image, height, width) if fit == "top" else frame(image, height, width, fit))
        assert framed.shape == (height, width)
        assert (framed == 255).all() or fit == "pad"


def test_a_cut_lies_where_it_was_drawn() -> None:
    image = Image.fromarray(np.tile(np.arange(200, dtype=np.uint8), (50, 1)))
    corners = {int(np.asarray(frame(image, 50, 50, draw=np.random.default_rng(seed)))[0, 0]) for seed in range(9)}
    assert len(corners) > 4 and max(corners) <= 150
    assert np.asarray(frame(image, 50, 50))[0, 0] == 75
