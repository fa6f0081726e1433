"""Figures of sets of pictures that need no downloaded network: a linear classifier on HOG, spectra, distances, copies.

A set is a mapping of arrays over its N pictures: ``pixels (N, side, side) uint8``, ``class (N,)`` names and, where they
are known, ``group (N,)`` names of patients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from skimage.feature import hog
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from meddap_monai import store
from meddap_monai.core.records import Record
from meddap_monai.evaluation.generative import frechet_distance, kernel_distance
from meddap_monai.images.framing import crop_top
from meddap_monai.selection.copies.config import CopyConfig
from meddap_monai.selection.copies.detection import Images, calibrate, find_nearest, flag
from meddap_monai.selection.pixels import to_thumbnails
from meddap_monai.statistics.shares import wilson

Describe = Callable[[np.ndarray], np.ndarray]
"""Pictures (N, side, side) uint8 -> features (N, D); HOG where nothing else is said."""
EXTRACTOR = "HOG, 64 px, 8 px cells, 9 orientations, 2 x 2 blocks (1764 numbers), 64 principal components of real train"


def read_set(records: Sequence[Record], side: int) -> dict[str, Any]:
    """Return the pictures of records, cut square, with names of class, group and device."""
    pixels = []
    for record in records:
        with Image.open(record["image"]) as image:
            pixels.append(np.asarray(crop_top(image.convert("L"), side, side)))
    return {
        "pixels": np.stack(pixels),
        "class": np.array([record["class_name"] for record in records]),
        "group": np.array([record["patient"] for record in records]),
        "device": np.array([str((record.get("meta") or {}).get("device") or "") for record in records]),
    }


def to_side(pixels: np.ndarray, side: int) -> np.ndarray:
    """Return pictures (N, H, H) uint8 as (N, side, side): area means where they are larger."""
    if pixels.shape[-1] == side:
        return pixels
    resized = [Image.fromarray(one).resize((side, side), Image.Resampling.BOX) for one in pixels]
    return np.stack([np.asarray(one) for one in resized])


def write_sheet(path: Path, rows: Iterable[np.ndarray]) -> None:
    """Write pictures, each row (N, side, side) uint8, as one PNG file."""
    sheet = np.concatenate([np.concatenate(list(row), axis=1) for row in rows])
    with store.atomic_path(path) as temporary:
        Image.fromarray(sheet).save(temporary, format="PNG")


def features(pixels: np.ndarray) -> np.ndarray:
    """Return HOG features (N, 1764) of pictures."""
    small = [np.asarray(Image.fromarray(p).resize((64, 64), Image.Resampling.BILINEAR)) / 255.0 for p in pixels]
    return np.stack([hog(p, orientations=9, pixels_per_cell=(8, 8), cells_per_block=(2, 2)) for p in small])


def classifier() -> Any:
    """Return HOG's companion: standardised logistic regression, classes weighed equally."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000, class_weight="balanced"))


def fit(data: Any, describe: Describe = features) -> Any:
    """Return the classifier fitted on a set and its mirror images."""
    return _fit(*_both_sides(data, describe), data["class"])


def _both_sides(data: Any, describe: Describe = features) -> tuple[np.ndarray, np.ndarray]:
    return describe(data["pixels"]), describe(data["pixels"][:, :, ::-1])


def _fit(plain: np.ndarray, mirrored: np.ndarray, classes: np.ndarray) -> Any:
    return classifier().fit(np.concatenate([plain, mirrored]), np.tile(classes, 2))


def components(raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean of features (N, D) and their first 64 principal components (D, 64)."""
    mean = raw.mean(0)
    return mean, np.linalg.svd(raw - mean, full_matrices=False)[2][:64].T


def of_classes(data: Any, names: Sequence[str]) -> dict[str, Any]:
    """Return the part of a set that is of these classes."""
    chosen = np.isin(data["class"], names)
    return {key: value[chosen] for key, value in data.items()}


def joined(*sets: Any) -> dict[str, Any]:
    """Return sets as one, with what all of them know."""
    keys = set.intersection(*(set(data) for data in sets))
    return {key: np.concatenate([data[key] for data in sets]) for key in sorted(keys)}


def agreement(real: Any, synthetic: Any, classes: list[str]) -> dict[str, Any]:
    """Return, per class, how often classifiers of real images say the (prompted) class.

    Five classifiers, each of four fifths of the real patients: every real image is asked of the one that has not seen
    its patient, every synthetic image of all five. So the figure on real images rests on all of them.
    """
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=0).split(real["class"], real["class"], real["group"])
    (plain, mirrored), made = _both_sides(real), features(synthetic["pixels"])
    right = np.zeros(len(real["class"]))
    said = []
    for known, asked in folds:
        model = _fit(plain[known], mirrored[known], real["class"][known])
        right[asked] = model.predict(plain[asked]) == real["class"][asked]
        said.append(model.predict(made) == synthetic["class"])
    shares = np.mean(said, axis=0)
    found = {}
    for name in classes:
        ours, theirs = shares[synthetic["class"] == name], right[real["class"] == name]
        found[name] = {"real": float(theirs.mean()), "synthetic": float(ours.mean())}
        found[name] |= {"real count": len(theirs), "synthetic count": len(ours)}
    means = {key: float(np.mean([found[name][key] for name in classes])) for key in ("real", "synthetic")}
    return {"per_class": found, "balanced": means}


def usefulness(
    train: Any, held: Any, synthetic: Any, classes: list[str], describe: Describe = features
) -> dict[str, Any]:
    """Return balanced accuracy on held-out real images: trained on real, and on synthetic only."""
    found = {}
    for task, names in _tasks(classes):
        scores = {
            source: _accuracy(data, held, names, describe)
            for source, data in {"real": train, "synthetic": synthetic}.items()
        }
        found[task] = scores | {"difference": scores["synthetic"] - scores["real"]}
    return found


def synthetic_accuracy(train: Any, held: Any, synthetic: Any, classes: list[str]) -> dict[str, Any]:
    """Return balanced accuracy of classifiers trained on real training images, on synthetic and on held-out real ones.

    A generator's figure: near 1, pictures are as their prompts say; above the real one, they are easier than reality.
    """
    asked = {"synthetic": synthetic, "real held out": held}
    return {
        task: {source: _accuracy(train, data, names) for source, data in asked.items()}
        for task, names in _tasks(classes)
    }


def _tasks(classes: list[str]) -> Iterator[tuple[str, list[str]]]:
    yield "all", classes
    if {"benign", "malignant"} <= set(classes):
        yield "benign or malignant", ["benign", "malignant"]


def _accuracy(known: Any, asked: Any, names: list[str], describe: Describe = features) -> float:
    """Return the balanced accuracy on `asked` of a classifier of `known`, both cut down to some classes."""
    asked = of_classes(asked, names)
    said = fit(of_classes(known, names), describe).predict(describe(asked["pixels"]))
    return float(balanced_accuracy_score(asked["class"], said))


def energy(held: Any, train: Any, synthetic: Any, classes: list[str]) -> dict[str, Any]:
    """Return, per class, synthetic over real: gradient energy, high-frequency energy, mean and spread.

    "High frequency" is of whole pictures, words and edges included; "of tissue" is the median over 16 tiles of each.
    """
    real = joined(held, train)
    found = {}
    for name in classes:
        ours, theirs = (_energies(data["pixels"][data["class"] == name]) for data in (synthetic, real))
        found[name] = {key: ours[key] / theirs[key] for key in ours}
    return found


def _energies(pixels: np.ndarray) -> dict[str, float]:
    image = pixels.astype(np.float64) / 255
    return {
        "horizontal gradient": float(np.abs(np.diff(image, axis=2)).mean()),
        "vertical gradient": float(np.abs(np.diff(image, axis=1)).mean()),
        "high frequency": float(_high_frequency(image).mean()),
        "high frequency of tissue": float(np.median(_high_frequency(_tiles(image)))),
        "mean": float(image.mean()),
        "spread": float(image.std((1, 2)).mean()),
    }


def _high_frequency(image: np.ndarray) -> np.ndarray:
    """Return the mean power (N,) of pictures (N, side, side) above a quarter of a cycle per pixel."""
    spectrum = np.abs(np.fft.fft2(image - image.mean((1, 2), keepdims=True))) ** 2
    frequencies = np.fft.fftfreq(image.shape[1])
    return spectrum[:, np.hypot(frequencies[:, None], frequencies) > 0.25].mean(1)


def _tiles(image: np.ndarray, count: int = 4) -> np.ndarray:
    """Return pictures cut into `count` x `count` tiles under a Hann window.

    Their median leaves out the few tiles with burned-in words and logos, and the window leaves out the jump from one
    edge of a picture to the other, which a plain Fourier transform counts.
    """
    side = image.shape[1] // count
    image = image[:, : side * count, : side * count].reshape(-1, count, side, count, side)
    tiles = image.swapaxes(2, 3).reshape(-1, side, side)
    return (tiles - tiles.mean((1, 2), keepdims=True)) * np.outer(np.hanning(side), np.hanning(side))


def distances(train: Any, held: Any, synthetic: Any) -> dict[str, Any]:
    """Return FID and KID to held-out real images, beside those of real training images."""
    mean, basis = components(features(train["pixels"]))
    reference = (features(held["pixels"]) - mean) @ basis
    found = {}
    for name, data in {"real train": train, "synthetic": synthetic}.items():
        value = (features(data["pixels"][_like(data, held)]) - mean) @ basis
        found[name] = {
            "fid": float(frechet_distance(value, reference)),
            "kid": float(kernel_distance(value, reference)),
        }
    return found


def _like(data: Any, held: Any) -> np.ndarray:
    """Return indices that repeat `data`'s classes in the held-out proportions."""
    chosen = []
    names, counts = np.unique(held["class"], return_counts=True)
    available = {name: np.flatnonzero(data["class"] == name) for name in names}
    factor = min(len(available[name]) / count for name, count in zip(names, counts, strict=True))
    for name, count in zip(names, counts, strict=True):
        chosen.append(available[name][: max(1, int(factor * count))])
    return np.concatenate(chosen)


def copies(
    train: Any, held: Any, synthetic: Any, classes: list[str], describe: Describe | None = None
) -> dict[str, Any]:
    """Return how many pictures lie nearer to a training image than 99 % of the real images of other patients do.

    Distances, alignment (mirrored and cropped views too) and thresholds are those of the stage ``select``.

    Args:
        train: what the base saw.
        held: of other patients.
        synthetic: drawn.
        classes: of them.
        describe: features of unit length for the third distance; none: correlation and tiles alone.
    """
    config = CopyConfig()

    def images(data: Any, groups: list[str]) -> Images:
        vectors = None if describe is None else describe(data["pixels"])
        return Images(to_thumbnails(data["pixels"][:, None]), vectors, groups)

    bank = images(train, [str(name) for name in train["group"]])
    limits = calibrate(bank, config)
    found: dict[str, Any] = {
        "thresholds": limits.values,
        "real train": {"flagged": limits.share, "same pictures": len(limits.same_pictures)},
    }
    sets = {"synthetic": synthetic, "real held out": held}
    sets |= {f"synthetic {name}": of_classes(synthetic, [name]) for name in classes}
    for name, data in sets.items():
        asked = images(data, [""] * len(data["pixels"]))
        distances = find_nearest(asked, bank, config).distances
        hits, count = int(flag(distances, limits.values).sum()), len(data["pixels"])
        found[name] = {"flagged": hits, "of": count, "share": hits / count, "interval": list(wilson(hits, count))}
        for kind, values in distances.items():
            found[name][kind] = {f"p{q}": float(np.percentile(values, q)) for q in (0, 5, 50)}
    return found


def real_or_synthetic(
    train: Any, held: Any, synthetic: Any, classes: list[str], describe: Describe = features
) -> dict[str, float]:
    """Return, per class, the AUC of telling real from synthetic by logistic regression."""
    real = joined(held, train)
    found = {}
    for name in classes:
        theirs, ours = (data["pixels"][data["class"] == name] for data in (real, synthetic))
        count = min(len(theirs), len(ours))
        stack = np.concatenate([theirs[:count], ours[:count]])
        labels = np.repeat([0, 1], count)
        folds = StratifiedKFold(5, shuffle=True, random_state=0)
        chance = cross_val_predict(classifier(), describe(stack), labels, cv=folds, method="predict_proba")[:, 1]
        found[name] = float(roc_auc_score(labels, chance))
    return found
