"""How far two sets of feature vectors lie apart: Frechet and kernel distance, precision, recall, density, coverage."""

from collections.abc import Sequence

import numpy as np
import torch

from meddap_monai.core.seeds import derive_seed

NEIGHBOURS, DENSITY_NEIGHBOURS = 3, 5
SHARES, DRAWS = (0.5, 0.6, 0.75, 1.0), 4
"""Of a set, and how often each is drawn, for the limit of the Frechet distance."""
SUBSETS, SUBSET_SIZE = 50, 100


def frechet_distance(features: np.ndarray, reference: np.ndarray) -> float:
    """Return the Frechet distance of Gaussians of features ``(N, D)`` and ``(M, D)``; NaN below two images.

    The trace of the root of the product of covariances is the sum of the singular values of A Bᵀ, with A and B the
    centred features over the root of their degrees of freedom: exact, also where images are fewer than features.
    """
    if min(len(features), len(reference)) < 2:
        return float("nan")
    roots, means, traces = [], [], 0.0
    for values in (features.astype(np.float64), reference.astype(np.float64)):
        means.append(values.mean(axis=0))
        root = (values - means[-1]) / np.sqrt(len(values) - 1)
        traces += float((root**2).sum())
        roots.append(root if len(root) <= root.shape[1] else np.asarray(np.linalg.qr(root, mode="r")))
    shared = float(np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum())
    return max(0.0, float(((means[0] - means[1]) ** 2).sum()) + traces - 2 * shared)


def frechet_limit(
    features: np.ndarray, reference: np.ndarray, units: Sequence[str], reference_units: Sequence[str], seed: int
) -> float:
    """Return the Frechet distance extrapolated to infinitely many images (Chong and Forsyth, CVPR 2020).

    It is measured on shares of both sets, drawn by whole units; a line over the inverse share leads to zero. Where
    images are far fewer than features the line bends, and a rest of the bias stays.

    Args:
        features: ``(N, D)``.
        reference: ``(M, D)``.
        units: as in `kernel_distance`.
        reference_units: likewise.
        seed: of the evaluation.

    Returns:
        The limit; it can be below zero. NaN below eight images in a set.
    """
    if min(len(features), len(reference)) < 8:
        return float("nan")
    rng = np.random.default_rng(derive_seed(seed, "evaluate/fid"))
    names, others = np.asarray(units), np.asarray(reference_units)
    inverse, values = [], []
    for share in SHARES:
        for _ in range(1 if share == 1 else DRAWS):
            one = _subset(names, round(share * len(names)), rng)
            other = _subset(others, round(share * len(others)), rng)
            inverse.append(1 / share)
            values.append(frechet_distance(features[one], reference[other]))
    return float(np.polyfit(inverse, values, 1)[1])


def kernel_distance(
    features: np.ndarray,
    reference: np.ndarray,
    units: Sequence[str] | None = None,
    reference_units: Sequence[str] | None = None,
) -> float:
    """Return the unbiased KID: squared MMD with the kernel ``(x.y / D + 1) ** 3``; can be below zero.

    Pairs of one unit are left out within a set, as an image's pair with itself is: they are nearer than others, and
    with them two sets of one population would seem to differ.

    Args:
        features: ``(N, D)``.
        reference: ``(M, D)``.
        units: what belongs together in `features`: the patient of a real image, the id of a synthetic one; by default
            each image is its own.
        reference_units: the same for `reference`.

    Returns:
        The distance; NaN when a set has fewer than two units.
    """
    x, y = features.astype(np.float64), reference.astype(np.float64)

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def inside(a: np.ndarray, names: Sequence[str] | None) -> float:
        place = np.arange(len(a)) if names is None else np.unique(np.asarray(names), return_inverse=True)[1]
        apart = place[:, None] != place[None]
        return float((kernel(a, a) * apart).sum() / apart.sum()) if apart.any() else float("nan")

    return inside(x, units) + inside(y, reference_units) - 2 * float(kernel(x, y).mean())


def kernel_interval(
    features: np.ndarray, reference: np.ndarray, units: Sequence[str], reference_units: Sequence[str], seed: int
) -> tuple[float, float]:
    """Return the 2.5th and 97.5th percentile of KID over random subsets, drawn by whole units.

    A random half varies about its whole as the whole does about its population (delete-half jackknife, Shao and Wu
    1989). Above 200 images the subsets are smaller than a half, and the interval is wider than it need be.

    Args:
        features: ``(N, D)``.
        reference: ``(M, D)``.
        units: as in `kernel_distance`.
        reference_units: likewise.
        seed: of the evaluation.
    """
    rng = np.random.default_rng(derive_seed(seed, "evaluate/kid"))
    size = min(SUBSET_SIZE, max(2, len(features) // 2), max(2, len(reference) // 2))
    names, reference_names = np.asarray(units), np.asarray(reference_units)
    values = []
    for _ in range(SUBSETS):
        one, other = _subset(names, size, rng), _subset(reference_names, size, rng)
        values.append(kernel_distance(features[one], reference[other], names[one], reference_names[other]))
    found = [value for value in values if np.isfinite(value)]
    return (float(np.quantile(found, 0.025)), float(np.quantile(found, 0.975))) if found else (float("nan"),) * 2


def _subset(units: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Places of `size` images of randomly ordered units; only the last unit can be cut."""
    names, place = np.unique(units, return_inverse=True)
    return np.argsort(rng.permutation(len(names))[place], kind="stable")[:size]


def precision_recall(features: np.ndarray, reference: np.ndarray, neighbours: int = NEIGHBOURS) -> tuple[float, float]:
    """Return improved precision and recall; NaN for sets not larger than `neighbours`."""
    if min(len(features), len(reference)) <= neighbours:
        return float("nan"), float("nan")
    return _covered(features, reference, neighbours), _covered(reference, features, neighbours)


def _covered(points: np.ndarray, manifold: np.ndarray, neighbours: int) -> float:
    """Share of points within the k-th neighbour's radius of some point of the manifold."""
    return float(_inside(points, manifold, neighbours).any(axis=1).mean())


def _inside(points: np.ndarray, manifold: np.ndarray, neighbours: int) -> np.ndarray:
    """``(N, M)`` bool: point within the radius of a point of the manifold, which is that of its k-th neighbour."""
    among = torch.cdist(torch.from_numpy(manifold).double(), torch.from_numpy(manifold).double())
    radius = among.kthvalue(neighbours + 1, dim=1).values
    distance = torch.cdist(torch.from_numpy(points).double(), torch.from_numpy(manifold).double())
    return (distance <= radius[None]).numpy()


def density_coverage(
    features: np.ndarray, reference: np.ndarray, neighbours: int = DENSITY_NEIGHBOURS
) -> tuple[float, float, float]:
    """Return density and coverage (Naeem et al., ICML 2020), and the coverage expected of equal distributions.

    Density counts in how many reference balls (radius: the k-th neighbour) an image lies, over k; it is 1 for equal
    distributions. Coverage is the share of reference balls that hold an image of the set.

    Args:
        features: ``(N, D)`` of the set.
        reference: ``(M, D)``.
        neighbours: k.

    Returns:
        Density, coverage and the expected coverage; NaN for sets not larger than k.
    """
    count, known = len(features), len(reference)
    if min(count, known) <= neighbours:
        return float("nan"), float("nan"), float("nan")
    inside = _inside(features, reference, neighbours)
    places = np.arange(1, neighbours + 1)
    expected = 1 - float(np.prod((known - places) / (known + count - places)))
    return float(inside.sum()) / (neighbours * count), float(inside.any(axis=0).mean()), expected
