"""Rules that say whether to believe a synthetic image's label; all of one shape: evidence in, verdict out.

A verdict holds the scores that go into the records and which images the rule keeps. Rules are combined with "and".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np

from meddap_monai.core.constraints import Choice, Range, Share, here, settings
from meddap_monai.errors import ConfigurationError
from meddap_monai.statistics.conformal import cross_conformal
from meddap_monai.statistics.gaussians import fit_gaussians

if TYPE_CHECKING:
    from meddap_monai.selection.filtering.crossfit import FilterPredictions


@dataclass(frozen=True)
@settings("select#rules")
class RuleConfig:
    """Thresholds of the rules.

    Attributes:
        use: rules that an image must all pass, of `RULES`; the first one orders the images for a quota.
        threshold: least calibrated probability of the target label ("probability").
        argmax: whether the target must also be the most probable class ("probability").
        alpha: least class-wise p-value ("conformal"): at most about this share of right images is lost.
        agreement: least share of networks and views that vote for the target ("agreement").
        guard: least p-value of the distance to the real images of the class ("mahalanobis", "knn").
        neighbours: how many nearest real images count ("knn").
        quota: most images kept per class, the best first; None keeps all.
        fallback: where the filter cannot tell the classes apart, the share of each class that is kept, the best first,
            in place of all thresholds; None keeps to the thresholds.
    """

    use: tuple[Annotated[str, Choice(RULES)], ...] = ("conformal",)
    threshold: Share = 0.5
    argmax: bool = True
    alpha: Share = 0.12
    agreement: Share = 0.7
    guard: Share = 0.05
    neighbours: Annotated[int, Range(1, 1000)] = 5
    quota: Annotated[int, Range(1, 10**9)] | None = None
    fallback: Share | None = 0.5

    def __post_init__(self) -> None:
        """Check that no rule is named twice."""
        if len(set(self.use)) != len(self.use):
            raise ConfigurationError(f"{here('use')}: got {list(self.use)}, expected each rule once")


@dataclass(frozen=True)
class Evidence:
    """Everything a rule may look at; real images are training images only.

    Attributes:
        labels: (N,) int, target labels of the synthetic images.
        predicted: of the synthetic images.
        features: (K, N, D) float32 of unit length, per fold.
        real_labels: (M,) int.
        real_predicted: of the real images.
        real_features: (K, M, D) float32 of unit length, per fold.
        fold: (M,) int, the fold that left each real image out.
        temperature: fitted on the out-of-fold predictions.
    """

    labels: np.ndarray
    predicted: FilterPredictions
    features: np.ndarray
    real_labels: np.ndarray
    real_predicted: FilterPredictions
    real_features: np.ndarray
    fold: np.ndarray
    temperature: float

    def probabilities(self) -> np.ndarray:
        """Return (K, N, C) float64 calibrated probabilities of the synthetic images, per network."""
        from meddap_monai.classifier.scoring import softmax

        return np.stack(
            [softmax(logits / self.temperature) for logits in self.predicted.mean_logits.astype(np.float64)]
        )

    def real_probabilities(self) -> np.ndarray:
        """Return (M, C) float64 calibrated probabilities of the real images, out of fold."""
        from meddap_monai.classifier.scoring import softmax

        return softmax(self.real_predicted.out_of_fold(self.fold).astype(np.float64) / self.temperature)


@dataclass(frozen=True)
class Verdict:
    """What one rule says about N images.

    Attributes:
        scores: name -> (N,) float64; the one named like the rule is the one its threshold is about.
        keep: (N,) bool.
        order: (N,) float64, larger is better, for quotas.
    """

    scores: dict[str, np.ndarray]
    keep: np.ndarray
    order: np.ndarray


def by_probability(evidence: Evidence, config: RuleConfig) -> Verdict:
    """Keep what has a calibrated probability of the target label above the threshold (and as the largest)."""
    mean = evidence.probabilities().mean(axis=0)
    target = mean[np.arange(len(mean)), evidence.labels]
    keep = target >= config.threshold
    if config.argmax:
        keep &= mean.argmax(axis=1) == evidence.labels
    return Verdict({"probability": target}, keep, target)


def by_conformal(evidence: Evidence, config: RuleConfig) -> Verdict:
    """Keep what is not among the strangest alpha of its class, judged by 1 - probability of the label."""
    rows = np.arange(len(evidence.labels))
    strange = 1 - evidence.probabilities()[:, rows, evidence.labels]
    real = evidence.real_probabilities()
    real_strange = 1 - real[np.arange(len(real)), evidence.real_labels]
    values = cross_conformal(strange, evidence.labels, real_strange, evidence.real_labels, evidence.fold)
    return Verdict({"conformal": values}, values >= config.alpha, values - strange.mean(axis=0) * 1e-3)


def by_centroid(evidence: Evidence, _: RuleConfig) -> Verdict:
    """Keep what lies nearest to its own class centroid among all (HistoDiffusion, Ye et al. 2023, section 2.3).

    Features and centroids are of unit length; distances are averaged over the folds. The margin to the best other
    class is the rule's score, the similarity to the own centroid its order.
    """
    classes = int(evidence.predicted.logits.shape[-1])
    similarity = np.zeros((len(evidence.labels), classes))
    for number in range(len(evidence.features)):
        similarity += evidence.features[number] @ _centroids(evidence, number, classes).T / len(evidence.features)
    rows = np.arange(len(evidence.labels))
    own = similarity[rows, evidence.labels]
    others = similarity.copy()
    others[rows, evidence.labels] = -1.0  # no cosine is less; a class without others keeps a finite margin
    margin = own - others.max(axis=1)
    return Verdict({"centroid": margin, "centroid_similarity": own}, margin > 0, own)


def _centroids(evidence: Evidence, number: int, classes: int) -> np.ndarray:
    """(C, D) unit-length class means of the real features of one fold's network; absent classes are far away."""
    rows = []
    for label in range(classes):
        own = evidence.real_features[number][evidence.real_labels == label]
        mean = own.mean(axis=0) if len(own) else np.zeros(evidence.real_features.shape[-1])
        rows.append(mean / max(float(np.linalg.norm(mean)), 1e-12) if len(own) else mean)
    return np.stack(rows)


def by_agreement(evidence: Evidence, config: RuleConfig) -> Verdict:
    """Keep what enough networks, in enough augmented views, call by its target label."""
    votes = evidence.predicted.logits.argmax(axis=-1) == evidence.labels
    share = votes.mean(axis=(0, 1))
    return Verdict({"agreement": share}, share >= config.agreement, share)


def by_mahalanobis(evidence: Evidence, config: RuleConfig) -> Verdict:
    """Keep what is not further from its class than nearly all real images are (Lee et al. 2018, equation 2).

    The Gaussian of each class, with one shrunk covariance (Ledoit and Wolf), is fitted to the images a network was
    trained on; the images it left out say what distance is usual.
    """

    def distances(known: np.ndarray, labels: np.ndarray, asked: np.ndarray, targets: np.ndarray) -> np.ndarray:
        found = fit_gaussians(known, labels).distances(asked)
        return found[np.arange(len(asked)), targets]

    return _guard("mahalanobis", distances, evidence, config)


def by_neighbours(evidence: Evidence, config: RuleConfig) -> Verdict:
    """Keep what is not further from its nearest real images of the class than nearly all real images are."""

    def distances(known: np.ndarray, labels: np.ndarray, asked: np.ndarray, targets: np.ndarray) -> np.ndarray:
        found = np.empty(len(asked))
        for label in np.unique(targets):
            similarity = asked[targets == label] @ known[labels == label].T
            count = min(config.neighbours, similarity.shape[1])
            found[targets == label] = 1 - np.sort(similarity, axis=1)[:, -count:].mean(axis=1)
        return found

    return _guard("knn", distances, evidence, config)


def _guard(name: str, distances: Callable[..., np.ndarray], evidence: Evidence, config: RuleConfig) -> Verdict:
    """Turn distances to the class, per fold, into p-values against the real images each network left out."""
    folds = len(evidence.features)
    asked = np.empty((folds, len(evidence.labels)))
    real = np.empty(len(evidence.fold))
    for number in range(folds):
        out = evidence.fold == number
        known, labels = evidence.real_features[number][~out].astype(np.float64), evidence.real_labels[~out]
        asked[number] = distances(known, labels, evidence.features[number].astype(np.float64), evidence.labels)
        held_out = evidence.real_features[number][out].astype(np.float64)
        real[out] = distances(known, labels, held_out, evidence.real_labels[out])
    values = cross_conformal(asked, evidence.labels, real, evidence.real_labels, evidence.fold)
    return Verdict({name: values}, values >= config.guard, -asked.mean(axis=0))


@dataclass(frozen=True)
class Rule:
    """A rule of selection.

    Attributes:
        judge: evidence -> verdict.
        threshold: field of `RuleConfig` to lower when the rule keeps too little; empty where there is none.
    """

    judge: Callable[[Evidence, RuleConfig], Verdict]
    threshold: str = ""


RULES = {
    "probability": Rule(by_probability, "threshold"),
    "conformal": Rule(by_conformal, "alpha"),
    "centroid": Rule(by_centroid),
    "agreement": Rule(by_agreement, "agreement"),
    "mahalanobis": Rule(by_mahalanobis, "guard"),
    "knn": Rule(by_neighbours, "guard"),
}
"""Name in the configuration -> rule."""


def within_quota(
    order: np.ndarray, keep: np.ndarray, labels: np.ndarray, quota: int | None, share: float = 1.0
) -> np.ndarray:
    """Return (N,) bool: the best kept images of each class (earlier images win ties).

    Args:
        order: (N,) float, larger is better.
        keep: (N,) bool, what may be chosen.
        labels: (N,) int.
        quota: most images per class; None does not limit them.
        share: most of all images of a class, rounded up.
    """
    chosen = np.zeros(len(keep), bool)
    for label in np.unique(labels):
        most = math.ceil(share * int((labels == label).sum()))
        rows = np.flatnonzero(keep & (labels == label))
        chosen[rows[np.argsort(-order[rows], kind="stable")][: most if quota is None else min(quota, most)]] = True
    return chosen
