"""Each change of a batch against the value that its formula gives."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from meddap_monai.augmentation.artefacts import haze, shadows
from meddap_monai.augmentation.geometry import bend, move
from meddap_monai.augmentation.grey import dynamic_range, gain, gamma, offset, presence, time_gain
from meddap_monai.augmentation.marks import burn_in, overlay
from meddap_monai.augmentation.texture import blur, noise, speckle


def flat(*levels: float, side: int = 9) -> torch.Tensor:
    """One even image per level."""
    return torch.tensor(levels).view(-1, 1, 1, 1).expand(-1, 1, side, side).clone()


def values(*levels: float) -> torch.Tensor:
    return torch.tensor(levels)


def still(count: int) -> dict[str, torch.Tensor]:
    """Parameters of `move` that leave images where they are."""
    zeros = torch.zeros(count)
    return {"angle": zeros, "size": torch.ones(count, 2), "shift": torch.zeros(count, 2), "half_angle": zeros}


# ------------------------------------------------------------------------------------------------- grey levels
@pytest.mark.parametrize(
    ("change", "parameter", "before", "after"),
    [
        (gain, 2.0, 0.3, 0.6),
        (gain, 2.0, 0.7, 1.0),
        (gain, 0.5, 0.3, 0.15),
        (offset, 0.1, 0.3, 0.4),
        (offset, -0.1, 0.05, 0.0),
        (offset, 0.1, 0.0, 0.0),
        (offset, 0.1, 0.02, 0.07),
        (gamma, 2.0, 0.5, 0.25),
        (gamma, 0.5, 0.25, 0.5),
        (gamma, 0.5, 1.0, 1.0),
        (dynamic_range, 1.25, 0.5, 0.375),
        (dynamic_range, 0.5, 0.5, 0.75),
        (dynamic_range, 2.0, 0.3, 0.0),
        (dynamic_range, 0.5, 1.0, 1.0),
        (dynamic_range, 0.5, 0.0, 0.0),
    ],
)
def test_grey_levels(change: Callable[..., torch.Tensor], parameter: float, before: float, after: float) -> None:
    images = flat(before, 0.5)
    changed = change(images, values(parameter, 1.0 if change is not offset else 0.0))
    assert torch.allclose(changed[0], torch.tensor(after), atol=1e-6)
    assert torch.allclose(changed[1], images[1]), "each image has its own parameter"


def test_sixty_decibels_shown_as_forty_lose_the_lowest_twenty() -> None:
    """Grey level 1/3 of 60 dB is 20 dB above black: black at 40 dB."""
    assert torch.allclose(dynamic_range(flat(1 / 3, 2 / 3), values(1.5, 1.5))[:, 0, 0, 0], values(0.0, 0.5), atol=1e-6)


def test_time_gain_is_linear_over_depth() -> None:
    slope = torch.linspace(-0.2, 0.2, 9)
    changed = time_gain(flat(0.5, 0.5), torch.stack([slope, -slope]))
    assert torch.allclose(changed[0, 0, :, 4], 0.5 + slope)
    assert torch.allclose(changed[1, 0, :, 4], 0.5 - slope)
    assert torch.equal(changed[..., :1].expand_as(changed), changed), "the same across"


def test_what_was_pressed_to_black_is_lifted_again_and_background_is_not() -> None:
    images = torch.tensor([0.0, 0.1]).view(1, 1, 1, 2)
    pressed = offset(images, values(-0.2))
    assert torch.equal(pressed, torch.zeros(1, 1, 1, 2))
    assert torch.allclose(offset(pressed, values(0.3), presence(images)).flatten(), values(0.0, 0.3))


# ------------------------------------------------------------------------------------------------- geometry
@pytest.fixture(scope="module")
def picture() -> torch.Tensor:
    return torch.rand(2, 1, 33, 33, generator=torch.Generator().manual_seed(2))


def test_standing_still_changes_nothing(picture: torch.Tensor) -> None:
    assert torch.allclose(move(picture, **still(2)), picture, atol=1e-5)


def test_mirroring_and_a_quarter_turn_keep_every_pixel(picture: torch.Tensor) -> None:
    mirrored = move(picture, **still(2) | {"size": torch.tensor([[-1.0, 1.0], [1.0, 1.0]])})
    assert torch.allclose(mirrored[0], picture[0].flip(-1), atol=1e-5) and torch.allclose(
        mirrored[1], picture[1], atol=1e-5
    )
    turned = move(picture, **still(2) | {"angle": values(math.pi / 2, math.pi)})
    assert torch.allclose(turned[0], picture[0].rot90(-1, (1, 2)), atol=1e-4), "clockwise"
    assert torch.allclose(turned[1], picture[1].rot90(2, (1, 2)), atol=1e-4)


def test_shift_is_a_share_of_the_side_to_the_right_and_down() -> None:
    images = torch.zeros(1, 1, 20, 40)
    images[0, 0, 5, 10] = 1
    moved = move(images, **still(1) | {"shift": torch.tensor([[0.25, 0.5]])})
    assert moved[0, 0, 15, 20] == pytest.approx(1, abs=1e-4) and moved.sum() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("size", "width", "height"), [((1.0, 1.0), 20, 20), ((1.5, 1.0), 30, 20), ((0.5, 2.0), 10, 40)]
)
def test_size_scales_width_and_height(size: tuple[float, float], width: int, height: int) -> None:
    block = torch.zeros(1, 1, 80, 80)
    block[..., 30:50, 30:50] = 1
    moved = move(block, **still(1) | {"size": torch.tensor([size])})
    assert moved[0, 0, 40].sum() == pytest.approx(width, abs=0.5)
    assert moved[0, 0, :, 40].sum() == pytest.approx(height, abs=0.5)


def test_a_turn_keeps_shapes_in_images_that_are_not_square() -> None:
    images = torch.zeros(1, 1, 40, 80)
    images[..., 15:25, 35:45] = 1
    turned = move(images, **still(1) | {"angle": values(math.pi / 2)})
    assert torch.allclose(turned, images, atol=1e-4), "a square in the middle comes to lie on itself"


def test_a_convex_probe_keeps_its_middle_column_and_narrows_the_top() -> None:
    columns = torch.linspace(0.2, 1, 65).view(1, 1, 65, 1).expand(2, 1, 65, 65).clone()
    bent = move(columns, **still(2) | {"half_angle": torch.deg2rad(values(30.0, 0.0))})
    assert torch.allclose(bent[0, 0, :, 32], columns[0, 0, :, 32], atol=1e-4)
    assert torch.allclose(bent[1], columns[1], atol=1e-4), "half angle 0 is a linear probe"
    seen = (bent[0, 0] > 0).sum(dim=1)
    assert seen[10] < seen[32] and seen[32] >= 60
    sagging = bent[0, 0, 32, 20] - bent[0, 0, 32, 32]
    assert sagging > 0, "rows become arcs around an apex above: away from the middle they lie higher"


def test_bending_follows_rays_and_arcs() -> None:
    """At a half angle of 0.5 the apex lies 1 / 0.5 above the centre; one place of polar angle 0.25, radius 2.5."""
    place = torch.tensor([2.5 * math.sin(0.25), 2.5 * math.cos(0.25) - 2]).view(1, 1, 1, 2)
    assert torch.allclose(bend(place, values(0.5)).flatten(), values(0.5, 0.5), atol=1e-5)


# ------------------------------------------------------------------------------------------------- texture
def test_lateral_blur_leaves_rows_that_are_even() -> None:
    layers = (torch.arange(16) % 4 < 2).float().view(1, 1, 16, 1).expand(2, 1, 16, 16).clone()
    changed = blur(layers, axial=values(0.0, 1.0), lateral=values(2.0, 0.0))
    assert torch.allclose(changed[0], layers[0], atol=1e-6), "layers across the beam keep their edges"
    assert (changed[1] - layers[1]).abs().max() > 0.2


def test_blur_spreads_a_point_by_its_deviation() -> None:
    images = torch.zeros(1, 1, 61, 61)
    images[0, 0, 30, 30] = 1
    spread = blur(images, values(1.5), values(3.0))[0, 0]
    away = torch.arange(61) - 30.0
    assert spread.sum() == pytest.approx(1, abs=1e-5)
    assert (spread.sum(1) * away**2).sum().sqrt() == pytest.approx(1.5, rel=0.03)
    assert (spread.sum(0) * away**2).sum().sqrt() == pytest.approx(3.0, rel=0.03)


def test_speckle_has_unit_mean_and_its_deviation() -> None:
    changed = speckle(flat(0.3, 0.3, side=128), values(0.4, 0.0), values(0.5, 0.5), values(0.8, 0.8), torch.arange(2))
    assert changed[0].mean() == pytest.approx(0.3, rel=0.01)
    assert changed[0].std() / changed[0].mean() == pytest.approx(0.4 * math.sqrt(4 / math.pi - 1), rel=0.05)
    assert torch.allclose(changed[1], torch.tensor(0.3))


def test_grain_is_as_wide_as_asked_for() -> None:
    field = speckle(flat(0.3, side=128), values(0.5), values(0.5), values(2.0), torch.tensor([4]))[0, 0] - 0.3
    along, across = ((field.roll(1, axis) * field).mean() / field.square().mean() for axis in (0, 1))
    assert across > 0.8 > 0.6 > along


def test_noise_belongs_to_its_seed() -> None:
    both = noise(torch.tensor([3, 4]), (2, 5))
    assert torch.equal(both[1], noise(torch.tensor([4]), (2, 5))[0]) and not torch.equal(both[0], both[1])


# ------------------------------------------------------------------------------------------------- artefacts
def test_a_shadow_takes_its_share_below_its_beginning() -> None:
    one = {
        "centre": [[0.5, 0.5]],
        "width": [[0.2, 0.2]],
        "depth": [[0.5, 0.5]],
        "loss": [[0.8, 0.0]],
        "tilt": [[0.0] * 2],
    }
    changed = shadows(flat(0.5, side=101), **{name: torch.tensor(value) for name, value in one.items()})[0, 0]
    assert torch.allclose(changed[:40], torch.tensor(0.5), atol=1e-2)
    assert changed[90, 50] == pytest.approx(0.1, abs=1e-3), "a second shadow without loss takes nothing"
    assert torch.allclose(changed[:, :25], torch.tensor(0.5), atol=1e-3), "nothing beside it"


def test_haze_is_strongest_at_the_probe() -> None:
    changed = haze(flat(0.2, 0.0, side=64), values(0.4, 0.4), values(0.3, 0.3), torch.arange(2))
    rows = (changed[0, 0] - 0.2).mean(dim=1)
    assert rows[0] == pytest.approx(0.4 * 0.8, rel=0.15)
    assert rows[-1] / rows[0] == pytest.approx(math.exp(-1 / 0.3), rel=0.5)
    assert torch.equal(changed[1], torch.zeros(1, 64, 64))


def test_marks_are_bright_pixels_and_nothing_else_changes() -> None:
    images = torch.rand(3, 1, 64, 96, generator=torch.Generator().manual_seed(0))
    changed = burn_in(images, values(0.9, 0.7, 0.0), torch.tensor([1, 2, 3]))
    assert torch.equal(changed[2], images[2])
    for number, level in enumerate((0.9, 0.7)):
        marked = changed[number] != images[number]
        assert marked.any() and torch.equal(changed[number][marked].unique(), values(level))
        assert (changed[number] >= images[number]).all()
        drawn = torch.from_numpy(overlay(64, 96, number + 1)).bool()
        assert not (marked[0] & ~drawn).any() and 0.002 < drawn.float().mean() < 0.15


@pytest.mark.parametrize("shape", [(16, 16), (128, 128), (64, 200), (513, 300)])
def test_marks_fit_any_image(shape: tuple[int, int]) -> None:
    for seed in range(20):
        drawn = overlay(*shape, seed)
        assert drawn.shape == shape and drawn.any() and set(np.unique(drawn)) <= {0.0, 1.0}
