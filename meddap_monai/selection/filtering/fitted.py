"""The fitted filter: K networks, which fold left out whom, a temperature; a kill costs at most one fold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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
from meddap_monai.selection.filtering.crossfit import FilterPredictions, predict, train_fold
from meddap_monai.selection.filtering.filter_config import FilterConfig
from meddap_monai.statistics.metrics import all_metrics, confusion


@dataclass(frozen=True)
class FittedFilter:
    """A filter that judged the real training images out of fold.

    Attributes:
        networks: K, in evaluation mode.
        fold: (M,) int, the network that left each real training image out.
        predicted: what all networks say about the M real training images.
        temperature: divisor of the logits that calibrates the out-of-fold predictions (Guo et al. 2017).
    """

    networks: list[nn.Module]
    fold: np.ndarray
    predicted: FilterPredictions
    temperature: float

    def measure(self, labels: np.ndarray) -> dict[str, object]:
        """Return how good the filter is, out of fold: accuracy, balanced accuracy, AUC and the confusion matrix."""
        logits = self.predicted.out_of_fold(self.fold).astype(np.float64)
        probabilities = softmax(logits / self.temperature)
        found = all_metrics(probabilities, labels)
        return {
            "images": len(labels),
            "folds": len(self.networks),
            "temperature": round(self.temperature, 6),
            **{name: round(found[name], 6) for name in ("accuracy", "balanced_accuracy", "auc")},
            "confusion": confusion(probabilities, labels).tolist(),
        }


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
    """Train the K networks, or load those that an interrupted run has finished, and calibrate them.

    Args:
        config: of the filter.
        training: M full real training records.
        images: (M, C, H, W) uint8, theirs.
        everything: all full real records, for the provenance guard.
        classes: names in the order of labels.
        folder: where networks, ``filter.json`` and ``train_sha256.txt`` go.
        seed: of the run.
        board: folder of TensorBoard's event files, one run per fold below; None draws nothing.

    Raises:
        LeakedRecords: a validation, test or unseen image is among the training images or their groups.
    """
    write_train_hashes(folder, training, everything)
    check_provenance(folder, everything)
    fold = assign_folds(training, config.folds, seed)
    networks = []
    for number in progress(range(int(fold.max()) + 1), desc="filter", unit="fold"):
        rows = np.flatnonzero(fold != number).tolist()
        run_seed = derive_seed(seed, "select/filter", number) % 2**31
        own = [training[row] for row in rows]
        path = folder / f"fold_{number}.safetensors"
        curves = board / f"fold_{number}" if board else None
        networks.append(_network(config, own, images[rows], len(classes), path, run_seed, curves))
    predicted = predict(networks, images, config)
    labels = np.array([record["label"] for record in training])
    temperature = fit_temperature(predicted.out_of_fold(fold).astype(np.float64), labels)
    fitted = FittedFilter(networks, fold, predicted, temperature)
    document = {
        "configuration": config,
        "classes": list(classes),
        "folds": {record["id"]: int(number) for record, number in zip(training, fold, strict=True)},
    }
    store.write_json(folder / "filter.json", document | {"out_of_fold": fitted.measure(labels)})
    return fitted


def _network(
    config: FilterConfig,
    records: Sequence[Record],
    images: np.ndarray,
    classes: int,
    path: Path,
    seed: int,
    board: Path | None,
) -> nn.Module:
    """Return the network of one fold from its file, or train it and write the file; see `train_fold`."""
    if path.is_file():
        network = empty_network(config.settings(seed), classes).to(config.device)
        network.load_state_dict(read_weights(path, StageError))
        return network.eval()
    network = train_fold(config, records, images, classes, seed, board)
    state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    with store.atomic_path(path) as temporary:
        save_file(state, temporary)
    return network
