"""Reports of simulated studies in which no arm is better than another, judged by the functions of `evaluate`.

The logits of an image are what its class is worth, how hard its patient is for everybody, and three effects around
zero: of a training (arm and seed), of a patient's answer to an arm, and of chance (arm, seed and image). Arms differ
by draws of these effects only, so the true difference is zero: an interval should hold it, and a verdict other than
"no evidence" is false.
"""

from dataclasses import dataclass

import numpy as np

from meddap_monai.evaluation.arms import is_candidate
from meddap_monai.evaluation.bootstrap import bootstrap_metrics, compare_all, correct, verdicts
from meddap_monai.evaluation.predictions import Predictions
from meddap_monai.statistics.comparisons import HARMS, HELPS

CLASSES = ["benign", "malignant", "normal"]
WORTH, HARDNESS, CHANCE = 1.5, 1.0, 0.7
"""Logit of the true class; sd of a patient's logits in all arms; sd of an image's logits between trainings."""


@dataclass(frozen=True)
class Setting:
    """What a simulated study is like.

    Attributes:
        seeds: paired trainings.
        training: sd in logits of what a training makes of an arm.
        patient: sd in logits of what an arm makes of a patient.
        own: "overlap": each seed tests on half of one pool, "separate": on patients of its own.
        candidates: arms with synthetic images.
        patients: of each test set, one image each.
    """

    seeds: int
    training: float
    patient: float
    own: str
    candidates: int = 1
    patients: int = 100


@dataclass
class Tally:
    """Counts over the reports of one setting, per test set.

    Attributes:
        covered: test set -> intervals of paired differences that hold zero.
        compared: test set -> comparisons.
        helps: test set -> false "helps".
        harms: test set -> false "harms".
        misled: reports with a false "helps" on any test set.
        reports: simulated.
    """

    covered: dict[str, int]
    compared: dict[str, int]
    helps: dict[str, int]
    harms: dict[str, int]
    misled: int = 0
    reports: int = 0


class Study:
    """Trainings and patients of one simulated study."""

    def __init__(self, setting: Setting, number: int) -> None:
        self.setting = setting
        self.arms = ["real_classical"] + [f"real_synthetic@v{place}" for place in range(setting.candidates)]
        self.rng = np.random.default_rng([number, setting.seeds, setting.patients])
        self.trained = self.rng.normal(0, setting.training, (len(self.arms), setting.seeds))

    def patients(self, name: str, count: int) -> tuple[list[str], np.ndarray, np.ndarray]:
        """Return names, labels ``(N,)`` and logits ``(arms, N, K)`` of new patients before any training."""
        labels = self.rng.permutation(np.arange(count) % len(CLASSES))
        shape = (len(self.arms), count, len(CLASSES))
        answers = self.rng.normal(0, self.setting.patient, shape)
        hardness = self.rng.normal(0, HARDNESS, shape[1:])
        return [f"{name}{place}" for place in range(count)], labels, hardness + answers

    def predict(self, names: list[str], labels: np.ndarray, logits: np.ndarray, arm: int, seed: int) -> Predictions:
        """Return what one training says about patients."""
        truth = np.eye(len(CLASSES))[labels]
        found = logits[arm] + (WORTH + self.trained[arm, seed]) * truth + self.rng.normal(0, CHANCE, truth.shape)
        odds = np.exp(found - found.max(axis=1, keepdims=True))
        rows = [{"patient": name, "id": name} for name in names]
        return Predictions(rows, labels, odds / odds.sum(axis=1, keepdims=True), CLASSES)

    def tables(self) -> dict[str, dict[str, dict[int, Predictions]]]:
        """Return test set -> arm -> seed -> predictions."""
        count, seeds = self.setting.patients, self.setting.seeds
        unseen = self.patients("u", count)
        pool = self.patients("p", 2 * count)
        own = []
        for seed in range(seeds):
            if self.setting.own == "separate":
                own.append(self.patients(f"s{seed}-", count))
            else:
                chosen = np.sort(self.rng.choice(2 * count, count, replace=False))
                own.append(([pool[0][place] for place in chosen], pool[1][chosen], pool[2][:, chosen]))
        return {
            name: {
                arm: {seed: self.predict(*tested[seed], place, seed) for seed in range(seeds)}
                for place, arm in enumerate(self.arms)
            }
            for name, tested in {"own": own, "unseen": [unseen] * seeds}.items()
        }


def tally(setting: Setting, reports: int, samples: int = 300) -> Tally:
    """Judge simulated reports as `evaluate` does and count what their intervals and verdicts say."""
    zero = {"own": 0, "unseen": 0}
    found = Tally(dict(zero), dict(zero), dict(zero), dict(zero), reports=reports)
    for number in range(reports):
        tables = Study(setting, number).tables()
        results = {name: bootstrap_metrics(table, samples, number) for name, table in tables.items()}
        rows = {name: compare_all(one, ("auc",), 0.95) for name, one in results.items()}
        correct([row for part in rows.values() for row in part])
        words = set()
        for name, part in rows.items():
            said = [one["verdict"] for one in verdicts(part, results[name], name, "auc", 0.05)]
            compared = [row["found"] for row in part if is_candidate(row["arm"])]
            found.compared[name] += len(compared)
            found.covered[name] += sum(one.low <= 0 <= one.high for one in compared)
            found.helps[name] += said.count(HELPS)
            found.harms[name] += said.count(HARMS)
            words |= set(said)
        found.misled += HELPS in words
    return found
