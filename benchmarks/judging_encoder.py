"""Figures of sets of pictures in the features of an image encoder, beside those of ``judging`` on HOG.

FID (Heusel et al. 2017), KID (Binkowski et al. 2018), precision and recall (Kynkaanniemi et al. 2019), coverage (Naeem
et al. 2020), copies by R24's distances with the encoder's, agreement of devices, and blinded contact sheets.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from judging import classifier, of_classes, write_sheet
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

from meddap_monai import store
from meddap_monai.encoders.extractors import Extractor, build_extractor
from meddap_monai.evaluation.likeness import (
    density_coverage,
    frechet_distance,
    kernel_distance,
    kernel_interval,
    precision_recall,
)

ENCODER = "efficientnet_lite0"
EXTRACTOR = "EfficientNet-Lite0, ImageNet weights, 1280 features before the last layer"
LEAST = 10
"""Images of a device, or of a class, below which nothing is said about it."""


@functools.cache
def extractor() -> Extractor:
    """Return the encoder; features of a picture are computed once per process."""
    return build_extractor(ENCODER)


def encode(pixels: np.ndarray) -> np.ndarray:
    """Return features (N, 1280) of pictures (N, side, side) uint8."""
    found: np.ndarray = extractor().extract(np.ascontiguousarray(pixels)[:, None])[0]
    return found


def likeness(train: Any, held: Any, synthetic: Any, groups: Mapping[str, list[str]]) -> dict[str, Any]:
    """Return, per group of classes, how far synthetic and real training images lie from held-out real ones.

    Args:
        train: real images.
        held: of other patients.
        synthetic: drawn.
        groups: name, such as an organ -> its classes.
    """
    found: dict[str, Any] = {}
    for name, classes in groups.items():
        reference = of_classes(held, classes)
        target, patients = encode(reference["pixels"]), [str(group) for group in reference["group"]]
        found[name] = {}
        for source, data in {"synthetic": synthetic, "real train": train}.items():
            alike = like(of_classes(data, classes), reference)
            own = [str(unit) for unit in alike.get("group", np.arange(len(alike["class"])))]
            found[name][source] = _distances(encode(alike["pixels"]), target, own, patients)
    return found


def _distances(ours: np.ndarray, target: np.ndarray, units: list[str], patients: list[str]) -> dict[str, Any]:
    precision, recall = precision_recall(ours, target)
    _, coverage, expected = density_coverage(ours, target)
    return {
        "images": len(ours),
        "reference": len(target),
        "fid": frechet_distance(ours, target),
        "kid": kernel_distance(ours, target, units, patients),
        "kid interval": list(kernel_interval(ours, target, units, patients, 0)),
        "precision": precision,
        "recall": recall,
        "coverage": coverage,
        "coverage expected": expected,
    }


def like(data: Any, held: Any) -> dict[str, Any]:
    """Return the part of a set whose classes stand in the proportions of `held`."""
    names, counts = np.unique(held["class"], return_counts=True)
    places = {name: np.flatnonzero(data["class"] == name) for name in names}
    factor = min(len(places[name]) / count for name, count in zip(names, counts, strict=True))
    chosen = [places[name][: max(1, int(factor * count))] for name, count in zip(names, counts, strict=True)]
    return {key: value[np.concatenate(chosen)] for key, value in data.items()}


# ----------------------------------------------------------------------------------------------------------- devices
def device_agreement(
    real: Any, classes: list[str], draw: Callable[[str, str], np.ndarray], known: Mapping[str, str]
) -> dict[str, Any]:
    """Return, per class and device, how often a classifier of devices recognises it in real and in synthetic images.

    Within a class, because a device often belongs to an organ. The classifier is trained on real images; a real one is
    asked of a classifier that has not seen its patient.

    Args:
        real: with ``device``, empty where it is not known.
        classes: to look at.
        draw: (class, device) -> pictures that were asked for with that device's word.
        known: devices whose word the base has -> word.
    """
    found: dict[str, Any] = {}
    for name in classes:
        own = of_classes(real, [name])
        devices, counts = np.unique(own["device"], return_counts=True)
        enough = [str(one) for one, count in zip(devices, counts, strict=True) if one and count >= LEAST]
        asked = [one for one in enough if one in known]
        if len(enough) > 1 and asked:
            found[name] = _of_devices(own, enough, {one: draw(name, one) for one in asked})
    return found


def _of_devices(own: Any, devices: list[str], made: Mapping[str, np.ndarray]) -> dict[str, Any]:
    own = {key: value[np.isin(own["device"], devices)] for key, value in own.items()}
    vectors, patients = encode(own["pixels"]), len(set(own["group"]))
    folds = StratifiedGroupKFold(min(5, patients), shuffle=True, random_state=0)
    said = cross_val_predict(classifier(), vectors, own["device"], groups=own["group"], cv=folds)
    model = classifier().fit(vectors, own["device"])
    return {
        device: {
            "real": float((said == own["device"])[own["device"] == device].mean()),
            "synthetic": float((model.predict(encode(pixels)) == device).mean()),
        }
        for device, pixels in made.items()
    }


# ------------------------------------------------------------------------------------------------------------ blinded
def blinded(folder: Path, real: Any, synthetic: Any, classes: list[str], each: int = 8) -> None:
    """Write a sheet per class of as many real and synthetic pictures in random order, and the answers beside.

    ``blinded/<class>.png`` has rows of eight, read from left to right; ``blinded_answers.csv`` says what is what.
    """
    draw, answers = np.random.default_rng(0), []
    for name in classes:
        sides = [of_classes(data, [name])["pixels"] for data in (real, synthetic)]
        count = min(each, *(len(pixels) for pixels in sides))
        stack = np.concatenate([pixels[draw.permutation(len(pixels))[:count]] for pixels in sides])
        order = draw.permutation(len(stack))
        shown = np.concatenate([stack[order], np.full((-len(stack) % 8, *stack.shape[1:]), 255, np.uint8)])
        write_sheet(folder / "blinded" / f"{name}.png", list(shown.reshape(-1, 8, *stack.shape[1:])))
        answers += [(name, place + 1, "real" if one < count else "synthetic") for place, one in enumerate(order)]
    with store.atomic_path(folder / "blinded_answers.csv") as temporary, temporary.open("w", newline="") as stream:
        csv.writer(stream).writerows([("class", "picture", "is"), *answers])
