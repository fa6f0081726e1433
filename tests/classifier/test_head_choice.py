"""The choice of a head: who is left out, who wins, what is said about it."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from meddap_monai.classifier.config import CANDIDATES, ClassifyConfig
from meddap_monai.classifier.head_choice import Examples, Fitter, best_head, compare_heads
from meddap_monai.classifier.scoring import fit_temperature, load_classifier
from meddap_monai.classifier.stage import classify
from meddap_monai.core.records import read_records
from meddap_monai.encoders.registry import build_network
from meddap_monai.errors import RecordsError
from meddap_monai.statistics.metrics import macro_auc


def examples(features: np.ndarray, labels: np.ndarray, patients: list[str], **kept: Any) -> Examples:
    rows = [
        {"id": f"i{n}", "label": int(label), "class_name": "ab"[label], "patient": patient, "source": "real"}
        for n, (label, patient) in enumerate(zip(labels, patients, strict=True))
    ]
    return Examples(features.astype(np.float32), labels, np.ones(len(labels)), rows, **kept)


def ring(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """One class inside of the other: no straight line tells them apart."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    angle, radius = rng.uniform(0, 2 * np.pi, count), 1.0 + labels + 0.1 * rng.normal(size=count)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1), labels


@pytest.mark.filterwarnings("error")
def test_a_head_that_can_bend_wins_where_no_line_divides() -> None:
    features, labels = ring(40, seed=0)
    table = compare_heads(Fitter(ClassifyConfig(head="auto")), examples(features, labels, [f"p{n}" for n in range(40)]))
    assert list(table) == list(CANDIDATES)
    assert table["logistic"]["auc"] < 0.7
    assert table["svc"]["auc"] > 0.97
    assert best_head(table) != "logistic"
    for values in table.values():
        assert 0 < values["log_loss"] < 3 and 0 <= values["ece"] <= 1


@pytest.mark.parametrize(
    ("table", "best"),
    [
        ({"logistic": (0.8, 0.5), "svc": (0.9, 0.9)}, "svc"),
        ({"logistic": (0.8, 0.5), "svc": (0.8, 0.4)}, "svc"),
        ({"logistic": (0.8, 0.5), "svc": (0.8, 0.5)}, "logistic"),
    ],
)
def test_the_best_has_the_highest_auc_then_the_lowest_loss_then_comes_first(table: Any, best: str) -> None:
    assert best_head({name: {"auc": auc, "log_loss": loss} for name, (auc, loss) in table.items()}) == best


@pytest.mark.parametrize("head", ["logistic", "svc", "boosting"])
def test_knowing_a_patient_by_sight_is_worth_nothing(head: str) -> None:
    """Features say who it is and nothing else, and each patient has one class: only folds by image would be right."""
    rng = np.random.default_rng(3)
    patients = np.repeat(np.arange(40), 4)
    labels = rng.permutation(np.arange(40) % 2)[patients]
    features = rng.normal(size=(40, 64))[patients] + 0.01 * rng.normal(size=(160, 64))
    fitter = Fitter(ClassifyConfig(head="auto"))
    apart = {}
    for name, who in (("patient", [f"p{n}" for n in patients]), ("image", [f"p{n}" for n in range(160)])):
        scores, truth = fitter.judge(head, examples(features, labels, who))
        apart[name] = macro_auc(np.exp(scores), truth)
    assert apart["image"] > 0.95
    assert 0.25 < apart["patient"] < 0.75


def test_only_real_images_as_they_are_are_judged_and_copies_leave_with_their_patient() -> None:
    """The first patients' synthetic copies (made from their images) and views hold the answer, and must not tell it."""
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2
    features = rng.normal(size=(40, 8))
    real = examples(features, labels, [f"p{n}" for n in range(40)])
    made = [row | {"id": f"s{row['id']}", "source": "synthetic"} for row in real.rows]
    text = [row | {"id": f"t{row['id']}", "source": "synthetic", "patient": "synthetic"} for row in real.rows]
    rows = [*real.rows, *made, *text, *real.rows]
    both = Examples(np.tile(features, (4, 1)), np.tile(labels, 4), np.ones(160), rows, views=40)
    assert both.judged().tolist() == list(range(40))
    assert len(set(both.groups())) == 80, "an image made from text is of nobody"
    without_text = Examples(
        np.tile(features, (3, 1)), np.tile(labels, 3), np.ones(120), [*rows[:80], *rows[-40:]], views=40
    )
    fitter = Fitter(ClassifyConfig(head="boosting"))
    known, _ = fitter.judge("boosting", both)
    unknown, truth = fitter.judge("boosting", without_text)
    assert macro_auc(np.exp(known), truth) > 0.95, "text images train in every fold"
    assert macro_auc(np.exp(unknown), truth) < 0.8, "copies and views of a patient left out are left out"


def test_synthetic_images_alone_are_judged_one_by_one() -> None:
    features, labels = ring(40, seed=1)
    alone = examples(features, labels, ["synthetic"] * 40)
    rows = [row | {"source": "synthetic"} for row in alone.rows]
    scores, truth = Fitter(ClassifyConfig(head="svc")).judge("svc", Examples(features, labels, alone.weights, rows))
    assert scores.shape == (40, 2) and macro_auc(np.exp(scores), truth) > 0.95


def test_probabilities_of_an_svc_are_calibrated_on_patients_left_out() -> None:
    """Half of the labels at the border are wrong by chance: a vote is not certain, and neither is the probability."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(800, 2))
    labels = (rng.random(800) < 1 / (1 + np.exp(-2 * features[:, 0]))).astype(int)
    learnt = examples(features[:200], labels[:200], [f"p{n}" for n in range(200)])
    scorer = Fitter(ClassifyConfig(head="svc")).fit("svc", learnt)
    asked = torch.from_numpy(features[200:])
    sure = scorer(asked).exp().max(dim=1).values.mean().item()
    votes = scorer(asked) * scorer.temperature
    right = (votes.argmax(dim=1).numpy() == labels[200:]).mean()
    assert abs(sure - right) < 0.06
    assert scorer.temperature.item() == pytest.approx(fit_temperature(votes.numpy(), labels[200:]), rel=0.5)


def test_a_class_of_one_patient_is_named() -> None:
    features, labels = ring(20, seed=0)
    patients = ["one" if label else f"p{n}" for n, label in enumerate(labels)]
    with pytest.raises(RecordsError, match="class 'b': real training images of 1 patient or group"):
        compare_heads(Fitter(ClassifyConfig(head="auto")), examples(features, labels, patients))


def test_auto_writes_its_table_says_once_what_stopped_early_and_loads(simulated_records: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.pt"
    torch.save(build_network("resnet10_tiny", classes=3, size=32).network.state_dict(), weights)
    config = ClassifyConfig(
        encoder="resnet10_tiny", mode="probe", weights=weights, head="auto", resolution=32, pictures=False
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        folder = classify(config, tmp_path / "model", records=simulated_records)
    results = json.loads((folder / "metrics.json").read_text())
    table = results["heads_out_of_fold"]
    assert set(table) == set(CANDIDATES)
    assert results["head"] == best_head(table)
    assert json.loads((folder / "stage.json").read_text())["head"] == results["head"]
    fits = results["fits"]
    assert min(fits.values()) == 5 and sum(fits.values()) in (26, 31), "five folds each, then the chosen one"
    early = sum(results["fits_not_converged"].values())
    said = [str(each.message) for each in caught if "limit of iterations" in str(each.message)]
    assert len(said) == (1 if early else 0)
    assert not [each for each in caught if each.category.__name__ == "ConvergenceWarning"]
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    (tag,) = events.Tags()["tensors"]
    shown = events.Tensors(tag)[0].tensor_proto.string_val[0].decode()
    assert f"| **{results['head']}** | {table[results['head']]['auc']:.3f} |" in shown
    test = read_records(simulated_records, split="test")
    assert np.allclose(load_classifier(folder).probabilities(test).sum(axis=1), 1)
    again = classify(config, tmp_path / "again", records=simulated_records)
    assert (again / "model.pt").read_bytes() == (folder / "model.pt").read_bytes()
    assert (again / "metrics.json").read_bytes() == (folder / "metrics.json").read_bytes()
