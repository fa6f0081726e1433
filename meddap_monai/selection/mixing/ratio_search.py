"""How much synthetic is enough? A small search over ratio and filter threshold, judged on the real validation images.

Each candidate trains the same small classifier with the same seeds (same real images, initial weights and number of
steps); candidates are compared by their macro AUC on val, paired by seed and by patient. The chosen one is the smallest
amount within one standard error of the best (Breiman et al. 1984, the one-standard-error rule): with ten validation
images per class the best mean alone is mostly luck, and the intervals say so.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from meddap_monai import store
from meddap_monai.classifier.config import ClassifyConfig
from meddap_monai.classifier.many import Training, classify_all
from meddap_monai.classifier.scoring import load_classifier
from meddap_monai.core.records import Record, read_records
from meddap_monai.core.seeds import derive_seed
from meddap_monai.errors import RecordsError
from meddap_monai.selection.filtering.selection_figures import new_figure, write_figure
from meddap_monai.selection.mixing.config import SearchConfig
from meddap_monai.statistics.intervals import PatientDraws, over_seeds
from meddap_monai.statistics.weighted import weighted_metrics


@dataclass(frozen=True)
class Candidate:
    """One amount of synthetic images.

    Attributes:
        ratio: synthetic per real image.
        threshold: least score, or None.
    """

    ratio: float
    threshold: float | None = None

    @property
    def name(self) -> str:
        """A folder name."""
        return f"ratio_{self.ratio:g}" + ("" if self.threshold is None else f"_threshold_{self.threshold:g}")


def candidates(config: SearchConfig) -> list[Candidate]:
    """Return what is tried: nothing synthetic first, then by amount, the stricter threshold first."""
    thresholds: list[float | None] = sorted(config.thresholds, reverse=True) or [None]  # type: ignore[assignment]
    amounts = sorted(set(config.ratios) - {0.0})
    return [Candidate(0.0)] + [Candidate(ratio, threshold) for ratio in amounts for threshold in thresholds]


def search(
    config: SearchConfig, output: Path, build: Callable[[Candidate, Path], Path], records: Path, seed: int
) -> tuple[Candidate, dict[str, Any]]:
    """Try every candidate; stages already done are not repeated.

    Args:
        config: what is tried.
        output: folder for the candidates' training sets and classifiers, and for ``search.json``.
        build: writes a candidate's training set into a folder and returns its records file.
        records: real records; only split val is judged on.
        seed: of the run.

    Returns:
        The chosen candidate, and the table of ``search.json``.

    Raises:
        RecordsError: the validation images are of fewer than two classes, so they have no AUC.
    """
    validation = read_records(records, split="val", source="real")
    if len({record["label"] for record in validation}) < 2:
        raise RecordsError(
            f"{records}: {len(validation)} validation image(s) of fewer than two classes, expected more to search on; "
            "set mix#mode to ratio"
        )
    tried = candidates(config)
    trainings = [
        Training(_settings(config, number, seed), output / candidate.name / f"seed_{number}", hybrid)
        for candidate in tried
        for hybrid in [build(candidate, output / candidate.name / "mix")]
        for number in range(config.seeds)
    ]
    classify_all(trainings, "ratio search", "classifier")
    judged = [load_classifier(one.output, one.config.device).probabilities(validation) for one in trainings]
    found = np.array(judged).reshape(len(tried), config.seeds, *judged[0].shape)
    table = compare(tried, found, validation, config.samples, seed)
    store.write_json(output / "search.json", table)
    _draw(table, output)
    chosen = next(c for c in tried if c.name == table["chosen"])
    return chosen, table


def _settings(config: SearchConfig, number: int, seed: int) -> ClassifyConfig:
    return replace(config.classifier, seed=derive_seed(seed, "mix/search", number) % 2**31)


def compare(
    tried: Sequence[Candidate], predictions: np.ndarray, validation: Sequence[Record], samples: int, seed: int
) -> dict[str, Any]:
    """Return the table of candidates and which one is chosen.

    Args:
        tried: candidates, the first without synthetic images.
        predictions: (candidates, seeds, N, classes) float probabilities of the validation images.
        validation: N records.
        samples: bootstrap replicates over patients.
        seed: of the bootstrap.

    Returns:
        ``candidates``: per candidate the mean AUC, its 95 % interval, and the difference to no synthetic images with
        its interval, paired by seed and patient; ``chosen``: name of the smallest amount within one standard error of
        the best.
    """
    labels = np.array([record["label"] for record in validation])
    patients = [record["patient"] for record in validation]
    draws = PatientDraws(patients, samples, derive_seed(seed, "mix/bootstrap"))
    weights, known = draws.weights(patients), len(draws.names)
    values = np.array([[weighted_metrics(run, labels, weights)["auc"] for run in runs] for runs in predictions])
    means = values[:, :, 0].mean(axis=1)
    best = int(means.argmax())
    errors = [over_seeds(one - values[best], known).error for one in values]
    chosen = next(number for number in range(len(tried)) if means[number] >= means[best] - errors[number])
    listed = [_row(candidate, one, values[0], known) for candidate, one in zip(tried, values, strict=True)]
    return {"candidates": listed, "chosen": tried[chosen].name, "best_mean": tried[best].name, "images": len(labels)}


def _row(candidate: Candidate, values: np.ndarray, none: np.ndarray, patients: int) -> dict[str, Any]:
    """A row of the table from AUC ``(S, 1 + B)`` with this candidate and without synthetic images."""
    found, gain = over_seeds(values, patients), over_seeds(values - none, patients)
    return {
        "name": candidate.name,
        "ratio": candidate.ratio,
        "threshold": candidate.threshold,
        "auc": round(float(found.mean), 4),
        "interval": found.interval(bounds=(0.0, 1.0)).round(4).tolist(),
        "gain": round(float(gain.mean), 4),
        "gain_interval": gain.interval().round(4).tolist(),
    }


def _draw(table: dict[str, Any], output: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    rows = table["candidates"]
    figure, axes = new_figure(1, 1, 1.2 * len(rows) + 2, 3.4)
    axis, places = axes[0][0], range(len(rows))
    for place, row in zip(places, rows, strict=True):
        axis.plot([place, place], row["interval"], color="grey")
        axis.plot(place, row["auc"], "o", color="tab:orange" if row["name"] == table["chosen"] else "tab:blue")
    axis.set_xticks(list(places), [row["name"].replace("_", "\n") for row in rows], fontsize=6)
    axis.set(ylabel="macro AUC on val", title=f"chosen: {table['chosen']} ({table['images']} images)")
    write_figure(output / "search.png", figure)
    with SummaryWriter(str(output / "tensorboard")) as board:
        board.add_figure("mix/search", figure)
        for place, row in enumerate(rows):
            board.add_scalar("mix/auc", row["auc"], place)
