"""The physics transforms by MONAI's conventions, and that each does what its name says."""

import numpy as np
import pytest
import torch
from monai.data import CacheDataset, MetaTensor
from monai.transforms import Compose

from meddap_monai import transforms
from meddap_monai.errors import ConfigurationError
from meddap_monai.phantom.simulation import simulate_image

BEHIND_BLACK = ["RandSpeckle", "RandTimeGain", "RandAcousticShadow", "RandHaze", "RandDynamicRange"]
"""What leaves black background black."""
NAMES = [*BEHIND_BLACK, "RandConvexProbe", "RandMarks", "RandUltrasoundAugment"]


@pytest.fixture(scope="module")
def image() -> MetaTensor:
    pixels = simulate_image("benign", 1, "unseen", size=(64, 80))
    return MetaTensor(torch.from_numpy(pixels)[None].float(), meta={"device": "simulated"})


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_decides_everything(name: str, image: MetaTensor) -> None:
    transform = getattr(transforms, name)(prob=1.0)
    first = transform.set_random_state(seed=3)(image)
    again = transform.set_random_state(seed=3)(image)
    other = transform.set_random_state(seed=4)(image)
    assert torch.equal(first, again) and not torch.equal(first, other)
    np.random.seed(0)
    assert torch.equal(transform.set_random_state(seed=3)(image), first), "global state must not matter"


@pytest.mark.parametrize("name", NAMES)
def test_kind_range_and_background_stay(name: str, image: MetaTensor) -> None:
    transform = getattr(transforms, name)(prob=1.0).set_random_state(seed=0)
    before = image.clone()
    changed = transform(image)
    assert torch.equal(image, before), "the input is not mutated"
    assert isinstance(changed, MetaTensor) and changed.meta["device"] == "simulated"
    assert changed.shape == image.shape and changed.dtype == image.dtype
    assert torch.isfinite(changed).all() and changed.min() >= 0 and changed.max() <= image.max()
    if name in BEHIND_BLACK:
        assert (changed[image == 0] == 0).all(), "black background stays black"
    assert (changed - image).abs().mean() > 0.5


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["numpy", "uint8", "unit", "clip", "colour"])
def test_other_kinds_of_input(name: str, kind: str, image: MetaTensor) -> None:
    plain = image.as_tensor()
    kinds: dict[str, torch.Tensor | np.ndarray] = {
        "numpy": plain.numpy(),
        "uint8": plain.to(torch.uint8),
        "unit": plain / 255,
        "clip": plain[None].expand(4, -1, -1, -1),
        "colour": plain.expand(3, -1, -1),
    }
    given = kinds[kind]
    transform = getattr(transforms, name)(prob=1.0).set_random_state(seed=1)
    changed = transform(given)
    assert type(changed) in (MetaTensor, torch.Tensor, np.ndarray)
    assert changed.shape == given.shape and str(changed.dtype).split(".")[-1] == str(given.dtype).split(".")[-1]
    if kind in ("clip", "colour"):
        assert torch.equal(torch.as_tensor(changed[0]), torch.as_tensor(changed[-1])), "one draw for all planes"
    if kind == "unit":
        whole = transform(plain, randomize=False)
        assert torch.allclose(torch.as_tensor(changed) * 255, torch.as_tensor(whole), atol=1e-2)


@pytest.mark.parametrize("name", NAMES)
def test_probability_zero_does_nothing(name: str, image: MetaTensor) -> None:
    assert torch.equal(getattr(transforms, name)(prob=0.0)(image), image)


@pytest.mark.parametrize("name", NAMES)
def test_dictionary_version(name: str, image: MetaTensor) -> None:
    cls = getattr(transforms, name + "d")
    assert cls is getattr(transforms, name + "D") is getattr(transforms, name + "Dict")
    transform = cls(keys=["image", "other"], prob=1.0, allow_missing_keys=True).set_random_state(seed=5)
    items = {"image": image, "label": 1}
    changed = transform(items)
    assert items["image"] is image and changed["label"] == 1 and not torch.equal(changed["image"], image)
    both = transform({"image": image, "other": image.clone()})
    assert torch.equal(both["image"], both["other"]), "one draw per item"
    with pytest.raises(KeyError):
        cls(keys="nothing", prob=1.0)({"image": image})


def test_set_random_state_of_compose_reaches_the_inner_transform(image: MetaTensor) -> None:
    chain = Compose([getattr(transforms, name + "d")(keys="image", prob=0.7) for name in NAMES])
    first = chain.set_random_state(seed=9)({"image": image})["image"]
    again = chain.set_random_state(seed=9)({"image": image})["image"]
    assert torch.equal(first, again)


def test_a_cached_item_is_not_changed(image: MetaTensor) -> None:
    chain = Compose([transforms.RandSpeckled(keys="image", prob=1.0)])
    data = CacheDataset([{"image": image.clone()}], chain, progress=False)
    one, two = data[0]["image"], data[0]["image"]
    assert not torch.equal(one, two), "random transforms run after the cache"


def test_a_shadow_darkens_below_its_beginning() -> None:
    flat = torch.full((1, 100, 100), 100.0)
    shadow = transforms.RandAcousticShadow(count=(1, 1), depth=(0.5, 0.5), loss=(0.8, 0.8), prob=1.0)
    changed = torch.as_tensor(shadow.set_random_state(seed=2)(flat))
    assert torch.allclose(changed[:, :40], flat[:, :40], atol=0.5)
    assert changed[:, 60:].min() < 35 and changed[:, 60:].max() > 95


def test_time_gain_follows_its_slope() -> None:
    flat = torch.full((1, 100, 50), 100.0)
    flat[0, 0, 0] = 255
    gain = transforms.RandTimeGain(slope=(-12, -12), sliders=(0, 0), dynamic_range=60, prob=1.0)
    changed = torch.as_tensor(gain(flat))[0, :, 25]
    assert changed[0] == pytest.approx(100, abs=4) and changed[-1] == pytest.approx(100 - 0.2 * 255, abs=4)
    assert (changed.diff() <= 1e-3).all()


def test_speckle_is_rayleigh_when_fully_developed() -> None:
    flat = torch.full((1, 128, 128), 1.0)
    flat[0, 0, 0] = 100
    speckle = transforms.RandSpeckle(strength=(1, 1), size=(0.8, 0.8), prob=1.0).set_random_state(seed=0)
    field = torch.as_tensor(speckle(flat))[0, 2:]
    assert field.std() / field.mean() == pytest.approx(np.sqrt(4 / np.pi - 1), rel=0.1)


def test_haze_lowers_contrast_near_the_probe(image: MetaTensor) -> None:
    haze = transforms.RandHaze(strength=(0.4, 0.4), reach=(0.3, 0.3), prob=1.0).set_random_state(seed=0)
    gain = torch.as_tensor(haze(image) - image)
    inside = image > 20
    assert gain[:, :20][inside[:, :20]].mean() > 2 * gain[:, 44:][inside[:, 44:]].mean() > 0


@pytest.mark.parametrize(
    ("name", "arguments", "text"),
    [
        ("RandSpeckle", {"strength": (0.5, 2)}, "RandSpeckle#strength is .* expected two ascending numbers in 0 to 1"),
        ("RandHaze", {"reach": (1, 0.5)}, "RandHaze#reach"),
        ("RandTimeGain", {"count": 1}, "expected 2..16"),
        ("RandAcousticShadow", {"prob": 2}, "prob is 2, expected 0 to 1"),
    ],
)
def test_senseless_parameters_are_refused(name: str, arguments: dict, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        getattr(transforms, name)(**arguments)


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="RandNothing"):
        transforms.RandNothing  # noqa: B018
