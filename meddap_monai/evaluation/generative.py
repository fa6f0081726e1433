"""How synthetic images differ from real ones: FID, KID, precision, recall, diversity; the extractor is always named.

None of these decides whether synthetic images help a classifier; the arms do. Small sets bias FID upwards, so every row
stands beside the same measure between two sets of real images.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from monai.metrics import MultiScaleSSIMMetric

from meddap_monai.classifier.data import to_float
from meddap_monai.classifier.features import extract
from meddap_monai.classifier.scoring import Classifier, in_batches
from meddap_monai.core.records import Record
from meddap_monai.core.seeds import derive_seed
from meddap_monai.encoders.extractors import Extractor, build_extractor
from meddap_monai.encoders.features import Penultimate
from meddap_monai.evaluation.likeness import (
    density_coverage,
    frechet_distance,
    frechet_limit,
    kernel_distance,
    kernel_interval,
    precision_recall,
)

CORRECTIONS = (
    "Small sets: FID grows as images get fewer; its limit is extrapolated to infinitely many (Chong and Forsyth 2020). "
    "KID is unbiased. Pairs of one patient's images are left out of KID and its interval. Coverage grows with the "
    "number of images; beside it stands what equal sets of these sizes would have. Density is 1 for equal sets."
)


@dataclass(frozen=True)
class SetDistance:
    """Distance of one set of images to reference images in the features of a named extractor.

    Attributes:
        name: which set.
        images: in it.
        reference_images: it is compared with.
        fid: Frechet distance of Gaussians (Heusel et al. 2017).
        fid_limit: extrapolated to infinitely many images, see `frechet_limit`.
        kid: unbiased squared maximum mean discrepancy, cubic kernel (Binkowski et al. 2018).
        kid_low: 2.5th percentile over random subsets, see `kernel_interval`.
        kid_high: 97.5th percentile.
        precision: share of the set inside the reference's manifold (Kynkaanniemi et al. 2019, k = 3).
        recall: share of the reference inside the set's manifold.
        density: see `density_coverage`, k = 5.
        coverage: share of the reference's neighbourhoods that hold an image of the set.
        coverage_expected: of as many images from the reference's own distribution.
        ms_ssim: mean MS-SSIM of random pairs of the set; lower is more diverse.
        agreement: share whose intended label the classifier gives (real-trained, tested on this set).
    """

    name: str
    images: int
    reference_images: int
    fid: float
    fid_limit: float
    kid: float
    kid_low: float
    kid_high: float
    precision: float
    recall: float
    density: float
    coverage: float
    coverage_expected: float
    ms_ssim: float
    agreement: float


def _units(records: Sequence[Record]) -> list[str]:
    return [row["id"] if row["source"] == "synthetic" else row["patient"] for row in records]


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
    model: Classifier, extractor: Extractor, sets: dict[str, Sequence[Record]], reference: Sequence[Record], seed: int
) -> list[dict[str, object]]:
    """Measure sets of records against reference records.

    Args:
        model: decodes the images, and judges their labels.
        extractor: whose features are compared.
        sets: name -> records.
        reference: real records that the classifier has not seen.
        seed: of subsets and pairs.

    Returns:
        One `SetDistance` per set of at least two images, as a dictionary.
    """
    target = extractor.extract(model.pixels(reference))[0]
    return [
        asdict(_distance(model, extractor, name, records, reference, target, seed))
        for name, records in sets.items()
        if len(records) >= 2
    ]


def _distance(
    model: Classifier,
    extractor: Extractor,
    name: str,
    records: Sequence[Record],
    reference: Sequence[Record],
    target: np.ndarray,
    seed: int,
) -> SetDistance:
    pixels = model.pixels(records)
    found = extractor.extract(pixels)[0]
    units = _units(records), _units(reference)
    low, high = kernel_interval(found, target, *units, seed)
    precision, recall = precision_recall(found, target)
    density, coverage, expected = density_coverage(found, target)
    chosen = model.logits_of_pixels(pixels).argmax(axis=1)
    return SetDistance(
        name=name,
        images=len(records),
        reference_images=len(reference),
        fid=frechet_distance(found, target),
        fid_limit=frechet_limit(found, target, *units, seed),
        kid=kernel_distance(found, target, *units),
        kid_low=low,
        kid_high=high,
        precision=precision,
        recall=recall,
        density=density,
        coverage=coverage,
        coverage_expected=expected,
        ms_ssim=diversity(to_float(pixels), seed),
        agreement=float(np.mean([model.classes[c] == r["class_name"] for c, r in zip(chosen, records, strict=True)])),
    )


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
    model: Classifier,
    features: str,
    test: Sequence[Record],
    synthetic: dict[str, Sequence[Record]],
    seed: int,
) -> dict[str, object] | None:
    """Return the table of a report: sets of synthetic images and real ones against other patients' real test images.

    Args:
        model: trained on real images only; None of `test` was among them.
        features: name of an extractor, see `build_extractor`.
        test: real test records.
        synthetic: name -> synthetic records.
        seed: of the evaluation.
    """
    reference, other = half_by_group(test)
    if min(len(reference), len(other)) < 2:
        return None
    config = model.config
    extractor = build_extractor(features, config.channels, config.resolution, config.device)
    sets = {"real images of other patients": other} | synthetic
    return {
        "extractor": f"{extractor.identity}, {config.resolution} px",
        "corrections": CORRECTIONS,
        "rows": set_distances(model, extractor, sets, reference, seed),
    }
