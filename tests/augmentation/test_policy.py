"""The policy as a whole: names, ranges, seeds, one image and many, the time it takes."""

import math
import time
from pathlib import Path

import pytest
import torch

import meddap_monai
from meddap_monai.augmentation.parts import PARTS
from meddap_monai.augmentation.policy import _BEAM, _GEOMETRY, _SCREEN, DRAWS, Values, apply, draw
from meddap_monai.transforms import RandUltrasoundAugment


def dice(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    pictures = torch.rand(16, 1, 48, 48, generator=dice(1))
    pictures[:, :, :, :8] = 0
    pictures[:, :, 20, 20] = 1
    return pictures


def of(drawn: dict[str, Values], place: int) -> dict[str, Values]:
    """The parameters of one image of a batch."""
    return {part: {name: value[place : place + 1] for name, value in found.items()} for part, found in drawn.items()}


def test_every_part_is_drawn_and_acts_in_the_order_of_its_name() -> None:
    assert set(DRAWS) == set(PARTS)
    assert [*_BEAM, *_GEOMETRY, *_SCREEN] == list(PARTS)


def test_the_seed_decides_every_byte(images: torch.Tensor) -> None:
    first = apply(images, draw(16, dice(3)))
    torch.manual_seed(5)
    assert torch.equal(apply(images, draw(16, dice(3))), first)
    assert not torch.equal(apply(images, draw(16, dice(4))), first)


def test_a_batch_is_changed_as_each_image_alone(images: torch.Tensor) -> None:
    drawn = draw(16, dice(3))
    together = apply(images, drawn)
    alone = torch.cat([apply(images[i : i + 1], of(drawn, i)) for i in range(16)])
    assert torch.allclose(together, alone, atol=1e-5)


def test_colour_is_changed_as_grey_is(images: torch.Tensor) -> None:
    drawn = draw(16, dice(3))
    colour = apply(images.expand(-1, 3, -1, -1), drawn)
    assert torch.allclose(colour, apply(images, drawn).expand_as(colour), atol=1e-5)


def test_the_input_stays_and_the_result_is_in_its_range(images: torch.Tensor) -> None:
    before = images.clone()
    for seed in range(5):
        changed = apply(images, draw(16, dice(seed), strength=3.0))
        assert changed.isfinite().all() and changed.min() >= 0 and changed.max() <= 1
    assert torch.equal(images, before)


@pytest.mark.parametrize("part", PARTS)
def test_each_part_acts_alone_and_is_left_out_alone(part: str, images: torch.Tensor) -> None:
    alone = draw(16, dice(3), without=set(PARTS) - {part})
    assert list(alone) == [part]
    assert not torch.allclose(apply(images, alone), images, atol=1e-3)
    rest, whole = draw(16, dice(3), without=[part]), draw(16, dice(3))
    assert part not in rest and rest.keys() | {part} == whole.keys()
    for other, values in rest.items():
        assert all(torch.equal(value, whole[other][name]) for name, value in values.items()), "others draw the same"


def test_strength_zero_is_the_identity(images: torch.Tensor) -> None:
    assert draw(16, dice(), strength=0.0) == {}
    assert torch.equal(apply(images, {}), images)


@pytest.mark.parametrize(
    ("part", "name", "low", "high"),
    [
        ("rotation", "angle", -math.radians(20), math.radians(20)),
        ("zoom", "factor", 0.6, 1.3),
        ("aspect", "ratio", 0.8, 1.2),
        ("shift", "shift", -0.15, 0.15),
        ("gain", "factor", 0.7, 1.3),
        ("offset", "level", -0.15, 0.15),
        ("gamma", "exponent", math.exp(-0.7), math.exp(0.7)),
        ("dynamic_range", "ratio", 0.8, 1.25),
        ("time_gain", "slope", -0.12, 0.12),
    ],
)
def test_ranges_at_strength_one_and_half(part: str, name: str, low: float, high: float) -> None:
    found = draw(2000, dice())[part][name]
    assert low <= found.min() < low + 0.02 * (high - low) and high - 0.02 * (high - low) < found.max() <= high
    half = draw(2000, dice(), strength=0.5)[part][name]
    assert low < half.min() - 0.05 * (high - low) and half.max() + 0.05 * (high - low) < high


@pytest.mark.parametrize(
    ("part", "name", "share"),
    [("blur", "lateral", 0.4), ("probe", "half_angle", 0.3), ("marks", "level", 0.25), ("shadows", "loss", 0.25)],
)
def test_how_many_images_a_part_changes(part: str, name: str, share: float) -> None:
    found = draw(4000, dice())[part][name].flatten(1) if part == "shadows" else draw(4000, dice())[part][name][:, None]
    assert (found > 0).any(dim=1).float().mean() == pytest.approx(share, abs=0.03)


def test_zoom_aspect_and_mirror_meet_in_one_resampling() -> None:
    """A disc of radius 10 at zoom 1.2 and aspect 1.44 is 10 x 1.2 x 1.2 wide and 10 high."""
    down, across = torch.meshgrid(torch.arange(96) - 47.5, torch.arange(96) - 47.5, indexing="ij")
    disc = (down**2 + across**2 <= 100).float()[None, None]
    drawn = {"zoom": {"factor": torch.tensor([1.2])}, "aspect": {"ratio": torch.tensor([1.44])}}
    changed = apply(disc, drawn)[0, 0]
    assert changed[48].sum() == pytest.approx(28.8, abs=1.5) and changed[:, 48].sum() == pytest.approx(20, abs=1.5)


def test_the_monai_transform_is_the_policy_on_one_image(images: torch.Tensor) -> None:
    transform = RandUltrasoundAugment(strength=0.8, without=["marks"]).set_random_state(seed=2)
    changed = torch.as_tensor(transform(images[0]))
    drawn = draw(1, dice(transform.drawn["seed"]), 0.8, ["marks"])
    assert torch.allclose(changed, apply(images[:1], drawn)[0], atol=1e-6)


def test_all_work_is_done_on_the_device_of_the_images(images: torch.Tensor) -> None:
    """On the device `meta` nothing can mix with the CPU's tensors in silence."""
    changed = apply(images.to("meta"), draw(16, dice(3)))
    assert changed.device.type == "meta" and changed.shape == images.shape


def test_the_documentation_says_what_each_part_does() -> None:
    page = Path(meddap_monai.__file__).parents[1] / "docs/augmentation.md"
    if not page.is_file():
        pytest.skip("needs the checkout")
    rows = [f"| `{part}` | {says} |" for part, says in PARTS.items()]
    assert "\n".join(rows) in page.read_text()


@pytest.mark.slow
def test_a_batch_costs_little() -> None:
    """16 images of 128 px in 40 ms on one thread; the best of several, as the machine may be busy."""
    batch, threads, seconds = torch.rand(16, 1, 128, 128, generator=dice()), torch.get_num_threads(), []
    torch.set_num_threads(1)
    for seed in range(10):
        started = time.thread_time()
        apply(batch, draw(16, dice(seed)))
        seconds.append(time.thread_time() - started)
    torch.set_num_threads(threads)
    assert min(seconds) < 0.04
