"""A trained classifier as it lies in its folder: write it, load it, and turn records into class probabilities."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import DataLoader
from scipy import special
from scipy.optimize import minimize_scalar
from torch import nn

from meddap_monai import store
from meddap_monai.classifier.abstention import Abstention, restore_abstention
from meddap_monai.classifier.config import ClassifyConfig, identity
from meddap_monai.classifier.data import in_order, make_dataset, make_loader, to_float
from meddap_monai.classifier.heads import empty_network, restore_head
from meddap_monai.core.configuration import build
from meddap_monai.core.records import Record
from meddap_monai.core.tensors import check_finite, save_tensors
from meddap_monai.encoders.places import pinned
from meddap_monai.errors import StageError

MODEL = "model.pt"
MOST_NAMED = 8
"""Folders that a message names."""


@dataclass
class Classifier:
    """A classifier ready to predict.

    Attributes:
        config: how it was trained.
        classes: names in the order of its probabilities.
        temperature: divisor of the logits that calibrates them on the validation images (Guo et al. 2017).
        network: maps images in 0..1 ``(B, C, H, W)`` to logits; for a classical head, to its log probabilities.
        abstention: tells when it has no answer; None where it was trained by an earlier version.
    """

    config: ClassifyConfig
    classes: list[str]
    temperature: float
    network: nn.Module
    abstention: Abstention | None = None

    def logits(self, rows: Sequence[Record], batch: int = 64) -> np.ndarray:
        """Return ``(N, K)`` float64 logits of records, in their order."""
        return predict_logits(self.network, single_pass_loader(rows, self.config, batch), self.config)

    def pixels(self, rows: Sequence[Record]) -> torch.Tensor:
        """Return the images of records as this classifier decodes them: ``(N, C, size, size)`` uint8."""
        return decode(rows, self.config)

    @property
    def decoding(self) -> tuple[int, int, str]:
        """What `pixels` depends on; classifiers of equal decoding can share them."""
        return self.config.resolution, self.config.channels, self.config.fit

    def logits_of_pixels(self, pixels: torch.Tensor, batch: int = 64) -> np.ndarray:
        """Return ``(N, K)`` float64 logits of decoded images ``(N, C, size, size)`` uint8."""
        return predict_logits(self.network, in_batches(pixels, batch), self.config)

    def probabilities(self, rows: Sequence[Record], calibrated: bool = False, batch: int = 64) -> np.ndarray:
        """Return ``(N, K)`` float64 probabilities of records, in their order."""
        return softmax(self.logits(rows, batch) / (self.temperature if calibrated else 1.0))


def without_cache(config: ClassifyConfig) -> ClassifyConfig:
    """Return the configuration for a single pass over images."""
    return replace(config, cache="none", workers=0)


def single_pass_loader(rows: Sequence[Record], config: ClassifyConfig, batch: int = 64) -> DataLoader:
    """Return a loader over records in their order, each decoded once; batches as of `collate`."""
    return make_loader(make_dataset(rows, without_cache(config)), in_order(len(rows), batch))


def decode(rows: Sequence[Record], config: ClassifyConfig) -> torch.Tensor:
    """Return the images of records: ``(N, C, size, size)`` uint8."""
    return torch.cat([batch["image"] for batch in single_pass_loader(rows, config)])


def in_batches(pixels: torch.Tensor, batch: int = 64) -> Iterator[dict[str, torch.Tensor]]:
    """Yield decoded images as `single_pass_loader` would."""
    return ({"image": part} for part in pixels.split(batch))


@torch.inference_mode()
def predict_logits(network: nn.Module, loader: Any, config: ClassifyConfig) -> np.ndarray:
    """Run a network over a loader; return ``(N, K)`` float64 logits."""
    network.eval()
    found = []
    for batch in loader:
        images = to_float(batch["image"].to(config.device))
        found.append(logits_of_views(network, images, config.views))
    return torch.cat(found).numpy()


def logits_of_views(network: nn.Module, images: torch.Tensor, views: int = 1) -> torch.Tensor:
    """Return ``(B, K)`` float64 logits of images ``(B, C, H, W)`` in 0..1, the mean over views of them."""
    seen = views_of(images, views)
    found = [network(view.contiguous(memory_format=torch.channels_last)).double().cpu() for view in seen]
    return torch.stack(found).mean(dim=0)


def views_of(images: torch.Tensor, count: int) -> list[torch.Tensor]:
    """Return `count` of: the images, flipped left to right, the middle 92 % enlarged, that flipped."""
    views = [images, images.flip(-1)]
    if count > 2:
        side = int(images.shape[-1])  # while traced, it is a tensor
        edge = max(1, round(0.04 * side))
        zoomed = nn.functional.interpolate(
            images[..., edge:-edge, edge:-edge], size=(side, side), mode="bilinear", align_corners=False
        )
        views += [zoomed, zoomed.flip(-1)]
    return views[:count]


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return row-wise softmax of ``(N, K)``.

    Raises:
        StageError: a value is not finite, so that there is no answer.
    """
    if not np.isfinite(logits).all():
        raise StageError("a network's outputs hold NaN or infinite values; train it again at a lower learning rate")
    return special.softmax(logits, axis=1)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the temperature in 0.05..20 that minimises the log loss on validation images."""

    def log_loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        scaled = scaled - scaled.max(axis=1, keepdims=True)
        return float((np.log(np.exp(scaled).sum(axis=1)) - scaled[np.arange(len(labels)), labels]).mean())

    return float(np.exp(minimize_scalar(log_loss, bounds=(np.log(0.05), np.log(20.0)), method="bounded").x))


def _below(folder: Path) -> str:
    """Return what to give in place of a folder without a classifier: those with one below it, or its own; or ""."""
    if folder.name == MODEL and folder.is_file():
        return f"give its folder, {folder.parent}"
    levels = ("/".join(["*"] * depth + [MODEL]) for depth in range(1, 6))
    found = [path.parent for pattern in levels for path in sorted(folder.glob(pattern))]
    more = f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
    return (
        f"classifiers below it: {', '.join(map(str, found[:MOST_NAMED]))}{more}; give one or several" if found else ""
    )


def load_classifier(folder: Path | str, device: str = "cpu") -> Classifier:
    """Load the classifier of a finished ``classify`` folder.

    Raises:
        StageError: there is no model, or it is not one of this package.
    """
    path = Path(folder) / MODEL
    if not path.exists() and (others := _below(Path(folder))):
        raise StageError(f"{path}: does not exist; {others}")
    try:
        document = torch.load(store.regular_file(path), map_location="cpu", weights_only=True)
        values = document["configuration"] | {"device": device, "weights": None}
        config = build(ClassifyConfig, values, "classify")
        classes, temperature = checked_card(document["classes"], document["temperature"])
        if config.mode == "probe":
            network: nn.Module = restore_head(config, len(classes), document["head"])
        else:
            network = empty_network(config, len(classes))
            network.load_state_dict(document["network"])
        parts = document.get("abstention")
        abstention = None if parts is None else restore_abstention(parts, len(classes))
        check_finite(network.state_dict(), path, StageError)
    except StageError:
        raise
    except Exception as error:
        raise StageError(
            f"{path}: no classifier of this package ({type(error).__name__}: {error}); run classify again"
        ) from error
    network = network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Classifier(config, classes, temperature, network, abstention)


def checked_card(classes: Any, temperature: Any) -> tuple[list[str], float]:
    """Return the class names and the temperature of a model.

    Raises:
        ValueError: names that are no texts or occur twice, or a temperature that is not a finite number above 0.
    """
    if not isinstance(classes, list) or not all(isinstance(name, str) and name for name in classes):
        raise ValueError(f"classes is {classes!r:.80}, expected a list of names")
    if len(set(classes)) != len(classes) or not classes:
        raise ValueError(f"classes is {classes!r:.80}, expected each name once")
    number = float(temperature)
    if not 0 < number < 1e6:
        raise ValueError(f"temperature is {number}, expected a finite number above 0")
    return classes, number


def write_model(
    output: Path, config: ClassifyConfig, classes: list[str], temperature: float, **parts: dict[str, Any]
) -> None:
    """Write ``model.pt``: tensors, text and numbers only, so ``torch.load(weights_only=True)`` reads it."""
    document = {
        "configuration": store.plain(replace(identity(config), encoder=pinned(config.encoder))),
        "classes": classes,
        "temperature": temperature,
    }
    save_tensors(output / MODEL, document | parts)
