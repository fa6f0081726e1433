"""What a scorer answers is what the scikit-learn model answers that it was made from."""

import itertools
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.utils.class_weight import compute_sample_weight

from meddap_monai.classifier.config import ClassifyConfig
from meddap_monai.classifier.fitting import fit_scorer
from meddap_monai.classifier.scorers import restore_scorer
from meddap_monai.core.seeds import derive_seed

SEED = derive_seed(0, "classify/head") % 2**32


def material(classes: int, count: int = 60, width: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Features of classes that overlap, the later classes rarer."""
    rng = np.random.default_rng(classes)
    labels = np.concatenate([np.arange(classes), rng.choice(classes, count - classes, p=_shares(classes))])
    centres = rng.normal(size=(classes, width))
    return (centres[labels] + 1.5 * rng.normal(size=(count, width))).astype(np.float32), labels


def _shares(classes: int) -> np.ndarray:
    shares = np.arange(classes, 0, -1, dtype=float)
    return shares / shares.sum()


def reference(head: str, features: np.ndarray, labels: np.ndarray, asked: np.ndarray, weighting: str) -> np.ndarray:
    """Probabilities by scikit-learn itself, in its own words."""
    balanced = "balanced" if weighting == "balanced" else None
    samples = {"sample_weight": compute_sample_weight("balanced", labels)} if balanced else {}
    model: Any
    if head == "logistic":
        one = LogisticRegression(
            C=10, l1_ratio=0.5, solver="saga", max_iter=300, class_weight=balanced, random_state=SEED
        )
        model = (OneVsRestClassifier(one) if labels.max() > 1 else one).fit(features, labels)
    elif head == "ridge":
        model = LogisticRegression(C=0.001, max_iter=2000, class_weight=balanced).fit(features, labels)
    elif head == "mlp":
        model = MLPClassifier((256,) * 4, alpha=0.02, batch_size=min(64, len(labels)), max_iter=300, random_state=SEED)
        model.fit(features, labels, **samples)
    elif head == "boosting":
        model = GradientBoostingClassifier(max_features="sqrt", random_state=SEED).fit(features, labels, **samples)
    else:
        model = SVC(C=10, max_iter=1000, tol=0.01, class_weight=balanced).fit(features, labels)
        votes = model.decision_function(asked)
        votes = np.stack([-votes, votes], axis=1) if votes.ndim == 1 else votes
        return np.exp(votes) / np.exp(votes).sum(axis=1, keepdims=True)
    return model.predict_proba(asked)


CASES = [
    *itertools.product(["logistic", "ridge", "svc", "boosting"], [2, 3, 5], ["none"]),
    *itertools.product(["logistic", "ridge", "svc", "boosting"], [2, 3], ["balanced"]),
    ("mlp", 2, "balanced"),
    ("mlp", 3, "none"),
]


@pytest.mark.parametrize(("head", "classes", "weighting"), CASES)
def test_a_scorer_is_equal_to_scikit_learn(head: str, classes: int, weighting: str) -> None:
    features, labels = material(classes)
    asked = np.concatenate([features, np.random.default_rng(1).normal(scale=3, size=(40, 12)).astype(np.float32)])
    config = ClassifyConfig(mode="probe", head=head, class_weights=weighting)
    scorer, _ = fit_scorer(head, config, features, labels, np.ones(len(labels)))
    again = restore_scorer(head, {key: value.clone() for key, value in scorer.state_dict().items()}, classes)
    scaler = StandardScaler().fit(features.astype(np.float64))
    standard = scaler.transform(features.astype(np.float64)), scaler.transform(asked.astype(np.float64))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = reference(head, standard[0], labels, standard[1], weighting)
    found = again(torch.from_numpy(asked)).exp().numpy()
    assert np.abs(found - wanted).max() < 1e-9
    assert (found.argmax(axis=1) == wanted.argmax(axis=1)).all()


@pytest.mark.parametrize("head", ["logistic", "svc", "mlp", "boosting"])
def test_a_class_of_more_weight_is_expected_more_often(head: str) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    features = (np.eye(3)[labels] + rng.normal(size=(90, 3))).astype(np.float32)
    asked = torch.from_numpy(rng.normal(size=(300, 3)).astype(np.float32))
    plain, weighted = (
        fit_scorer(head, ClassifyConfig(head=head), features, labels, np.where(labels == 2, factor, 1.0))[0](asked)
        for factor in (1.0, 4.0)
    )
    assert weighted.exp()[:, 2].mean() > plain.exp()[:, 2].mean() + 0.05


@pytest.mark.filterwarnings("error")
def test_a_fit_that_reached_its_limit_is_told_from_one_that_converged() -> None:
    features, labels = material(2, count=40)
    wide = np.concatenate([features * 1e3, np.random.default_rng(0).normal(size=(40, 400)).astype(np.float32)], axis=1)
    ones = np.ones(len(labels))
    assert not fit_scorer("logistic", ClassifyConfig(head="logistic"), wide, labels, ones)[1]
    assert fit_scorer("svc", ClassifyConfig(head="svc"), features, labels, ones)[1]
    assert fit_scorer("boosting", ClassifyConfig(head="boosting"), features, labels, ones)[1]


def test_tensors_that_make_no_head_are_refused() -> None:
    features, labels = material(3)
    scorer, _ = fit_scorer("boosting", ClassifyConfig(head="boosting"), features, labels, np.ones(len(labels)))
    tensors = dict(scorer.state_dict())
    with pytest.raises(ValueError, match=r"answers with shape \(1, 3\), expected \(1, 4\)"):
        restore_scorer("boosting", tensors, 4)
    with pytest.raises((ValueError, RuntimeError, IndexError)):
        restore_scorer("boosting", tensors | {"feature": torch.full_like(tensors["feature"], 12)}, 3)
