"""Fingerprints: an edited image is recognised, another one is not, and nothing but 16 x 16 coarse cells is kept."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from meddap_monai.images.likeness import Known, fingerprint, from_text, to_text
from meddap_monai.images.provenance import SAME
from meddap_monai.phantom.simulation import simulate_image

CLASSES = ("benign", "malignant", "normal")
COUNT = 20


def pictures(first: int, scanner: str = "own") -> list[np.ndarray]:
    return [simulate_image(name, first + number, scanner) for number in range(COUNT) for name in CLASSES]


@pytest.fixture(scope="module")
def seen() -> list[np.ndarray]:
    return pictures(100)


@pytest.fixture(scope="module")
def known(seen: list[np.ndarray]) -> Known:
    return Known(np.stack([fingerprint(image) for image in seen]))


def resized(image: np.ndarray, _: np.random.Generator) -> np.ndarray:
    height, width = image.shape
    return np.asarray(Image.fromarray(image).resize((width - 2, height - 2), Image.Resampling.BICUBIC))


def cropped(image: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """95 % of each side, anywhere."""
    height, width = (round(0.95 * side) for side in image.shape)
    top, left = draw.integers(image.shape[0] - height + 1), draw.integers(image.shape[1] - width + 1)
    return image[top : top + height, left : left + width]


def compressed(image: np.ndarray, _: np.random.Generator) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=50)
    return np.asarray(Image.open(stream))


def bent(gamma: float) -> Callable[[np.ndarray, np.random.Generator], np.ndarray]:
    return lambda image, _: np.rint(255 * (image / 255) ** gamma).astype(np.uint8)


def padded(image: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Up to 15 % of black on each side, each its own."""
    widths = [(int(draw.integers(side // 7)), int(draw.integers(side // 7))) for side in image.shape]
    return np.pad(image, widths)


def everything(image: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    return padded(compressed(bent(1.3)(cropped(resized(image, draw), draw), draw), draw), draw)


EDITS = {
    "resized by two pixels": resized,
    "cropped to 95 %": cropped,
    "JPEG 50": compressed,
    "gamma 0.7": bent(0.7),
    "gamma 1.5": bent(1.5),
    "padded": padded,
    "mirrored": lambda image, _: image[:, ::-1],
    "all but the mirror": everything,
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_image_is_recognised_as_itself(name: str, seen: list[np.ndarray], known: Known) -> None:
    draw = np.random.default_rng(0)
    found = list(known.nearest(EDITS[name](image, draw) for image in seen))
    right = [place == number and likeness >= SAME for number, (place, likeness) in enumerate(found)]
    assert np.mean(right) >= 0.98


@pytest.mark.parametrize("scanner", ["own", "unseen"])
def test_other_images_are_not_taken_for_seen_ones(scanner: str, known: Known) -> None:
    likeness = [value for _, value in known.nearest(pictures(900, scanner))]
    assert np.mean(np.array(likeness) >= SAME) <= 0.01


def test_the_nearest_is_found_wherever_it_stands(known: Known, seen: list[np.ndarray], monkeypatch) -> None:
    """Fingerprints are compared in parts; their size changes nothing."""
    whole = list(known.nearest(seen[:6]))
    monkeypatch.setattr("meddap_monai.images.likeness._PART", 7)
    monkeypatch.setattr("meddap_monai.images.likeness._BLOCK", 4)
    assert [place for place, _ in known.nearest(seen[:6])] == [0, 1, 2, 3, 4, 5]
    assert [value for _, value in known.nearest(seen[:6])] == pytest.approx([value for _, value in whole], abs=1e-5)


def test_a_fingerprint_is_16_by_16_cells_at_16_levels_and_survives_being_text(seen: list[np.ndarray]) -> None:
    levels = fingerprint(seen[0])
    assert (levels.shape, levels.dtype, levels.min(), levels.max()) == ((16, 16), np.uint8, 0, 15)
    text = to_text(levels)
    assert len(text) == 256
    assert np.array_equal(from_text([text, text]), np.stack([levels, levels]))


def test_a_fingerprint_says_what_stands_in_its_cells() -> None:
    board = np.kron(np.arange(256).reshape(16, 16), np.ones((4, 4))).astype(np.uint8)
    assert np.array_equal(fingerprint(board), np.rint(np.arange(256).reshape(16, 16) / 17).astype(np.uint8))
    colour = np.stack([board, board, board], axis=-1)
    assert np.array_equal(fingerprint(colour), fingerprint(board))
    framed = np.pad(board, ((9, 5), (0, 12)), constant_values=80)
    assert np.array_equal(fingerprint(framed), fingerprint(board))


@pytest.mark.parametrize("shape", [(8, 8), (9, 300), (16, 16, 3), (1, 1)])
def test_small_and_flat_images_have_one_too_and_look_like_nothing(shape: tuple[int, ...], known: Known) -> None:
    flat = np.full(shape, 7, np.uint8)
    assert fingerprint(flat).max() == 0
    ((_, likeness),) = known.nearest([flat])
    assert likeness < 0.5
    ((_, likeness),) = Known(fingerprint(flat)[None]).nearest([flat])
    assert likeness < 0.5
