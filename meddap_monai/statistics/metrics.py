"""Classification metrics of one set of predictions: scikit-learn's functions under the rules of this project.

A class that is absent from the test set stays in the arg max, where choosing it is an error; averages and the AUC go
over the classes that are present.
"""

import math

import numpy as np
from sklearn import metrics as sk

from meddap_monai.statistics.weighted import ECE_BINS, SPECIFICITY, confidence_bins


def macro_auc(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the one-against-rest AUC averaged over the classes present in `labels`; NaN for a single class.

    Args:
        probabilities: ``(N, K)`` scores.
        labels: ``(N,)`` int.
    """
    values = [class_auc(probabilities, labels, int(label)) for label in np.unique(labels)]
    return float(np.mean(values))


def class_auc(probabilities: np.ndarray, labels: np.ndarray, label: int) -> float:
    """Return the AUC of one class against the rest; NaN when only one side is present."""
    truth = labels == label
    if truth.all() or not truth.any():
        return math.nan
    return float(sk.roc_auc_score(truth, probabilities[:, label]))


def masked(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return ``(N, K)`` probabilities with absent classes at zero and the rest renormalised to sum 1."""
    kept = np.zeros(probabilities.shape[1], dtype=bool)
    kept[np.unique(labels)] = True
    left = np.where(kept, probabilities, 0.0)
    total = left.sum(axis=1, keepdims=True)
    return np.where(total > 0, left / np.where(total > 0, total, 1), kept / kept.sum())


def confusion(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the ``(K, K)`` confusion matrix, rows true, columns predicted."""
    classes = probabilities.shape[1]
    matrix: np.ndarray = sk.confusion_matrix(labels, probabilities.argmax(axis=1), labels=range(classes))
    return matrix


def brier(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the multi-class Brier score (Brier 1950), 0 to 2: mean squared distance to the one-hot truth."""
    truth = np.eye(probabilities.shape[1])[labels]
    return float(((probabilities - truth) ** 2).sum(axis=1).mean())


def calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = ECE_BINS) -> float:
    """Return the expected calibration error of the top class in equal bins (Guo et al. 2017), 0 to 1."""
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    place = confidence_bins(confidence, bins)
    gaps = [abs(right[place == b].sum() - confidence[place == b].sum()) for b in range(bins)]
    return float(sum(gaps) / len(labels))


def sensitivity_at(scores: np.ndarray, truth: np.ndarray, specificity: float = SPECIFICITY) -> float:
    """Return the largest sensitivity whose specificity is at least `specificity`; NaN when one side is absent."""
    if truth.all() or not truth.any():
        return math.nan
    false_positive, true_positive, _ = sk.roc_curve(truth, scores, drop_intermediate=False)
    return float(true_positive[false_positive <= 1 - specificity + 1e-12].max())


def all_metrics(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return every scalar metric of one prediction table.

    Keys: accuracy, balanced_accuracy, macro_f1, sensitivity, specificity, precision, auc, average_precision,
    sensitivity_at_90 (all macro over the classes present), brier, ece.
    """
    table = confusion(probabilities, labels)
    rows = per_class(probabilities, labels)
    present = [rows[label] for label in np.unique(labels)]

    def average(name: str) -> float:
        return float(np.mean([row[name] for row in present]))

    return {
        "accuracy": float(np.trace(table) / table.sum()),
        "balanced_accuracy": average("sensitivity"),
        "macro_f1": average("f1"),
        "sensitivity": average("sensitivity"),
        "specificity": average("specificity"),
        "precision": average("precision"),
        "auc": average("auc"),
        "average_precision": average("average_precision"),
        "sensitivity_at_90": average("sensitivity_at_90"),
        "brier": brier(probabilities, labels),
        "ece": calibration_error(probabilities, labels),
    }


def per_class(probabilities: np.ndarray, labels: np.ndarray) -> list[dict[str, float]]:
    """Return for each of the K classes: images, sensitivity, specificity, precision, f1, auc, average precision.

    Without a single prediction of a class its precision is 0; without an image of it, what needs one is NaN.
    """
    predicted = probabilities.argmax(axis=1)
    rows = []
    for label in range(probabilities.shape[1]):
        truth, chosen = labels == label, predicted == label
        here = bool(truth.any())
        both = here and not truth.all()
        precision, recall, f1, _ = sk.precision_recall_fscore_support(truth, chosen, average="binary", zero_division=0)
        rows.append(
            {
                "images": int(truth.sum()),
                "sensitivity": float(recall) if here else math.nan,
                "specificity": float(np.mean(~chosen[~truth])) if not truth.all() else math.nan,
                "precision": float(precision),
                "f1": float(f1) if here else math.nan,
                "auc": class_auc(probabilities, labels, label),
                "average_precision": float(sk.average_precision_score(truth, probabilities[:, label]))
                if both
                else math.nan,
                "sensitivity_at_90": sensitivity_at(probabilities[:, label], truth),
            }
        )
    return rows
