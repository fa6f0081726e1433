"""The augmentations as the engine applies them: classical as ever, ultrasound by strength and parts, seeds."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from meddap_monai.augmentation.parts import PARTS
from meddap_monai.augmentation.policy import apply, draw
from meddap_monai.classifier.augment import CLASSICAL, apply_classical, augment, draw_classical
from meddap_monai.classifier.config import ClassifyConfig
from meddap_monai.classifier.engine import Criterion, TrainingStep
from meddap_monai.core.configuration import build
from meddap_monai.core.distributed import Ranks
from meddap_monai.core.seeds import generator
from meddap_monai.errors import ConfigurationError

CONFIG = ClassifyConfig(steps=3, batch=4, augmentation="ultrasound", seed=5)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))


def prepared(config: ClassifyConfig, images: torch.Tensor, step: int = 7) -> torch.Tensor:
    """What the network would see of a batch of two real and two synthetic images."""
    batch: dict[str, Any] = {
        "image": (images * 255).round().to(torch.uint8),
        "label": torch.zeros(4, dtype=torch.int64),
        "synthetic": torch.tensor([0, 1, 0, 1]),
    }
    return TrainingStep(config, Criterion(config), 2)._prepare(batch, step, torch.device("cpu"))[0]


def test_the_policy_acts_on_grey_levels_which_the_network_normalises(images: torch.Tensor) -> None:
    levels = (images * 255).round() / 255
    changed = apply(levels, draw(4, generator(5, "classify/augment", 7)))
    assert changed.min() >= 0 and changed.max() <= 1
    assert torch.equal(prepared(CONFIG, images), changed)


def test_classical_stays_as_it_was(images: torch.Tensor) -> None:
    config = replace(CONFIG, augmentation="classical")
    expected = apply_classical(images, draw_classical(4, generator(5, "classify/augment", 7)))
    assert torch.equal(augment(images, config, 7), expected)
    assert CLASSICAL.scaled(1.0) == CLASSICAL


def test_strength_zero_and_none_change_nothing(images: torch.Tensor) -> None:
    assert torch.equal(augment(images, replace(CONFIG, augmentation_strength=0.0), 1), images)
    assert torch.equal(augment(images, replace(CONFIG, augmentation="none"), 1), images)


@pytest.mark.parametrize(("of", "changed"), [("all", (0, 1, 2, 3)), ("real", (0, 2)), ("synthetic", (1, 3))])
def test_only_the_chosen_source_is_augmented(of: str, changed: tuple[int, ...], images: torch.Tensor) -> None:
    plain = prepared(replace(CONFIG, augmentation="none"), images)
    found = prepared(replace(CONFIG, augmentation_of=of), images)
    assert tuple(i for i in range(4) if not torch.equal(found[i], plain[i])) == changed


def test_the_seed_and_the_step_decide(images: torch.Tensor) -> None:
    first = prepared(CONFIG, images)
    torch.manual_seed(1)
    assert torch.equal(prepared(CONFIG, images), first), "global state must not matter"
    assert not torch.equal(prepared(CONFIG, images, step=8), first)
    assert not torch.equal(prepared(replace(CONFIG, seed=6), images), first)


def test_processes_share_what_one_would_draw(images: torch.Tensor) -> None:
    whole = augment(images, CONFIG, 2)
    for rank in range(2):
        part = augment(images[rank::2], CONFIG, 2, Ranks(rank, 2))
        assert torch.allclose(part, whole[rank::2], atol=1e-6)


def test_parts_are_left_out_by_name(images: torch.Tensor) -> None:
    config = build(
        ClassifyConfig,
        {"augmentation": "ultrasound", "augmentation_without": ["speckle", "zoom"], "seed": 5},
        "classify",
    )
    expected = apply(images, draw(4, generator(5, "classify/augment", 7), without=("speckle", "zoom")))
    assert torch.equal(augment(images, config, 7), expected)
    everything = replace(config, augmentation_without=tuple(PARTS))
    assert torch.equal(augment(images, everything, 7), images)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (
            {"augmentation_without": ["speckl"]},
            "classify#augmentation_without#0: unknown value 'speckl'; did you mean 'speckle'",
        ),
        (
            {"augmentation_strength": -1.0},
            "classify#augmentation_strength: got -1.0, expected a number from 0.0 to 3.0",
        ),
        (
            {"augmentation": "ultrasonic"},
            "classify#augmentation: unknown value 'ultrasonic'; did you mean 'ultrasound'",
        ),
    ],
)
def test_wrong_settings_are_named(values: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        build(ClassifyConfig, values, "classify")
    assert text in str(error.value)
