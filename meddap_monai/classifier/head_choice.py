"""Which head? Each is judged on patients that its fit has not seen, within the training split only."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from meddap_monai.classifier.config import CANDIDATES, ClassifyConfig
from meddap_monai.classifier.fitting import fit_scorer
from meddap_monai.classifier.folds import assign_folds
from meddap_monai.classifier.scorers import RbfSvc, Scorer
from meddap_monai.classifier.scoring import fit_temperature
from meddap_monai.core.records import Record
from meddap_monai.statistics.metrics import all_metrics

FOLDS = 5


@dataclass(frozen=True)
class Examples:
    """What a head is fitted on.

    Attributes:
        features: ``(N, D)``.
        labels: ``(N,)`` int.
        weights: ``(N,)`` of the samples.
        rows: the N records, for their patients.
        views: how many of the last rows are an image of before, changed; they train, and are never judged.
    """

    features: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    rows: Sequence[Record]
    views: int = 0

    def judged(self) -> np.ndarray:
        """Return the places of the examples that are judged: real images as they are; without one, synthetic ones."""
        first = self.rows[: len(self.rows) - self.views]
        real = [place for place, row in enumerate(first) if row["source"] == "real"]
        return np.array(real or range(len(first)))

    def groups(self) -> np.ndarray:
        """Return ``(N,)`` whom an image is of; an image made from text is of nobody, and stands for itself."""
        return np.array([row["id"] if row["patient"] == "synthetic" else row["patient"] for row in self.rows])


class Fitter:
    """Fits heads of one configuration, and counts the fits that ended before they had converged.

    Args:
        config: head, seed, class weights.

    Attributes:
        fits: by name of the head.
        stopped: of these, those that reached their limit of iterations first.
    """

    def __init__(self, config: ClassifyConfig) -> None:
        self.config = config
        self.fits: Counter[str] = Counter()
        self.stopped: Counter[str] = Counter()

    def fit(self, head: str, examples: Examples) -> Scorer:
        """Return a head fitted on all examples; an SVC's votes become probabilities by patients left out.

        Raises:
            RecordsError: for ``svc``, a class has a single patient, so that none can be left out.
        """
        scorer = self._fit(head, examples, np.arange(len(examples.labels)))
        if isinstance(scorer, RbfSvc):
            temperature = fit_temperature(*self._left_out(head, examples))
            scorer.temperature = torch.tensor(temperature, dtype=torch.float64)
        return scorer

    def judge(self, head: str, examples: Examples) -> tuple[np.ndarray, np.ndarray]:
        """Return ``(M, K)`` log probabilities of the judged examples, each without its patient, and ``(M,)`` labels.

        Raises:
            RecordsError: a class has a single patient, so that none can be left out.
        """
        scores, labels = self._left_out(head, examples)
        if head == "svc":
            scaled = torch.from_numpy(scores / fit_temperature(scores, labels))
            scores = torch.log_softmax(scaled, dim=1).numpy()
        return scores, labels

    def _left_out(self, head: str, examples: Examples) -> tuple[np.ndarray, np.ndarray]:
        judged, group = examples.judged(), examples.groups()
        rows = [examples.rows[place] | {"patient": group[place]} for place in judged]
        folds = assign_folds(rows, FOLDS, self.config.seed)
        found = np.empty((len(judged), len(np.unique(examples.labels))))
        for fold in np.unique(folds):
            left_out = judged[folds == fold]
            scorer = self._fit(head, examples, np.flatnonzero(~np.isin(group, group[left_out])))
            with torch.inference_mode():
                found[folds == fold] = scorer(torch.from_numpy(examples.features[left_out])).numpy()
        return found, examples.labels[judged]

    def _fit(self, head: str, examples: Examples, places: np.ndarray) -> Scorer:
        parts = examples.features[places], examples.labels[places], examples.weights[places]
        scorer, converged = fit_scorer(head, self.config, *parts)
        self.fits[head] += 1
        self.stopped[head] += not converged
        return scorer


def compare_heads(fitter: Fitter, examples: Examples) -> dict[str, dict[str, float]]:
    """Return for every head the metrics of its out-of-fold answers: `all_metrics` and ``log_loss``, in nats.

    Raises:
        RecordsError: a class has a single patient, so that none can be left out.
    """
    table = {}
    for head in CANDIDATES:
        scores, labels = fitter.judge(head, examples)
        surprise = -float(scores[np.arange(len(labels)), labels].mean())
        table[head] = all_metrics(np.exp(scores), labels) | {"log_loss": surprise}
    return table


def best_head(table: dict[str, dict[str, float]]) -> str:
    """Return the head of the highest AUC, then of the lowest log loss, then the first."""
    return max(table, key=lambda head: (table[head]["auc"], -table[head]["log_loss"]))


def table_of_heads(table: dict[str, dict[str, Any]], chosen: str) -> str:
    """Return the comparison as a table in Markdown, the chosen head in bold."""
    shown = ("auc", "log_loss", "accuracy", "balanced_accuracy", "ece")
    lines = [f"| head | {' | '.join(shown)} |", "| --- " * (len(shown) + 1) + "|"]
    for head, values in table.items():
        name = f"**{head}**" if head == chosen else head
        lines.append(f"| {name} | {' | '.join(f'{values[key]:.3f}' for key in shown)} |")
    return "\n".join(lines)
