"""Training of a classical head: features once, then one deterministic fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from meddap_monai import store
from meddap_monai.classifier import scoring
from meddap_monai.classifier.config import ClassifyConfig
from meddap_monai.classifier.features import extract
from meddap_monai.classifier.heads import Head, build_extractor, fit_head
from meddap_monai.classifier.material import Material
from meddap_monai.statistics.metrics import all_metrics, confusion


def train_head(config: ClassifyConfig, output: Path, material: Material) -> dict[str, Any]:
    """Fit a head on the training records, write ``model.pt`` and ``metrics.json``; return what stage.json shows."""
    extractor = build_extractor(config, len(material.classes)).to(config.device)
    factors = {"real": config.real_loss_weight, "synthetic": config.synthetic_loss_weight}
    counted = [row for row in material.training if factors[row["source"]] > 0]
    rows, features = _training(extractor, counted, config)
    labels = np.array([row["label"] for row in rows])
    weights = np.array([factors[row["source"]] for row in rows])
    head = Head(extractor, fit_head(config, features, labels, weights))
    truth = np.array([row["label"] for row in material.validation])
    logits = head.score(_features(extractor, material.validation, config))
    temperature = scoring.fit_temperature(logits, truth)
    probabilities = scoring.softmax(logits)
    fitted_on = {"features": features, "labels": labels, "weights": weights}
    parts: dict[str, Any] = {name: torch.from_numpy(values) for name, values in fitted_on.items()}
    parts["extractor"] = {name: tensor.cpu() for name, tensor in extractor.state_dict().items()}
    scoring.write_model(output, config, material.classes, temperature, head=parts)
    validation = all_metrics(probabilities, truth)
    results = {
        "validation": validation,
        "confusion": confusion(probabilities, truth).tolist(),
        "temperature": temperature,
    }
    store.write_json(output / "metrics.json", results | {"classes": material.classes, "features": features.shape[1]})
    return {"validation": validation}


def _training(extractor: nn.Module, rows: Any, config: ClassifyConfig) -> tuple[list[Any], np.ndarray]:
    """Return training records and their features; with augmentation, each chosen image also changed once."""
    features = _features(extractor, rows, config)
    changed = [row for row in rows if config.augmentation_of in ("all", row["source"])]
    if config.augmentation == "none" or not changed:
        return list(rows), features
    return [*rows, *changed], np.concatenate([features, _features(extractor, changed, config, augmented=True)])


def _features(extractor: nn.Module, rows: Any, config: ClassifyConfig, augmented: bool = False) -> np.ndarray:
    return extract(extractor, scoring.single_pass_loader(rows, config), config, augmented)
