"""The quick PNG of `index`: any reader gets the pixels back, and equal pixels give equal bytes."""

import io

import numpy as np
import pytest
from PIL import Image

from meddap_monai.images.writing.png import encode_png


@pytest.mark.parametrize("shape", [(1, 1), (8, 1), (1, 9), (48, 65), (1, 1, 3), (33, 20, 3)])
@pytest.mark.parametrize("kind", ["noise", "flat", "ramp"])
def test_every_pixel_comes_back(shape: tuple[int, ...], kind: str) -> None:
    draw = np.random.default_rng(0)
    count = int(np.prod(shape))
    values = {"noise": draw.integers(0, 256, count), "flat": np.full(count, 255), "ramp": np.arange(count) * 7}[kind]
    image = (values % 256).astype(np.uint8).reshape(shape)
    data = encode_png(image)
    with Image.open(io.BytesIO(data)) as opened:
        opened.load()
        assert (opened.format, opened.mode, opened.info) == ("PNG", "L" if len(shape) == 2 else "RGB", {})
        assert np.array_equal(np.asarray(opened), image)
    assert encode_png(image.copy()) == data


def test_dark_borders_cost_nothing() -> None:
    image = np.zeros((480, 640), np.uint8)
    assert len(encode_png(image)) < 3000
