"""How far features lie from the classes: one Gaussian per class with a shared covariance (Lee et al. 2018)."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ClassGaussians:
    """Means of classes and one shrunk precision, ``scale * I - directions.T @ directions``.

    Few images span few directions, so what is kept grows with their number and not with the square of the features'.

    Attributes:
        means: (K, D) float; of a class without example, NaN.
        scale: () float, the precision where no image differed from its class.
        directions: (R, D) float, R at most the number of images and of features.
    """

    means: np.ndarray
    scale: np.ndarray
    directions: np.ndarray

    def distances(self, features: np.ndarray) -> np.ndarray:
        """Return squared Mahalanobis distances (N, K) float64 of features (N, D) (Lee et al. 2018, equation 2)."""
        features, directions = features.astype(np.float64), self.directions.astype(np.float64)
        each = (features - mean for mean in self.means)
        return np.stack(
            [float(self.scale) * (away**2).sum(axis=1) - ((away @ directions.T) ** 2).sum(axis=1) for away in each],
            axis=1,
        )


def fit_gaussians(features: np.ndarray, labels: np.ndarray) -> ClassGaussians:
    """Fit Gaussians to features (N, D) of labels (N,) int; the covariance is shrunk by Ledoit and Wolf (2004)."""
    from sklearn.covariance import ledoit_wolf_shrinkage

    features = features.astype(np.float64)
    means = np.full((int(labels.max()) + 1, features.shape[1]), np.nan)
    for label in np.unique(labels):
        means[label] = features[labels == label].mean(axis=0)
    away = features - means[labels]
    shrinkage = ledoit_wolf_shrinkage(away, assume_centered=True)
    variances, axes = _principal(away)
    floor = shrinkage * float((away**2).mean()) + 1e-9
    weights = 1 / floor - 1 / (floor + (1 - shrinkage) * variances)
    return ClassGaussians(means, np.array(1 / floor), np.sqrt(weights)[:, None] * axes)


def _principal(away: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return variances (R,) and principal axes (R, D) of centred rows (N, D), by the smaller of the two products."""
    count, width = away.shape
    values, vectors = np.linalg.eigh(away @ away.T if count < width else away.T @ away)
    kept = values > max(values.max(), 0) * 1e-12
    values, vectors = values[kept], vectors[:, kept]
    return values / count, (away.T @ vectors / np.sqrt(values)).T if count < width else vectors.T
