"""The rules on evidence made by hand."""

import numpy as np
import pytest

from meddap_monai.classifier.folds import assign_folds
from meddap_monai.errors import ConfigurationError, RecordsError
from meddap_monai.selection.filtering.crossfit import FilterPredictions
from meddap_monai.selection.filtering.rules import RULES, Evidence, RuleConfig, within_quota
from meddap_monai.statistics.conformal import cross_conformal


def evidence(count: int = 60, real: int = 90, classes: int = 3, wrong: int = 10, seed: int = 0) -> Evidence:
    """Two networks; features are noisy class directions; the first `wrong` images show another class."""
    rng = np.random.default_rng(seed)
    labels, real_labels = np.arange(count) % classes, np.arange(real) % classes
    shown = np.where(np.arange(count) < wrong, (labels + 1) % classes, labels)
    fold = np.arange(real) // classes % 2

    def predicted(truth: np.ndarray) -> FilterPredictions:
        features = np.eye(8)[truth] + 0.15 * rng.standard_normal((2, len(truth), 8))
        features = (features / np.linalg.norm(features, axis=-1, keepdims=True)).astype(np.float32)
        logits = 4 * np.eye(classes)[truth] + 0.7 * rng.standard_normal((2, 2, len(truth), classes))
        return FilterPredictions(logits.astype(np.float32), features)

    own, known = predicted(shown), predicted(real_labels)
    return Evidence(labels, own, own.features, real_labels, known, known.features, fold, 1.0)


@pytest.mark.parametrize("name", RULES)
def test_every_rule_removes_wrong_labels_and_keeps_right_ones(name: str) -> None:
    found = evidence()
    verdict = RULES[name].judge(found, RuleConfig(alpha=0.1, guard=0.05))
    assert verdict.keep.shape == verdict.order.shape == verdict.scores[name].shape == (60,)
    assert not verdict.keep[:10].any()
    assert verdict.keep[10:].mean() >= 0.85
    assert all(np.isfinite(values).all() for values in verdict.scores.values())


@pytest.mark.parametrize("name", RULES)
def test_every_rule_has_finite_scores_where_there_is_one_class(name: str) -> None:
    verdict = RULES[name].judge(evidence(classes=1, wrong=0), RuleConfig(alpha=0.1, guard=0.05))
    assert verdict.keep.mean() >= 0.85
    assert all(np.isfinite(values).all() for values in verdict.scores.values())


@pytest.mark.parametrize("name", ["mahalanobis", "knn"])
def test_guards_remove_what_resembles_no_real_image(name: str) -> None:
    found = evidence(wrong=0)
    odd = np.zeros_like(found.features)
    odd[..., 7] = 1.0
    strange = Evidence(**(vars(found) | {"features": odd}))
    assert not RULES[name].judge(strange, RuleConfig(guard=0.05)).keep.any()


def test_conformal_loses_at_most_alpha_of_exchangeable_images() -> None:
    lost = []
    for seed in range(20):
        found = evidence(count=300, wrong=0, seed=seed)
        lost.append(1 - RULES["conformal"].judge(found, RuleConfig(alpha=0.2)).keep.mean())
    assert 0.03 <= np.mean(lost) <= 0.2


def test_p_values_by_hand() -> None:
    scores = np.array([[0.5, 0.9, 0.1], [0.5, 0.2, 0.1]])
    values = cross_conformal(
        scores, np.array([0, 0, 1]), np.array([0.4, 0.6, 0.5, 0.3]), np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1])
    )
    assert values == pytest.approx([(1 + 1 + 1) / 4, (0 + 1 + 1) / 4, (1 + 1) / 2])


def test_probability_needs_the_largest_class_unless_told_otherwise() -> None:
    found = evidence(wrong=0)
    logits = np.zeros((2, 2, 60, 3), np.float32)
    logits[..., 0] = 0.1
    flat = Evidence(**(vars(found) | {"predicted": FilterPredictions(logits, found.features)}))
    strict = RULES["probability"].judge(flat, RuleConfig(threshold=0.2))
    loose = RULES["probability"].judge(flat, RuleConfig(threshold=0.2, argmax=False))
    assert strict.keep.tolist() == (found.labels == 0).tolist() and loose.keep.all()


def test_temperature_softens() -> None:
    sharp, soft = evidence(), Evidence(**(vars(evidence()) | {"temperature": 5.0}))
    assert soft.probabilities().max() < sharp.probabilities().max()
    assert soft.probabilities().sum(axis=-1) == pytest.approx(1)


def test_quota_takes_the_best_and_earlier_ones_on_ties() -> None:
    order = np.array([0.1, 0.9, 0.5, 0.5, 0.7])
    keep = np.array([True, True, True, True, False])
    chosen = within_quota(order, keep, np.array([0, 0, 0, 0, 0]), 2)
    assert chosen.tolist() == [False, True, True, False, False]


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"use": ("conformall",)}, "did you mean 'conformal'"),
        ({"use": ("knn", "knn")}, "expected each rule once"),
        ({"alpha": 1.5}, "select#rules#alpha: got 1.5"),
        ({"quota": 0}, "select#rules#quota: got 0"),
    ],
)
def test_configuration(changes: dict, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        RuleConfig(**changes)


def people(patients: dict[str, list[str]]) -> list[dict]:
    names = sorted(patients)
    return [
        {"id": f"{patient}{n}", "label": names.index(name), "class_name": name, "patient": patient}
        for name, listed in patients.items()
        for n, patient in enumerate(listed)
    ]


def test_no_patient_is_in_two_folds_and_every_class_in_each() -> None:
    records = people({"a": [f"p{n // 3}" for n in range(30)], "b": [f"q{n // 2}" for n in range(30)]})
    fold = assign_folds(records, 5, 0)
    assert sorted(set(fold)) == [0, 1, 2, 3, 4]
    for patient in {record["patient"] for record in records}:
        assert len({fold[row] for row, record in enumerate(records) if record["patient"] == patient}) == 1
    assert assign_folds(records, 5, 0).tolist() == fold.tolist() != assign_folds(records, 5, 1).tolist()


@pytest.mark.parametrize("patients, folds", [(["p0", "p1", "p2"], 3), (["p0", "p1"], 2)])
def test_few_patients_make_few_folds(patients: list[str], folds: int) -> None:
    records = people({"a": patients * 4, "b": [f"q{n}" for n in range(12)]})
    assert max(assign_folds(records, 5, 0)) + 1 <= folds


def test_a_class_of_one_patient_cannot_be_judged() -> None:
    with pytest.raises(
        RecordsError, match=r"class 'a': real training images of 1 patient or group, expected at least 2"
    ):
        assign_folds(people({"a": ["p"] * 4, "b": ["q", "r", "s"]}), 5, 0)
