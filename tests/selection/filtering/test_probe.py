"""The probe: one frozen encoder for all folds, a linear head for each."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from meddap_monai.classifier.fitting import fit_scorer
from meddap_monai.encoders.extractors import build_extractor
from meddap_monai.selection.filtering.filter_config import FilterConfig
from meddap_monai.selection.filtering.frozen_features import extract_views
from meddap_monai.selection.filtering.probe import Probe, fit_probe

CONFIG = FilterConfig(resolution=32, folds=2)
LABELS = np.arange(24) % 3
FOLD = np.arange(24) // 12
RECORDS = [{"id": f"r{n}", "sha256": f"{n:064x}", "label": int(label)} for n, label in enumerate(LABELS)]


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Noise with a bright square whose side tells the class."""
    rng = np.random.default_rng(0)
    found = rng.integers(0, 90, (24, 1, 32, 32)).astype(np.uint8)
    for image, label in zip(found, LABELS, strict=True):
        image[:, 4 : 10 + 8 * label, 4 : 10 + 8 * label] += 120
    return found


def fit(images: np.ndarray, folder: Path | None = None, classes: int = 3, **changes: object) -> Probe:
    config = FilterConfig(**(vars(CONFIG) | changes))  # type: ignore[arg-type]
    return fit_probe(config, RECORDS, images, FOLD, classes, (1, 2), folder)


@pytest.mark.parametrize("features", ["levels", "last"])
def test_heads_judge_as_the_classifiers_own_head_does(images: np.ndarray, features: str) -> None:
    found = fit(images, features=features).predict(RECORDS, images)
    extractor = build_extractor("efficientnet_lite0", 1, 32, levels=features == "levels")
    seen = extract_views(extractor, RECORDS, images, 2)
    assert found.logits.shape == (2, 2, 24, 3)
    for number in range(2):
        rows = number != FOLD
        known, labels = np.concatenate(list(seen[:, rows])), np.tile(LABELS[rows], 2)
        scorer, _ = fit_scorer(CONFIG.head, CONFIG.settings(number + 1), known, labels, np.ones(len(labels)))
        for view in range(2):
            expected = scorer(torch.from_numpy(seen[view])).numpy()
            assert np.allclose(log_softmax(found.logits[number, view], axis=1), expected, atol=1e-4)


def test_what_was_left_out_is_recognised_and_all_folds_share_their_features(images: np.ndarray) -> None:
    found = fit(images).predict(RECORDS, images)
    assert (found.out_of_fold(FOLD).argmax(axis=1) == LABELS).mean() > 0.9
    assert found.features.shape[:2] == (2, 24)
    assert (found.features[0] == found.features[1]).all()
    assert found.joined.shape == found.features.shape[1:]
    assert np.linalg.norm(found.joined, axis=1) == pytest.approx(np.ones(24), abs=1e-5)


def test_an_interrupted_fit_goes_on_and_ends_alike(images: np.ndarray, tmp_path: Path) -> None:
    whole = fit(images, tmp_path).predict(RECORDS, images)
    kept = (tmp_path / "fold_0.safetensors").read_bytes()
    (tmp_path / "fold_1.safetensors").unlink()
    assert (fit(images, tmp_path).predict(RECORDS, images).logits == whole.logits).all()
    assert (tmp_path / "fold_0.safetensors").read_bytes() == kept


def test_a_class_without_images_is_never_named(images: np.ndarray) -> None:
    found = fit(images, classes=5).predict(RECORDS, images).mean_logits
    assert found.shape[-1] == 5
    assert (found.argmax(axis=-1) < 3).all()


def test_two_classes_have_two_logits(images: np.ndarray) -> None:
    records = [record | {"label": record["label"] // 2} for record in RECORDS]
    found = fit_probe(CONFIG, records, images, FOLD, 2, (1, 2)).predict(records, images)
    assert found.logits.shape[-1] == 2
    assert (found.out_of_fold(FOLD).argmax(axis=1) == LABELS // 2).mean() > 0.9
