"""Every transform of the package prints its class and the arguments that it was made with."""

import copy
import inspect
import pickle
from typing import Any

import pytest

from meddap_monai import transforms
from meddap_monai.bundle.classifier import LoadForClassifierd
from meddap_monai.classifier.data import LoadFramed

ARRAY: dict[str, dict[str, Any]] = {
    "LoadUltrasound": {"frames": "first", "guess_region": False},
    "CropToUltrasoundRegion": {"missing": "keep"},
    "MaskBurnedIn": {"missing": "error"},
    "RandSpeckle": {"strength": (0.1, 0.2), "size": (1.0, 2.0)},
    "RandTimeGain": {"count": 4},
    "RandAcousticShadow": {"width": (0.1, 0.2)},
    "RandHaze": {"prob": 1.0},
    "RandUltrasoundAugment": {"strength": 0.5, "without": ("marks",)},
    "RandDynamicRange": {"ratio": (1.0, 1.2)},
    "RandConvexProbe": {"half_angle": (20.0, 30.0)},
    "RandMarks": {"level": (1.0, 1.0)},
    "RandDiffusionAugment": {"generator": {"classes": ["a", "b"]}, "prob": 0.25},
    "RandDiffusionSamples": {"num_samples": 2, "generator": {"classes": ["a", "b"]}},
}
OTHERS: dict[str, dict[str, Any]] = {
    "OnlineGenerator": {"classes": ["a", "b"], "steps": 2},
    "DiffusionPrepareBatch": {"generator": {"classes": ["a", "b"]}, "seed": 3},
}


def as_written(name: str, arguments: dict[str, Any]) -> str:
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"


@pytest.mark.parametrize("name", transforms.__all__)
def test_class_and_arguments_are_printed(name: str) -> None:
    array = next((key for key in ARRAY if name in {key, *(key + ending for ending in ("d", "D", "Dict"))}), name)
    arguments = (OTHERS | ARRAY)[array] if name == array else {"keys": "image"} | ARRAY[array]
    transform = getattr(transforms, name)(**arguments)
    expected = as_written(name if name == array else f"{array}d", arguments)
    assert repr(transform) == expected
    for copied in (copy.deepcopy(transform), pickle.loads(pickle.dumps(transform))):
        assert repr(copied) == expected, "a worker prints what the main process prints"


@pytest.mark.parametrize("name", transforms.__all__)
def test_the_signature_stays(name: str) -> None:
    """Bundles are checked against it, and editors show it."""
    assert "args" not in inspect.signature(getattr(transforms, name).__init__).parameters


def test_arguments_by_position_get_their_names() -> None:
    assert repr(transforms.LoadUltrasoundd("image")) == "LoadUltrasoundd(keys='image')"
    assert repr(transforms.LoadUltrasound("first", "zero")) == "LoadUltrasound(frames='first', outside='zero')"


def test_transforms_of_other_rooms_print_too() -> None:
    for made, name in (
        (LoadFramed(32, 1, "pad"), "LoadFramed"),
        (LoadForClassifierd("image", 32), "LoadForClassifierd"),
    ):
        assert repr(made).startswith(f"{name}(") and "32" in repr(made)
