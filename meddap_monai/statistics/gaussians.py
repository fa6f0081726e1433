"""How far features lie from the classes: one Gaussian per class with a shared covariance (Lee et al. 2018)."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ClassGaussians:
    """Means of classes and one shrunk precision.

    Attributes:
        means: (K, D) float; of a class without example, NaN.
        precision: (D, D) float, the inverse of the covariance around the means.
    """

    means: np.ndarray
    precision: np.ndarray

    def distances(self, features: np.ndarray) -> np.ndarray:
        """Return squared Mahalanobis distances (N, K) float64 of features (N, D) (Lee et al. 2018, equation 2)."""
        features, precision = features.astype(np.float64), self.precision.astype(np.float64)
        each = (features - mean for mean in self.means)
        return np.stack([((away @ precision) * away).sum(axis=1) for away in each], axis=1)


def fit_gaussians(features: np.ndarray, labels: np.ndarray) -> ClassGaussians:
    """Fit Gaussians to features (N, D) of labels (N,) int; the covariance is shrunk by Ledoit and Wolf (2004)."""
    from sklearn.covariance import ledoit_wolf

    features = features.astype(np.float64)
    means = np.full((int(labels.max()) + 1, features.shape[1]), np.nan)
    for label in np.unique(labels):
        means[label] = features[labels == label].mean(axis=0)
    covariance = ledoit_wolf(features - means[labels], assume_centered=True)[0]
    return ClassGaussians(means, np.linalg.inv(covariance + 1e-9 * np.eye(len(covariance))))
