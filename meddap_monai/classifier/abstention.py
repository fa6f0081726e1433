"""When a classifier has no answer: images unlike its training images, and conformal sets of more than one class.

All is measured on the validation patients, who were left out of training. They also chose the weights and the
temperature, so that coverage is a little below what is stated where they are few.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from meddap_monai.classifier.heads import Head
from meddap_monai.encoders.features import Penultimate
from meddap_monai.statistics.conformal import grouped_p_values, grouped_threshold
from meddap_monai.statistics.gaussians import ClassGaussians


@dataclass(frozen=True)
class Abstention:
    """What a classifier remembers of its images, to tell when it should not answer: features, no image.

    Attributes:
        means: (K, D) float32, mean features of unit length of the training images of each class.
        scale: () float32, and
        directions: (R, D) float32: of the inverse of their shrunk covariance, see `ClassGaussians`.
        distances: (V,) float64, of the validation images to the nearest class.
        scores: (V,) float64, 1 - calibrated probability of the right class, of the validation images.
        patients: (V,) int64, whose each validation image is: numbers from 0, without further meaning.
    """

    means: np.ndarray
    scale: np.ndarray
    directions: np.ndarray
    distances: np.ndarray
    scores: np.ndarray
    patients: np.ndarray

    @property
    def known_patients(self) -> int:
        """How many validation patients there were."""
        return len(np.unique(self.patients))

    def distance(self, features: np.ndarray) -> np.ndarray:
        """Return the squared distances (N,) of features (N, D) to the nearest class."""
        return nearest(ClassGaussians(self.means, self.scale, self.directions), features)

    def threshold(self, outliers: float) -> float:
        """Return the distance that at most a share `outliers` of images of new patients exceeds."""
        return grouped_threshold(self.distances, self.patients, outliers)

    def p_values(self, probabilities: np.ndarray, whole_patients: bool = False) -> np.ndarray:
        """Return (..., K) conformal p-values of calibrated probabilities (..., K).

        Args:
            probabilities: of images, or means over all images of a patient.
            whole_patients: compare with the means of patients instead of with images.
        """
        if not whole_patients:
            return grouped_p_values(1 - probabilities, self.scores, self.patients)
        numbers, counts = np.unique(self.patients, return_counts=True)
        means = np.bincount(self.patients, self.scores)[numbers] / counts
        return grouped_p_values(1 - probabilities, means, numbers)

    def parts(self) -> dict[str, torch.Tensor]:
        """Return what `restore_abstention` makes it from again."""
        return {name: torch.from_numpy(np.array(value, order="C")) for name, value in asdict(self).items()}


def extractor_of(network: nn.Module) -> nn.Module:
    """Return what gives the features that a classifier judges by."""
    return network.extractor if isinstance(network, Head) else Penultimate(network)


def unit(features: np.ndarray) -> np.ndarray:
    """Return features (N, D) scaled to unit length, float64."""
    features = features.astype(np.float64)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def restore_abstention(parts: Mapping[str, Any], classes: int) -> Abstention:
    """Return what `Abstention.parts` described.

    Raises:
        ValueError: its tensors do not belong together.
    """
    values = {name: parts[name].numpy() for name in Abstention.__dataclass_fields__}
    found = Abstention(**values)
    width, count = found.means.shape[1], len(found.patients)
    expected: dict[str, tuple[int, ...]] = {"means": (classes, width), "scale": ()}
    expected["directions"] = (len(found.directions), width)
    expected |= dict.fromkeys(("distances", "scores", "patients"), (count,))
    wrong = [name for name, value in values.items() if value.shape != expected[name] or not np.isfinite(value).all()]
    if wrong or not count:
        raise ValueError(f"abstention: {wrong or 'no validation image'}: not finite, or of another shape than expected")
    return found


def nearest(gaussians: ClassGaussians, features: np.ndarray) -> np.ndarray:
    """Return the squared distances (N,) of features (N, D) to the nearest class."""
    return gaussians.distances(features).min(axis=1)
