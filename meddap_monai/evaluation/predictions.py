"""Predictions of every run on the test images it may be judged on; nothing that any model has seen."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from meddap_monai import store
from meddap_monai.classifier.scoring import Classifier, load_classifier, softmax
from meddap_monai.core.records import Record
from meddap_monai.errors import RecordsError, StageError


@dataclass(frozen=True)
class ClassifierRun:
    """One trained classifier to be judged.

    Attributes:
        arm: name of the arm.
        seed: the draw and training seed; equal seeds are compared with each other.
        model: folder of its ``classify`` stage.
        records: records file that holds its own test split.
    """

    arm: str
    seed: int
    model: Path
    records: Path


@dataclass(frozen=True)
class Predictions:
    """Predictions of one run on one test set.

    Attributes:
        rows: the full records, in order.
        labels: ``(N,)`` int in the order of `classes`.
        probabilities: ``(N, K)`` float.
        classes: K names.
    """

    rows: list[Record]
    labels: np.ndarray
    probabilities: np.ndarray
    classes: list[str]

    @property
    def groups(self) -> list[str]:
        """Patient or group of each image."""
        return [row["patient"] for row in self.rows]


class DecodedOnce:
    """Decoded test images that several runs share; the few sets used last are kept."""

    def __init__(self, keep: int = 4) -> None:
        self.keep = keep
        self._found: dict[Any, torch.Tensor] = {}

    def __call__(self, classifier: Classifier, rows: list[Record]) -> torch.Tensor:
        """Return the images of `rows` as `classifier` decodes them: ``(N, C, size, size)`` uint8."""
        key = (classifier.decoding, rows[0]["image"], len(rows), hash(tuple(row["id"] for row in rows)))
        pixels = self._found.pop(key, None)
        if pixels is None:
            pixels = classifier.pixels(rows)
        self._found[key] = pixels
        while len(self._found) > self.keep:
            del self._found[next(iter(self._found))]
        return pixels


def predict_run(
    run: ClassifierRun,
    rows: list[Record],
    cache: Path,
    device: str = "cpu",
    decoded: DecodedOnce | None = None,
) -> Predictions:
    """Predict test rows with a run's model; kept as a CSV of probabilities so that a resumed evaluation goes on.

    Args:
        run: the model.
        rows: full records of one of the `test_sets.TestSets`.
        cache: CSV file of this run and test set.
        device: torch device.
        decoded: images that other runs have decoded already.

    Raises:
        RecordsError: a row's class is unknown to the model.
    """
    classifier = load_classifier(run.model, device)
    labels = label_numbers(rows, classifier.classes, f"{run.arm}, seed {run.seed}")
    probabilities = _read_table(cache, rows, classifier.classes)
    if probabilities is None:
        pixels = (decoded or DecodedOnce())(classifier, rows)
        probabilities = softmax(classifier.logits_of_pixels(pixels))
        _write_table(cache, rows, probabilities, classifier.classes)
        probabilities = _read_table(cache, rows, classifier.classes)
        assert probabilities is not None
    return Predictions(rows, labels, probabilities, classifier.classes)


def label_numbers(rows: Sequence[Record], classes: Sequence[str], who: str) -> np.ndarray:
    """Return the labels of rows in the order of `classes`; the names decide, not the numbers of another index.

    Raises:
        RecordsError: a class the model does not know.
    """
    number = {name: place for place, name in enumerate(classes)}
    unknown = sorted({row["class_name"] for row in rows} - set(number))
    if unknown:
        raise RecordsError(
            f"{who}: the test set has class {unknown[0]!r}, the model knows {', '.join(classes)}; map the names"
        )
    return np.array([number[row["class_name"]] for row in rows])


def _write_table(path: Path, rows: Sequence[Record], probabilities: np.ndarray, classes: Sequence[str]) -> None:
    lines = (
        [row["id"], row["patient"], row["class_name"], *[f"{value:.9g}" for value in values]]
        for row, values in zip(rows, probabilities, strict=True)
    )
    store.write_atomic(path, store.csv_text(_head(classes), lines))


def _read_table(path: Path, rows: Sequence[Record], classes: Sequence[str]) -> np.ndarray | None:
    if not path.exists():
        return None
    try:
        found = [cells for _, cells in store.read_csv(path)]
        if found[0] != _head(classes) or [cells[0] for cells in found[1:]] != [row["id"] for row in rows]:
            return None
        values = np.array([[float(text) for text in cells[-len(classes) :]] for cells in found[1:]])
    except (StageError, ValueError, IndexError):
        return None  # not whole: the images are judged again
    return values if np.allclose(values.sum(axis=1), 1, atol=1e-4) and (values >= 0).all() else None


def _head(classes: Sequence[str]) -> list[str]:
    return ["id", "patient", "class_name", *[f"p_{name}" for name in classes]]
