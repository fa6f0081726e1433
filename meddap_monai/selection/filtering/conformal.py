"""Class-wise conformal p-values against out-of-fold real images: a threshold that means something without tuning.

If an image with target label y were exchangeable with the real images of class y, its p-value would be at most alpha
with a probability of about alpha: keeping p >= alpha loses at most about a share alpha of the right images (less where
the folds' networks disagree by chance: an image has to look strange to several of them). Mondrian (class-wise)
cross-conformal prediction: Vovk 2015, "Cross-conformal predictors", one class at a time.
"""

from __future__ import annotations

import numpy as np


def cross_conformal(
    scores: np.ndarray, labels: np.ndarray, real_scores: np.ndarray, real_labels: np.ndarray, fold: np.ndarray
) -> np.ndarray:
    """Return p-values.

    Args:
        scores: (K, N) float, how strange each image is for its target label, according to the network of each fold.
        labels: (N,) int target labels.
        real_scores: (M,) float, how strange each real image is for its own label, according to the network that
            left it out.
        real_labels: (M,) int.
        fold: (M,) int, the fold of each real image.

    Returns:
        (N,) float64 in 1 / (m + 1) to 1, with m real images of the class: the share of them (the image itself
        included) that are at least as strange.
    """
    stranger = np.zeros(scores.shape[1])
    totals = np.zeros(scores.shape[1])
    for label in np.unique(labels):
        own = labels == label
        totals[own] = (real_labels == label).sum()
        for number in range(len(scores)):
            known = np.sort(real_scores[(real_labels == label) & (fold == number)])
            stranger[own] += len(known) - np.searchsorted(known, scores[number, own], side="left")
    return (stranger + 1) / (totals + 1)
