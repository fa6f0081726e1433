"""Single cases of a report: the surest errors and right answers, and where the network looked (Grad-CAM)."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from PIL import Image

from meddap_monai.classifier.data import to_float
from meddap_monai.classifier.diagnostics import class_activation, last_convolution, most_confident_errors
from meddap_monai.classifier.scoring import Classifier, load_classifier
from meddap_monai.core.records import Record
from meddap_monai.evaluation.bootstrap import Table
from meddap_monai.evaluation.embedding import chosen_runs
from meddap_monai.evaluation.predictions import ClassifierRun, Predictions
from meddap_monai.evaluation.report.pictures import THUMBNAIL, data_uri, png_uri

HEAT = 0.45
"""Weight of the heat map over the picture."""


def collect_cases(
    runs: Sequence[ClassifierRun], tables: Mapping[str, Table], limit: int, device: str
) -> list[dict[str, Any]]:
    """Return surest errors and surest right answers of two classifiers of the first seed, on the farthest test set.

    Args:
        runs: trained classifiers; the reference and the arm with synthetic images that is most like it are shown.
        tables: test set -> predictions.
        limit: cases of a kind at most; 0 shows none.
        device: torch device.

    Returns:
        Mappings with ``arm``, ``seed``, ``set``, ``kind`` ("wrong" or "right"), ``of`` (how many there are) and
        ``images``: picture, heat map (empty where the network has no convolution) and note.
    """
    name = "unseen" if "unseen" in tables else "own"
    shown = chosen_runs(runs) if limit else []
    return [
        {"arm": run.arm, "seed": run.seed, "set": name} | case
        for run in shown
        for case in _cases_of(load_classifier(run.model, device), tables[name][run.arm][run.seed], limit)
    ]


def _cases_of(model: Classifier, found: Predictions, limit: int) -> list[dict[str, Any]]:
    chosen = found.probabilities.argmax(axis=1)
    count = int((chosen == found.labels).sum())
    kinds = {
        "wrong": (most_confident_errors(found.probabilities, found.labels, limit), len(chosen) - count),
        "right": (_surest_of_each_class(found, limit), count),
    }
    cases: list[dict[str, Any]] = []
    for kind, (places, of) in kinds.items():
        rows = [found.rows[place] for place in places]
        heats = _heat_maps(model, rows, chosen[places].tolist()) if rows else []
        notes = [
            f"{found.classes[found.labels[place]]}, called {found.classes[chosen[place]]} "
            f"({found.probabilities[place].max():.0%} sure)"
            for place in places
        ]
        images = [
            {"uri": data_uri(row), "heat": heat, "note": note}
            for row, heat, note in zip(rows, heats, notes, strict=True)
        ]
        cases.append({"kind": kind, "of": of, "images": images})
    return cases


def _surest_of_each_class(found: Predictions, limit: int) -> list[int]:
    """Return right answers, the surest first, classes evenly."""
    sure = found.probabilities.max(axis=1)
    right = np.flatnonzero(found.probabilities.argmax(axis=1) == found.labels)
    order = right[np.argsort(-sure[right], kind="stable")]
    ranks = [int((found.labels[order[:place]] == found.labels[one]).sum()) for place, one in enumerate(order)]
    return [int(order[place]) for place in np.argsort(ranks, kind="stable")[:limit]]


def _heat_maps(model: Classifier, rows: Sequence[Record], labels: Sequence[int]) -> list[str]:
    """Return a picture per record with its Grad-CAM map over it; empty texts where there is no such map."""
    layer = last_convolution(model.network) if model.config.mode != "probe" else None
    if layer is None:
        return [""] * len(rows)
    pixels = model.pixels(list(rows))
    images = to_float(pixels.to(model.config.device))
    maps = class_activation(model.network, images, labels, layer)
    colours = matplotlib.colormaps["inferno"](maps)[..., :3]
    seen = pixels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy() / 255
    blended = ((1 - HEAT) * seen + HEAT * colours) * 255
    return [png_uri(Image.fromarray(one.round().astype(np.uint8)).resize((2 * THUMBNAIL,) * 2)) for one in blended]
