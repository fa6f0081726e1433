"""The fitted filter: K networks or heads, who was left out of which, a temperature; a kill costs at most one fold."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file
from torch import nn

from meddap_monai import store
from meddap_monai.classifier.folds import assign_folds
from meddap_monai.classifier.heads import empty_network
from meddap_monai.classifier.scoring import fit_temperature, softmax
from meddap_monai.core.progress import progress
from meddap_monai.core.records import Record
from meddap_monai.core.seeds import derive_seed
from meddap_monai.core.tensors import read_weights
from meddap_monai.errors import StageError
from meddap_monai.images.provenance import check_provenance, write_train_hashes
from meddap_monai.selection.filtering.crossfit import FilterPredictions, Networks, train_fold
from meddap_monai.selection.filtering.filter_config import FilterConfig
from meddap_monai.selection.filtering.probe import Probe, fit_probe
from meddap_monai.statistics.intervals import PatientDraws
from meddap_monai.statistics.metrics import confusion
from meddap_monai.statistics.shares import beyond_guessing
from meddap_monai.statistics.weighted import weighted_metrics

DRAWS = 1000
"""Of patients, for the intervals of a filter's accuracy."""


@dataclass(frozen=True)
class FittedFilter:
    """A filter that judged the real training images out of fold.

    Attributes:
        judge: K networks, or an encoder with K heads.
        fold: (M,) int, the network that left each real training image out.
        predicted: what all networks say about the M real training images.
        temperature: divisor of the logits that calibrates the out-of-fold predictions (Guo et al. 2017).
        measured: how good it is, see `_measure`.
    """

    judge: Networks | Probe
    fold: np.ndarray
    predicted: FilterPredictions
    temperature: float
    measured: dict[str, Any]


def _measure(
    predicted: FilterPredictions, fold: np.ndarray, temperature: float, training: Sequence[Record], seed: int
) -> dict[str, Any]:
    """Return how good a filter is, out of fold, for ``selection.json`` and ``filter.json``.

    Accuracy, balanced accuracy and AUC have 95 % intervals over draws of patients; `guessed` is the accuracy of
    always naming the commonest class, `chance` what balanced accuracy has by guessing (an AUC has 0.5), and
    `tells_classes_apart` whether the balanced accuracy is surely above it (`beyond_guessing`).

    Args:
        predicted: what all networks say about the M real training images.
        fold: (M,) int, the network that left each out.
        temperature: divisor of the logits.
        training: M real training records.
        seed: of the draws.
    """
    labels = np.array([record["label"] for record in training])
    probabilities = softmax(predicted.out_of_fold(fold).astype(np.float64) / temperature)
    patients = [record["patient"] for record in training]
    values = weighted_metrics(probabilities, labels, PatientDraws(patients, DRAWS, seed).weights(patients))
    counts = confusion(probabilities, labels)
    beside = beyond_guessing(counts)
    found: dict[str, Any] = {
        "images": len(labels),
        "folds": len(predicted.logits),
        "temperature": round(temperature, 6),
        "confusion": counts.tolist(),
        "guessed": round(beside.guessed, 6),
        "chance": round(beside.chance, 6),
        "tells_classes_apart": beside.better,
    }
    for name in ("accuracy", "balanced_accuracy", "auc"):
        found[name] = round(float(values[name][0]), 6)
        found[f"{name}_interval"] = _interval(values[name][1:])
    return found


def _interval(drawn: np.ndarray) -> list[float]:
    known = drawn[np.isfinite(drawn)]
    return [round(float(value), 6) for value in np.quantile(known, (0.025, 0.975))] if len(known) else [0.0, 1.0]


def fit_filter(
    config: FilterConfig,
    training: Sequence[Record],
    images: np.ndarray,
    everything: Sequence[Record],
    classes: Sequence[str],
    folder: Path,
    seed: int,
    board: Path | None = None,
) -> FittedFilter:
    """Train the K networks or heads, or load those that an interrupted run has finished, and calibrate them.

    Args:
        config: of the filter.
        training: M full real training records.
        images: (M, C, H, W) uint8, theirs.
        everything: all full real records, for the provenance guard.
        classes: names in the order of labels.
        folder: of the stage: networks or heads, ``filter.json`` and ``train_sha256.txt`` go to its ``filter/``, the
            features of a probe to its ``features/``.
        seed: of the run.
        board: folder of TensorBoard's event files, one run per fold below; None draws nothing.

    Raises:
        LeakedRecords: a validation, test or unseen image is among the training images or their groups.
    """
    place = folder / "filter"
    write_train_hashes(place, training, everything)
    check_provenance(place, everything)
    fold, seeds = plan_folds(config, training, seed)
    cache = folder / "features" / "filter_real.npy"
    judge = fit_judge(config, training, images, fold, len(classes), seeds, place, cache, board)
    predicted = judge.predict(training, images, cache)
    labels = np.array([record["label"] for record in training])
    temperature = fit_temperature(predicted.out_of_fold(fold).astype(np.float64), labels)
    measured = _measure(predicted, fold, temperature, training, seed)
    document = {
        "configuration": config,
        "classes": list(classes),
        "folds": {record["id"]: int(number) for record, number in zip(training, fold, strict=True)},
    }
    store.write_json(place / "filter.json", document | {"out_of_fold": measured})
    return FittedFilter(judge, fold, predicted, temperature, measured)


def plan_folds(config: FilterConfig, training: Sequence[Record], seed: int) -> tuple[np.ndarray, list[int]]:
    """Return the fold (M,) int of each training image and a seed for each fold."""
    fold = assign_folds(training, config.folds, seed)
    return fold, [derive_seed(seed, "select/filter", number) % 2**31 for number in range(int(fold.max()) + 1)]


def fit_judge(
    config: FilterConfig,
    training: Sequence[Record],
    images: np.ndarray,
    fold: np.ndarray,
    classes: int,
    seeds: Sequence[int],
    folder: Path | None = None,
    cache: Path | None = None,
    board: Path | None = None,
) -> Networks | Probe:
    """Train one network or fit one head per fold; see `fit_probe` for the arguments."""
    if config.mode == "probe":
        return fit_probe(config, training, images, fold, classes, seeds, folder, cache)
    networks = [
        fit_fold(config, training, images, fold, classes, number, seed, folder, board)
        for number, seed in enumerate(progress(seeds, desc="filter", unit="fold"))
    ]
    return Networks(networks, config)


def fit_fold(
    config: FilterConfig,
    training: Sequence[Record],
    images: np.ndarray,
    fold: np.ndarray,
    classes: int,
    number: int,
    seed: int,
    folder: Path | None = None,
    board: Path | None = None,
) -> nn.Module:
    """Train the network that leaves out one fold, or load it; see `fit_probe` for the arguments."""
    rows = np.flatnonzero(fold != number).tolist()
    path = folder / f"fold_{number}.safetensors" if folder else None
    curves = board / f"fold_{number}" if board else None
    return _network(config, [training[row] for row in rows], images[rows], classes, path, seed, curves)


def _network(
    config: FilterConfig,
    records: Sequence[Record],
    images: np.ndarray,
    classes: int,
    path: Path | None,
    seed: int,
    board: Path | None,
) -> nn.Module:
    """Return the network of one fold from its file, or train it and write the file if any; see `train_fold`."""
    if path is not None and path.is_file():
        network = empty_network(config.settings(seed), classes).to(config.device)
        network.load_state_dict(read_weights(path, StageError))
        return network.eval()
    network = train_fold(config, records, images, classes, seed, board)
    if path is None:
        return network
    state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    with store.atomic_path(path) as temporary:
        save_file(state, temporary)
    return network
