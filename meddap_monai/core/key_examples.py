"""Examples of what a key may be, from its name, its meaning and its type."""

import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from meddap_monai.core.configuration import options
from meddap_monai.core.constraints import Choice, Multiple, Range

_TYPICAL: dict[str, tuple[Any, ...]] = {
    "adjective": ("bright",),
    "adjectives": (["none", "bright"],),
    "arms": (["real_ultrasound", "real_synthetic_ultrasound"],),
    "attention": ([True, True],),
    "base": ("CompVis/stable-diffusion-v1-4",),
    "cache": ("runs/latents",),
    "centre_column": ("hospital",),
    "channels": (3, [32, 64, 64, 64], [128, 192]),
    "class_word": ("sonogram",),
    "classes": (["benign", "malignant"],),
    "command": ("make study",),
    "device": ("cuda",),
    "device_column": ("scanner",),
    "encoder": ("densenet121",),
    "encoders": (["resnet10", "densenet121"],),
    "features": ("vae",),
    "fractions": ({"train": 0.7, "val": 0.1, "test": 0.2}, [0.5, 1.0]),
    "frames": ("evenly 5",),
    "grid": ({"generate#ratio": [1, 2]},),
    "height": (128,),
    "identifier": ("zwx",),
    "image_column": ("file",),
    "label_column": ("pathology",),
    "limits": ({"classify#steps": 100},),
    "negative": ("blurry",),
    "only": ({"centre": "A"},),
    "plan": ("plan.csv",),
    "prior_prompt": ("a photo of a {class}",),
    "prompt": ("a photo of {identifier} {class}",),
    "prompts": ("fetal", ["fetal"]),
    "question": ("Do synthetic images help?",),
    "rule": ("probability",),
    "scheduler": ("euler",),
    "seeds": ([0, 1],),
    "sources": (["BUSI, CC BY 4.0"],),
    "start": ("lesion",),
    "table": ("labels.csv",),
    "title": ("Breast ultrasound, first trial",),
    "token": ("<my-{class}>",),
    "variants": ({"half": {"generate#ratio": 0.5}},),
    "weights": ("resnet18.safetensors",),
    "width": (128,),
}
"""Name of a key -> values that say more than a number near its default; one that a key does not take is passed over."""


def candidates(key: Any) -> Iterator[Any]:
    """Yield values that a key (`meddap_monai.core.keys.Key`) may take, the most telling first; some are not valid."""
    yield from _TYPICAL.get(key.name, ())
    yield from (text for text in _quoted(key.meaning) if not text.startswith((".", "$")) and "<" not in text)
    for hint in members(key.hint):
        yield from _of_hint(hint, key)


def _quoted(meaning: str) -> Iterator[str]:
    """Yield what a meaning quotes."""
    for pair in re.findall(r"\"([^\"]+)\"|``([^`]+)``", meaning):
        yield next(filter(None, pair))


def _of_hint(hint: Any, key: Any) -> Iterator[Any]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        for constraint in arguments[1:]:
            if isinstance(constraint, Choice):
                yield from (choice for choice in constraint.choices if choice)
            if isinstance(constraint, (Range, Multiple)):
                yield from _near(key.default, constraint)
        yield from _of_hint(arguments[0], key)
    elif origin in (tuple, list):
        counts = (len(arguments),) if origin is tuple and arguments[-1] is not Ellipsis else (1, 2)
        items = [item for member in members(arguments[0]) for item in _of_hint(member, key)]
        yield from ([item] * count for count in counts for item in items)
        yield list(key.default or ())[:1]
    elif arguments or hint is dict:
        values = _of_hint(arguments[1], key) if arguments else iter(["value"])
        yield from ({"benign": item} for item in values)
    else:
        yield from _of_scalar(hint, key)


def _of_scalar(hint: Any, key: Any) -> Iterator[Any]:
    if hint is bool:
        yield not key.default
    elif hint in (int, float):
        yield from _near(key.default, None)
    elif hint is Path:
        yield f"path/to/{key.name}"
    elif hint is str:
        yield key.name


def _near(default: Any, constraint: Any) -> Iterator[float]:
    """Yield numbers near a default, and the limits."""
    if isinstance(default, (int, float)) and not isinstance(default, bool):
        yield from (default * 2, default / 2, default + 1)
    yield from (constraint.of * 32,) if isinstance(constraint, Multiple) else (1, 4, 0.5)
    if isinstance(constraint, Range):
        yield from (constraint.low, constraint.high)


def members(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union that hold something, or the annotation itself."""
    return tuple(option for option in options(hint) if option is not types.NoneType)
