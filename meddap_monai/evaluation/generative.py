"""How synthetic images differ from real ones: FID, KID, precision, recall, diversity; the extractor is always named.

None of these decides whether synthetic images help a classifier; the arms do. Small sets bias FID upwards, so every row
stands beside the same measure between two sets of real images.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from monai.metrics import FIDMetric, MultiScaleSSIMMetric

from meddap_monai.classifier.data import to_float
from meddap_monai.classifier.features import extract
from meddap_monai.classifier.scoring import Classifier, in_batches
from meddap_monai.core.records import Record
from meddap_monai.core.seeds import derive_seed
from meddap_monai.encoders.features import Penultimate
from meddap_monai.encoders.places import without_place

NEIGHBOURS = 3
SUBSETS, SUBSET_SIZE = 50, 100


@dataclass(frozen=True)
class SetDistance:
    """Distance of one set of images to reference images in the features of a named extractor.

    Attributes:
        name: which set.
        images: in it.
        reference_images: it is compared with.
        fid: Frechet distance of Gaussians (Heusel et al. 2017), MONAI's `FIDMetric`.
        kid: unbiased squared maximum mean discrepancy, cubic kernel (Binkowski et al. 2018).
        kid_low: 2.5th percentile over random subsets, see `kernel_interval`.
        kid_high: 97.5th percentile.
        precision: share of the set inside the reference's manifold (Kynkaanniemi et al. 2019, k = 3).
        recall: share of the reference inside the set's manifold.
        ms_ssim: mean MS-SSIM of random pairs of the set; lower is more diverse.
        agreement: share whose intended label the classifier gives (real-trained, tested on this set).
    """

    name: str
    images: int
    reference_images: int
    fid: float
    kid: float
    kid_low: float
    kid_high: float
    precision: float
    recall: float
    ms_ssim: float
    agreement: float


def frechet_distance(features: np.ndarray, reference: np.ndarray) -> float:
    """Return MONAI's FID of features ``(N, D)`` against ``(M, D)``; NaN below two images."""
    if min(len(features), len(reference)) < 2:
        return float("nan")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fewer images than features make a singular product, which is expected here
        value = float(FIDMetric()(torch.from_numpy(features).double(), torch.from_numpy(reference).double()))
    return max(0.0, value)


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


def _units(records: Sequence[Record]) -> list[str]:
    return [row["id"] if row["source"] == "synthetic" else row["patient"] for row in records]


def precision_recall(features: np.ndarray, reference: np.ndarray, neighbours: int = NEIGHBOURS) -> tuple[float, float]:
    """Return improved precision and recall; NaN for sets not larger than `neighbours`."""
    if min(len(features), len(reference)) <= neighbours:
        return float("nan"), float("nan")
    return _covered(features, reference, neighbours), _covered(reference, features, neighbours)


def _covered(points: np.ndarray, manifold: np.ndarray, neighbours: int) -> float:
    """Share of points within the k-th neighbour's radius of some point of the manifold."""
    among = torch.cdist(torch.from_numpy(manifold).double(), torch.from_numpy(manifold).double())
    radius = among.kthvalue(neighbours + 1, dim=1).values
    distance = torch.cdist(torch.from_numpy(points).double(), torch.from_numpy(manifold).double())
    return float((distance <= radius[None]).any(dim=1).double().mean())


def diversity(images: torch.Tensor, seed: int, pairs: int = 200) -> float:
    """Return the mean MS-SSIM of random pairs of images ``(N, C, H, W)`` float in 0..1; NaN below two images."""
    if len(images) < 2:
        return float("nan")
    rng = np.random.default_rng(derive_seed(seed, "evaluate/ms-ssim"))
    first = rng.integers(len(images), size=pairs)
    second = (first + rng.integers(1, len(images), size=pairs)) % len(images)
    scales = 5 if images.shape[-1] >= 176 else 3
    weights = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)[:scales]
    metric = MultiScaleSSIMMetric(2, kernel_size=11 if scales == 5 else 4, weights=[w / sum(weights) for w in weights])
    return float(torch.as_tensor(metric(images[first], images[second])).mean())


def set_distances(
    model: Classifier, sets: dict[str, Sequence[Record]], reference: Sequence[Record], seed: int
) -> list[dict[str, object]]:
    """Measure sets of records against reference records in the features of a classifier.

    Args:
        model: its penultimate layer is the extractor.
        sets: name -> records.
        reference: real records that the classifier has not seen.
        seed: of subsets and pairs.

    Returns:
        One `SetDistance` per set of at least two images, as a dictionary.
    """
    target = features_of(model, model.pixels(reference))
    rows = []
    for name, records in sets.items():
        if len(records) < 2:
            continue
        pixels = model.pixels(records)
        found = features_of(model, pixels)
        low, high = kernel_interval(found, target, _units(records), _units(reference), seed)
        precision, recall = precision_recall(found, target)
        chosen = model.logits_of_pixels(pixels).argmax(axis=1)
        rows.append(
            asdict(
                SetDistance(
                    name=name,
                    images=len(records),
                    reference_images=len(reference),
                    fid=frechet_distance(found, target),
                    kid=kernel_distance(found, target, _units(records), _units(reference)),
                    kid_low=low,
                    kid_high=high,
                    precision=precision,
                    recall=recall,
                    ms_ssim=diversity(to_float(pixels), seed),
                    agreement=float(
                        np.mean([model.classes[c] == r["class_name"] for c, r in zip(chosen, records, strict=True)])
                    ),
                )
            )
        )
    return rows


def features_of(model: Classifier, pixels: torch.Tensor) -> np.ndarray:
    """Return ``(N, D)`` float32: what the classifier's network hands to its last linear layer, per decoded image.

    Args:
        model: the classifier.
        pixels: ``(N, C, size, size)`` uint8, from `Classifier.pixels`.
    """
    return extract(Penultimate(model.network), in_batches(pixels), model.config)


def half_by_group(records: Sequence[Record]) -> tuple[list[Record], list[Record]]:
    """Split records into two halves of different patients, in the order of their pseudonyms."""
    groups = sorted({row["patient"] for row in records})
    first = set(groups[::2])
    return [row for row in records if row["patient"] in first], [row for row in records if row["patient"] not in first]


def measure(
    model: Classifier, name: str, test: Sequence[Record], synthetic: dict[str, Sequence[Record]], seed: int
) -> dict[str, object] | None:
    """Return the table of a report: sets of synthetic images and real ones against other patients' real test images.

    Args:
        model: extractor, trained on real images only; None of `test` was among them.
        name: of the run it comes from.
        test: real test records.
        synthetic: name -> synthetic records.
        seed: of the evaluation.
    """
    reference, other = half_by_group(test)
    if min(len(reference), len(other)) < 2:
        return None
    sets = {"real images of other patients": other} | synthetic
    extractor = (
        f"input of the last layer of {without_place(model.config.encoder)} ({name}), {model.config.resolution} px"
    )
    return {"extractor": extractor, "rows": set_distances(model, sets, reference, seed)}
