"""Fitting of classical heads: scikit-learn learns, a `Scorer` keeps what was learnt.

Published settings are those of the ORT thesis (Repetto and de Leon 2023).
"""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.utils.class_weight import compute_sample_weight

from meddap_monai.classifier.config import ClassifyConfig
from meddap_monai.classifier.scorers import SCORERS, Scorer
from meddap_monai.core.seeds import derive_seed

TREE_DEPTH = 3


def fit_scorer(
    head: str, config: ClassifyConfig, features: np.ndarray, labels: np.ndarray, weights: np.ndarray
) -> tuple[Scorer, bool]:
    """Fit a head; return it and whether it had converged, for a limit of iterations is part of published settings.

    Args:
        head: a name of `meddap_monai.classifier.config.CANDIDATES`.
        config: seed, class weights, and the encoder that the features are of.
        features: ``(N, D)``.
        labels: ``(N,)`` int, each of 0..K-1 at least once.
        weights: ``(N,)`` of the samples.
    """
    scaler = StandardScaler()
    standard = scaler.fit_transform(features.astype(np.float64))
    if config.class_weights == "balanced" and head in ("mlp", "boosting"):  # the others take it as their own setting
        weights = weights * compute_sample_weight("balanced", labels)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        learnt = FITS[head](build_model(head, config), standard, labels, weights)
    early = [each for each in caught if issubclass(each.category, ConvergenceWarning)]
    for each in caught:
        if each not in early:
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
    tensors = {"mean": scaler.mean_, "scale": scaler.scale_, **learnt}
    kept = {key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in tensors.items()}
    return SCORERS[head](**kept), not early


def build_model(head: str, config: ClassifyConfig) -> Any:
    """Return the unfitted scikit-learn model of a head, on standardised features.

    ``logistic``: elastic net, l1 ratio 0.5, saga, C 10, 300 iterations, one class against the rest; ``svc``: rbf, C 10,
    gamma scale, 1000 iterations, tolerance 0.01; ``mlp``: 4 x 256, ReLU, L2 0.02, Adam 1e-3, batch 64, 300 epochs.
    Ours are ``ridge``: multinomial, C 0.001 (0.01 on HOG features, the sanity arm); and ``boosting``: 100 rounds of
    trees of depth 3 at rate 0.1, each split among the root of the number of features (Friedman 2001, Breiman 2001).
    """
    seed = derive_seed(config.seed, "classify/head") % 2**32
    balanced = "balanced" if config.class_weights == "balanced" else None
    models: dict[str, Callable[[], Any]] = {
        "logistic": lambda: LogisticRegression(
            C=10, l1_ratio=0.5, solver="saga", max_iter=300, class_weight=balanced, random_state=seed
        ),
        "ridge": lambda: LogisticRegression(
            C=0.01 if config.encoder == "hog" else 0.001, max_iter=2000, class_weight=balanced
        ),
        "svc": lambda: SVC(C=10, kernel="rbf", gamma="scale", max_iter=1000, tol=0.01, class_weight=balanced),
        "mlp": lambda: MLPClassifier(
            (256,) * 4, alpha=0.02, learning_rate_init=1e-3, batch_size=64, max_iter=300, random_state=seed
        ),
        "boosting": lambda: GradientBoostingClassifier(
            n_estimators=100, learning_rate=0.1, max_depth=TREE_DEPTH, max_features="sqrt", random_state=seed
        ),
    }
    return models[head]()


Learnt = dict[str, Any]
"""Name -> array, as the `Scorer` takes it."""


def _fit_logistic(model: Any, features: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> Learnt:
    classes = np.unique(labels)
    found = []
    for label in classes if len(classes) > 2 else classes[1:]:
        truth = (labels == label).astype(int)
        model.fit(features, truth, sample_weight=weights)
        found.append((model.coef_[0].copy(), model.intercept_[0]))
    return {"coefficients": np.stack([row for row, _ in found]), "intercepts": np.array([value for _, value in found])}


def _fit_ridge(model: Any, features: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> Learnt:
    model.fit(features, labels, sample_weight=weights)
    rows, values = model.coef_, model.intercept_
    if len(values) == 1:  # the logit of the second class against a first one at 0
        rows, values = np.concatenate([np.zeros_like(rows), rows]), np.concatenate([[0.0], values])
    return {"coefficients": rows, "intercepts": values}


def _fit_svc(model: Any, features: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> Learnt:
    model.fit(features, labels, sample_weight=weights)
    classes = len(model.classes_)
    owner = np.repeat(np.arange(classes), model.n_support_)
    pairs = [(i, j) for i in range(classes) for j in range(i + 1, classes)]
    if classes == 2:  # scikit-learn turns the sign over, so that it means the second class
        rows, pairs = model.dual_coef_, [(1, 0)]
    else:
        rows = np.stack([(owner == i) * model.dual_coef_[j - 1] + (owner == j) * model.dual_coef_[i] for i, j in pairs])
    sides = np.zeros((len(pairs), classes))
    for pair, (first, second) in enumerate(pairs):
        sides[pair, first], sides[pair, second] = 1, -1
    spread = features.shape[1] * features.var()
    return {
        "support": model.support_vectors_,
        "weights": rows,
        "intercepts": model.intercept_,
        "gamma": np.array(1 / spread if spread else 1.0),  # what scikit-learn means by "scale"
        "sides": sides,
        "temperature": np.array(1.0),
    }


def _fit_mlp(model: Any, features: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> Learnt:
    model.set_params(batch_size=min(model.batch_size, len(labels)))
    model.fit(features, labels, sample_weight=weights)
    layers = [(rows.T, values) for rows, values in zip(model.coefs_, model.intercepts_, strict=True)]
    if len(model.classes_) == 2:  # the logit of the second class against a first one at 0
        rows, values = layers[-1]
        layers[-1] = np.concatenate([np.zeros_like(rows), rows]), np.concatenate([[0.0], values])
    found = {f"weight_{layer}": rows for layer, (rows, _) in enumerate(layers)}
    return found | {f"bias_{layer}": values for layer, (_, values) in enumerate(layers)}


def _fit_boosting(model: Any, features: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> Learnt:
    model.fit(features, labels, sample_weight=weights)
    prior = model.init_.class_prior_
    start = np.log(prior) if len(prior) > 2 else np.log(prior[1:] / prior[:1])
    full = [[_full_tree(tree.tree_) for tree in trees] for trees in model.estimators_]
    learnt = {name: np.array([[tree[name] for tree in trees] for trees in full]) for name in full[0][0]}
    return learnt | {"value": learnt["value"] * model.learning_rate, "start": start}


def _full_tree(tree: Any) -> dict[str, np.ndarray]:
    """Return a tree of scikit-learn as `Trees` stores it; below an early leaf both ways lead to its value."""
    inner = 2**TREE_DEPTH - 1
    feature, threshold, value = np.zeros(inner, np.int64), np.zeros(inner), np.zeros(inner + 1)

    def write(node: int, place: int) -> None:
        if place >= inner:
            value[place - inner] = tree.value[node, 0, 0]
            return
        left, right = tree.children_left[node], tree.children_right[node]
        if left < 0:
            left = right = node
        else:
            feature[place], threshold[place] = tree.feature[node], tree.threshold[node]
        write(left, 2 * place + 1)
        write(right, 2 * place + 2)

    write(0, 0)
    return {"feature": feature, "threshold": threshold, "value": value}


FITS: dict[str, Callable[[Any, np.ndarray, np.ndarray, np.ndarray], Learnt]] = {
    "logistic": _fit_logistic,
    "ridge": _fit_ridge,
    "svc": _fit_svc,
    "mlp": _fit_mlp,
    "boosting": _fit_boosting,
}
