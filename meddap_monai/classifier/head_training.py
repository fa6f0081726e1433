"""Training of a classical head: features once, then a fit; with ``auto``, after a comparison of all heads."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from meddap_monai import store
from meddap_monai.classifier import scoring
from meddap_monai.classifier.calibration import fit_abstention
from meddap_monai.classifier.config import ClassifyConfig
from meddap_monai.classifier.features import extract
from meddap_monai.classifier.head_choice import Examples, Fitter, best_head, compare_heads, table_of_heads
from meddap_monai.classifier.heads import Head, build_extractor, describe_extractor
from meddap_monai.classifier.material import Material
from meddap_monai.errors import RecordsError
from meddap_monai.statistics.metrics import all_metrics, confusion


def train_head(config: ClassifyConfig, output: Path, material: Material) -> dict[str, Any]:
    """Fit a head on the training records, write ``model.pt`` and ``metrics.json``; return what stage.json shows.

    Raises:
        RecordsError: a class has no image of a loss weight above 0; or, where patients are left out (``auto`` and
            ``svc``), images of a single patient.
    """
    extractor = build_extractor(config, len(material.classes)).to(config.device)
    examples = gather_examples(extractor, config, material)
    fitter = Fitter(config)
    compared = compare_heads(fitter, examples) if config.head == "auto" else {}
    name = best_head(compared) if compared else config.head
    head = Head(extractor, fitter.fit(name, examples))
    _say_once(fitter)
    truth = np.array([row["label"] for row in material.validation])
    logits = scoring.predict_logits(head, scoring.single_pass_loader(material.validation, config), config)
    temperature = scoring.fit_temperature(logits, truth)
    probabilities = scoring.softmax(logits)
    abstention = fit_abstention(head, config, material, scoring.softmax(logits / temperature))
    parts = {"head": head.parts(), "abstention": abstention.parts()}
    scoring.write_model(output, config, material.classes, temperature, **parts)
    validation = all_metrics(probabilities, truth)
    found = {"head": name, "features_of": describe_extractor(config)}
    results = {
        "validation": validation,
        "confusion": confusion(probabilities, truth).tolist(),
        "temperature": temperature,
        "classes": material.classes,
        "features": examples.features.shape[1],
        "fits": dict(fitter.fits),
        "fits_not_converged": dict(fitter.stopped),
    }
    if compared:
        results["heads_out_of_fold"] = compared
        _show(output, table_of_heads(compared, name))
    store.write_json(output / "metrics.json", results | found)
    return {"validation": validation, **found}


def gather_examples(extractor: nn.Module, config: ClassifyConfig, material: Material) -> Examples:
    """Return what is fitted on; with augmentation, each chosen image once more, changed."""
    factors = {"real": config.real_loss_weight, "synthetic": config.synthetic_loss_weight}
    rows = [row for row in material.training if factors[row["source"]] > 0]
    missing = set(range(len(material.classes))) - {row["label"] for row in rows}
    if missing:
        raise RecordsError(
            f"class {material.classes[min(missing)]!r}: no training image of a loss weight above 0, expected at least "
            "one; set classify#real_loss_weight or classify#synthetic_loss_weight above 0"
        )
    features = _features(extractor, rows, config)
    changed = [row for row in rows if config.augmentation_of in ("all", row["source"])]
    changed = changed if config.augmentation != "none" else []
    if changed:
        features = np.concatenate([features, _features(extractor, changed, config, augmented=True)])
    rows = [*rows, *changed]
    labels = np.array([row["label"] for row in rows])
    weights = np.array([factors[row["source"]] for row in rows])
    return Examples(features, labels, weights, rows, views=len(changed))


def _features(extractor: nn.Module, rows: Any, config: ClassifyConfig, augmented: bool = False) -> np.ndarray:
    return extract(extractor, scoring.single_pass_loader(rows, config), config, augmented)


def _say_once(fitter: Fitter) -> None:
    """Warn of fits that reached their limit of iterations: published settings have one, and it is no fault."""
    early = {head: count for head, count in fitter.stopped.items() if count}
    if early:
        each = ", ".join(f"{count} of {fitter.fits[head]} fits of {head}" for head, count in early.items())
        warnings.warn(
            f"classify: {each} reached the limit of iterations before converging; the limit is part of the settings "
            "and the head is used as it is",
            stacklevel=2,
        )


def _show(output: Path, table: str) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(output / "tensorboard")) as writer:
        writer.add_text("heads, judged out of fold on the training images", table)
