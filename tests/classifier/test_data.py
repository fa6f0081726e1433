"""Images and batches: fitting into a square, the planned order, classical augmentation."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from meddap_monai.classifier.augment import ClassicalRanges, apply_classical, draw_classical
from meddap_monai.classifier.config import ClassifyConfig
from meddap_monai.classifier.data import plan_batches, read_framed
from meddap_monai.errors import ConfigurationError, RecordsError, UnreadableImage
from meddap_monai.images.framing import to_square

CONFIG = ClassifyConfig(steps=30, batch=4)


def rows(real: int, synthetic: int = 0, classes: int = 3) -> list[dict[str, Any]]:
    sources = ["real"] * real + ["synthetic"] * synthetic
    return [{"source": source, "label": place % classes} for place, source in enumerate(sources)]


@pytest.mark.parametrize(
    ("fit", "filled"), [("pad", (slice(4, 12), slice(0, 16))), ("stretch", (slice(0, 16), slice(0, 16)))]
)
def test_fitting_keeps_or_fills_the_square(fit: str, filled: tuple[slice, slice]) -> None:
    picture = Image.fromarray(np.full((20, 40), 200, dtype=np.uint8))
    square = to_square(picture, 16, fit)[0]
    assert square.shape == (16, 16)
    expected = torch.zeros(16, 16, dtype=torch.uint8)
    expected[filled] = 200
    assert torch.equal(square, expected)


def test_cropping_takes_the_centre() -> None:
    pixels = np.zeros((20, 60), dtype=np.uint8)
    pixels[:, 20:40] = 255
    assert (to_square(Image.fromarray(pixels), 20, "crop") == 255).all()


def test_colour_and_grey_files_give_the_wanted_channels(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 9, 3), dtype=np.uint8)).save(path)
    assert read_framed({"image": path}, 8, channels=1).shape == (1, 8, 8)
    assert read_framed({"image": path}, 8, channels=3).shape == (3, 8, 8)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be opened"), (b"", "is empty"), (b"\x89PNG broken", "damaged"), (b"%!PS-Adobe", "expected PNG")],
)
def test_unreadable_files_are_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "bad.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UnreadableImage, match=f"bad.png: cannot be read as an image: {message}"):
        read_framed({"image": path}, 8)


def test_every_image_is_drawn_once_before_any_is_drawn_twice() -> None:
    plan = plan_batches(rows(24), CONFIG).ravel()
    for start in range(0, 120, 24):
        assert sorted(plan[start : start + 24]) == list(range(24))


@pytest.mark.parametrize(
    ("weights", "share"), [((1.0, 1.0), 0.75), ((3.0, 1.0), 0.5), ((1.0, 0.0), 0.0), ((0.0, 1.0), 1.0)]
)
def test_sampling_weights_set_the_share_of_synthetic_images(weights: tuple[float, float], share: float) -> None:
    config = replace(CONFIG, steps=500, real_weight=weights[0], synthetic_weight=weights[1])
    items = rows(10, 30)
    drawn = np.mean([items[index]["source"] == "synthetic" for index in plan_batches(items, config).ravel()])
    assert drawn == pytest.approx(share, abs=0.03)


def test_balanced_classes_take_turns() -> None:
    items = [{"source": "real", "label": label} for label in [0] * 20 + [1] * 3 + [2]]
    counts = Counter(
        items[index]["label"] for index in plan_batches(items, replace(CONFIG, balance_classes=True)).ravel()
    )
    assert counts == {0: 40, 1: 40, 2: 40}


def test_the_order_depends_on_the_seed_and_a_weight_of_zero_for_all_is_refused() -> None:
    assert not np.array_equal(plan_batches(rows(24), CONFIG), plan_batches(rows(24), replace(CONFIG, seed=1)))
    with pytest.raises(RecordsError, match="no training image has a sampling weight above 0"):
        plan_batches(rows(4), replace(CONFIG, real_weight=0.0))


def test_augmentation_is_a_function_of_what_was_drawn() -> None:
    images = torch.rand(3, 1, 16, 16)
    drawn = draw_classical(3, torch.Generator().manual_seed(4))
    first, second = apply_classical(images, drawn), apply_classical(images, drawn)
    assert torch.equal(first, second)
    assert first.min() >= 0
    assert first.max() <= 1
    assert not torch.allclose(first, images, atol=0.05)


def test_augmentation_without_range_changes_nothing_and_a_flip_flips() -> None:
    images = torch.rand(2, 1, 16, 16)
    still = ClassicalRanges(degrees=0, zoom=0, shift=0, flip=0, contrast=0, brightness=0, noise=0)
    generator = torch.Generator().manual_seed(0)
    assert torch.allclose(apply_classical(images, draw_classical(2, generator, still)), images, atol=1e-5)
    flipped = apply_classical(images, draw_classical(2, generator, ClassicalRanges(0, 0, 0, 1.0, 0, 0, 0)))
    assert torch.allclose(flipped, images.flip(-1), atol=1e-5)


def test_rotation_turns_by_the_drawn_angle() -> None:
    """A bar turned by a quarter becomes the other bar: direction and centre are right."""
    image = torch.zeros(1, 1, 17, 17)
    image[0, 0, :, 8] = 1
    ranges = ClassicalRanges(degrees=90, zoom=0, shift=0, flip=0, contrast=0, brightness=0, noise=0)
    drawn = draw_classical(1, torch.Generator(), ranges)
    quarter = torch.tensor([[[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]]])
    turned = apply_classical(image, replace(drawn, affine=quarter))
    assert torch.allclose(turned, image.transpose(-1, -2), atol=1e-4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"augmentation": "clasical"}, "did you mean 'classical'"),
        ({"steps": 0}, "classify#steps: got 0"),
        ({"channels": 2}, "expected 1 .grey. or 3"),
        ({"encoder": "hog"}, "has nothing to train"),
        ({"learning_rate": float("nan")}, "learning_rate: got nan"),
        ({"real_weight": 0.0, "synthetic_weight": 0.0}, "both sampling weights are 0"),
    ],
)
def test_wrong_settings_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ClassifyConfig(**values)
