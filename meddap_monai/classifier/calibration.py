"""What a trained classifier must know to tell when it has no answer, measured on the images it learnt from."""

import numpy as np
from torch import nn

from meddap_monai.classifier.abstention import Abstention, extractor_of, nearest, unit
from meddap_monai.classifier.config import ClassifyConfig
from meddap_monai.classifier.features import extract
from meddap_monai.classifier.material import Material
from meddap_monai.classifier.scoring import single_pass_loader
from meddap_monai.core.records import Record
from meddap_monai.core.seeds import derive_seed
from meddap_monai.statistics.gaussians import ClassGaussians, fit_gaussians

MOST = 2_000
"""Training images that the Gaussians are fitted to; of more, these many are drawn."""


def fit_abstention(
    network: nn.Module, config: ClassifyConfig, material: Material, probabilities: np.ndarray
) -> Abstention:
    """Measure what `Abstention` holds.

    Args:
        network: the trained classifier.
        config: how it was trained.
        material: what it learnt from.
        probabilities: (V, K) calibrated, of the validation images.
    """
    rows = fitted_rows(material, config.seed)
    extractor = extractor_of(network)
    known, held_out = (
        unit(extract(extractor, single_pass_loader(each, config), config)) for each in (rows, material.validation)
    )
    gaussians = fit_gaussians(known, np.array([row["label"] for row in rows]))
    parts = gaussians.means, gaussians.scale, gaussians.directions
    gaussians = ClassGaussians(*(value.astype(np.float32) for value in parts))
    truth = np.array([row["label"] for row in material.validation])
    _, patients = np.unique([row["patient"] for row in material.validation], return_inverse=True)
    scores = 1 - probabilities[np.arange(len(truth)), truth]
    distances = nearest(gaussians, held_out)
    return Abstention(
        gaussians.means, gaussians.scale, gaussians.directions, distances, scores, patients.astype(np.int64)
    )


def fitted_rows(material: Material, seed: int) -> list[Record]:
    """Return the real training images, at most `MOST`; all where a class has no real one."""
    real = [row for row in material.training if row["source"] == "real"]
    rows = real if len({row["label"] for row in real}) == len(material.classes) else material.training
    if len(rows) <= MOST:
        return rows
    draw = np.random.default_rng(derive_seed(seed, "classify/abstention"))
    first = {row["label"]: place for place, row in reversed(list(enumerate(rows)))}
    drawn = draw.choice(len(rows), MOST - len(first), replace=False)
    return [rows[place] for place in sorted({*first.values(), *drawn.tolist()})]
