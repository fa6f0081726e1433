"""Conformal p-values: thresholds that mean something without tuning, from examples that were left out of training.

`cross_conformal` is class-wise (Mondrian) cross-conformal prediction, Vovk 2015, "Cross-conformal predictors". If an
image with target label y were exchangeable with the real images of class y, its p-value would be at most alpha with a
probability of about alpha: keeping p >= alpha loses at most about a share alpha of the right images (less where the
folds' networks disagree by chance: an image has to look strange to several of them).

`grouped_p_values` is split conformal prediction where examples come in groups, such as the images of a patient: the
groups, not the examples, are exchangeable (Lee, Barber and Willett 2023, "Distribution-free inference with hierarchical
data").
"""

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


def shares(groups: np.ndarray) -> np.ndarray:
    """Return (N,) float64 weights of examples by their group, (N,) int: each group weighs 1."""
    _, place, counts = np.unique(groups, return_inverse=True, return_counts=True)
    return 1 / counts[place]


def grouped_p_values(scores: np.ndarray, known: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return p-values of new examples of a new group.

    Args:
        scores: float of any shape, how strange each new example is.
        known: (M,) float, how strange each left-out example is.
        groups: (M,) int, the group of each; G groups.

    Returns:
        float64 of the shape of `scores`, in 1 / (G + 1) to 1; at most alpha with a probability of at most alpha.
    """
    order = np.argsort(known, kind="stable")
    weights = np.append(np.cumsum(shares(groups)[order][::-1])[::-1], 0.0)
    return (weights[np.searchsorted(known[order], scores, side="left")] + 1) / (len(np.unique(groups)) + 1)


def grouped_threshold(known: np.ndarray, groups: np.ndarray, alpha: float) -> float:
    """Return what at most a share `alpha` of the examples of a new group exceeds; the largest known where groups lack.

    Args:
        known: (M,) float, of left-out examples.
        groups: (M,) int, the group of each; G groups. With fewer than 1 / alpha - 1, the share is 1 / (G + 1).
        alpha: 0 to 1.
    """
    order, number = np.argsort(known, kind="stable"), len(np.unique(groups))
    below = np.cumsum(shares(groups)[order])
    wanted = min((1 - alpha) * (number + 1), number) - 1e-9
    return float(known[order][np.searchsorted(below, wanted)])
