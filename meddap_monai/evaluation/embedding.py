"""Where images lie in a classifier's features: t-SNE maps of training, synthetic and test images (van der Maaten 2008).

A map shows neighbourhoods, no distances, and decides nothing; it lets one see whether synthetic images lie among the
real ones of their class, and where the images of an unseen machine come to lie.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from meddap_monai.classifier.scoring import load_classifier
from meddap_monai.core.records import Record
from meddap_monai.core.seeds import derive_seed
from meddap_monai.encoders.places import without_place
from meddap_monai.evaluation import arms as arm_names
from meddap_monai.evaluation.generative import features_of
from meddap_monai.evaluation.predictions import ClassifierRun

MOST = 400
"""Images of one set on a map; of more, an even part is taken."""
COMPONENTS, PERPLEXITY = 50, 30.0


def chosen_runs(runs: Sequence[ClassifierRun]) -> list[ClassifierRun]:
    """Return the runs whose features are shown: one without synthetic images and one with them, of the first seed."""
    first = [run for run in runs if run.seed == min(one.seed for one in runs)]
    named = {run.arm: run for run in first}
    candidates = [arm for arm in arm_names.in_order(named) if arm_names.is_candidate(arm)]
    candidate = candidates[0] if candidates else None
    reference = (arm_names.like(candidate, named) if candidate else None) or arm_names.strongest(named)
    return [named[name] for name in (reference, candidate) if name]


def draw_maps(
    runs: Sequence[ClassifierRun], sets: Mapping[str, Sequence[Record]], device: str, seed: int
) -> list[dict[str, Any]]:
    """Return one map per run: its name, its extractor, and where each image lies.

    Args:
        runs: trained classifiers; one with a classical head has no features of its own and is left out.
        sets: name -> records, such as real training, synthetic and unseen images.
        device: torch device.
        seed: of the evaluation.

    Returns:
        Mappings with ``arm``, ``extractor`` and ``points``: ``{set: {class: [[x, y], ...]}}``.
    """
    few = {name: _even_part(rows) for name, rows in sets.items() if rows}
    rows = [row for part in few.values() for row in part]
    maps = []
    for run in runs:
        model = load_classifier(run.model, device)
        if model.config.mode == "probe" or len(rows) < 5:
            continue
        places = tsne(features_of(model, model.pixels(rows)), seed)
        points: dict[str, dict[str, list[list[float]]]] = {name: {} for name in few}
        names = [name for name, part in few.items() for _ in part]
        for name, row, place in zip(names, rows, places, strict=True):
            points[name].setdefault(row["class_name"], []).append([round(float(value), 2) for value in place])
        extractor = f"input of the last layer of {without_place(model.config.encoder)}, {model.config.resolution} px"
        maps.append({"arm": run.arm, "seed": run.seed, "extractor": extractor, "points": points})
    return maps


def tsne(features: np.ndarray, seed: int) -> np.ndarray:
    """Return the t-SNE ``(N, 2)`` of features ``(N, D)``, started from their principal components; N of at least 5."""
    state = derive_seed(seed, "evaluate/tsne") % 2**32
    wide = min(COMPONENTS, *features.shape)
    reduced = PCA(wide, random_state=state).fit_transform(features.astype(np.float64))
    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    return TSNE(2, perplexity=perplexity, init="pca", random_state=state, n_jobs=1).fit_transform(reduced)


def _even_part(rows: Sequence[Record]) -> list[Record]:
    places = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), MOST)).astype(int))
    return [rows[place] for place in places]
