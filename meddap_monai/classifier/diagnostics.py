"""TensorBoard pictures of a trained classifier: its surest errors, curves, calibration, embeddings, Grad-CAM."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from monai.visualize import GradCAM
from sklearn import metrics as sk
from torch import nn

from meddap_monai.classifier.config import ClassifyConfig
from meddap_monai.classifier.data import to_float
from meddap_monai.classifier.features import extract
from meddap_monai.classifier.material import Material
from meddap_monai.classifier.projector import write_projector
from meddap_monai.classifier.scoring import decode, single_pass_loader
from meddap_monai.core.records import Record
from meddap_monai.encoders.features import Penultimate
from meddap_monai.statistics.metrics import confusion
from meddap_monai.statistics.weighted import ECE_BINS, confidence_bins

SHOWN = 12
EMBEDDED = 500
"""Images of training, and of validation, that the projector shows at most."""


def draw_pictures(
    config: ClassifyConfig, output: Path, material: Material, network: nn.Module, probabilities: np.ndarray
) -> None:
    """Write the pictures of the chosen weights on the validation images into ``<output>/tensorboard``.

    Args:
        config: the run.
        output: its folder.
        material: records and classes.
        network: with the chosen weights.
        probabilities: ``(N, K)`` of the validation records.
    """
    from torch.utils.tensorboard import SummaryWriter

    labels = np.array([row["label"] for row in material.validation])
    with SummaryWriter(str(output / "tensorboard")) as writer:
        step = config.steps
        writer.add_figure("classify/confusion", confusion_figure(probabilities, labels, material.classes), step)
        writer.add_figure(
            "classify/roc and precision-recall", curves_figure(probabilities, labels, material.classes), step
        )
        writer.add_figure("classify/calibration", calibration_figure(probabilities, labels), step)
        wrong = most_confident_errors(probabilities, labels, SHOWN)
        if wrong:
            rows = [material.validation[place] for place in wrong]
            pixels = decode(rows, config)
            notes = [
                f"{material.classes[labels[place]]}, called {material.classes[probabilities[place].argmax()]} "
                f"({probabilities[place].max():.2f})"
                for place in wrong
            ]
            writer.add_figure("classify/surest errors", grid_figure(pixels, notes), step)
        _cams(writer, config, material, network, probabilities, step)
    _projector(config, output, material, network)


def most_confident_errors(probabilities: np.ndarray, labels: np.ndarray, limit: int) -> list[int]:
    """Return the indices of wrong predictions, the most confident first."""
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    order = wrong[np.argsort(-probabilities[wrong].max(axis=1), kind="stable")]
    return [int(place) for place in order[:limit]]


def _figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def confusion_figure(probabilities: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> Figure:
    """Draw the confusion matrix as counts."""
    table = confusion(probabilities, labels)
    figure, axes = _figure(1.5 + len(classes), 1.2 + len(classes))
    plot = axes[0, 0]
    plot.imshow(table, cmap="Blues")
    for true, predicted in np.ndindex(table.shape):
        plot.text(predicted, true, str(table[true, predicted]), ha="center", va="center")
    plot.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
    plot.set_yticks(range(len(classes)), classes)
    plot.set_xlabel("chosen")
    plot.set_ylabel("true")
    return figure


def curves_figure(probabilities: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> Figure:
    """Draw ROC and precision-recall curves of each class against the rest."""
    figure, axes = _figure(9, 4.2, columns=2)
    for label, name in enumerate(classes):
        truth = labels == label
        if truth.all() or not truth.any():
            continue
        false_positive, true_positive, _ = sk.roc_curve(truth, probabilities[:, label])
        axes[0, 0].plot(false_positive, true_positive, label=name)
        precision, recall, _ = sk.precision_recall_curve(truth, probabilities[:, label])
        axes[0, 1].plot(recall, precision, label=name)
    axes[0, 0].plot([0, 1], [0, 1], linestyle="--", color="grey")
    for plot, x, y in ((axes[0, 0], "1 - specificity", "sensitivity"), (axes[0, 1], "sensitivity", "precision")):
        plot.set_xlabel(x)
        plot.set_ylabel(y)
        if plot.get_legend_handles_labels()[0]:  # none where all images are of one class
            plot.legend()
    return figure


def calibration_figure(probabilities: np.ndarray, labels: np.ndarray) -> Figure:
    """Draw the reliability diagram: share of right answers against the confidence, in ten bins."""
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    place = confidence_bins(confidence)
    filled = [number for number in range(ECE_BINS) if (place == number).any()]
    figure, axes = _figure(4.5, 4.2)
    plot = axes[0, 0]
    plot.plot([0, 1], [0, 1], linestyle="--", color="grey")
    means = [confidence[place == number].mean() for number in filled]
    plot.bar(means, [right[place == number].mean() for number in filled], width=0.07)
    plot.set_xlim(0, 1)
    plot.set_ylim(0, 1)
    plot.set_xlabel("confidence")
    plot.set_ylabel("share right")
    return figure


def grid_figure(images: torch.Tensor, notes: Sequence[str], overlays: np.ndarray | None = None) -> Figure:
    """Draw images ``(B, C, H, W)`` uint8 with a note each, four in a row; heat maps ``(B, H, W)`` lie over them."""
    rows = -(-len(images) // 4)
    figure, axes = _figure(10, 2.8 * rows, rows, 4)
    for place, plot in enumerate(axes.flat):
        plot.axis("off")
        if place < len(images):
            picture = images[place].permute(1, 2, 0).numpy()
            plot.imshow(picture.squeeze(-1) if picture.shape[-1] == 1 else picture, cmap="gray", vmin=0, vmax=255)
            if overlays is not None:
                plot.imshow(overlays[place], cmap="inferno", alpha=0.45)
            plot.set_title(notes[place], fontsize=8)
    return figure


def last_convolution(network: nn.Module) -> str | None:
    """Return the name of the last convolution of a network; None without one."""
    names = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    return names[-1] if names else None


def class_activation(network: nn.Module, images: torch.Tensor, labels: Sequence[int], layer: str) -> np.ndarray:
    """Return MONAI's Grad-CAM maps ``(B, H, W)``, 1 where the network looked most, for chosen classes.

    Args:
        network: the classifier.
        images: ``(B, C, H, W)`` normalised.
        labels: class to explain, per image.
        layer: see `last_convolution`.
    """
    network.eval()
    cam = GradCAM(network, target_layers=layer, postprocessing=_scale_to_one)
    images = images.detach().requires_grad_()  # or torch warns where the layer is the first, as in a ViT
    with torch.enable_grad(), _without_inplace(network):
        maps = [cam(images[place : place + 1], class_idx=int(label))[0, 0] for place, label in enumerate(labels)]
    # MONAI keeps the last pass for ever: its graph and the hooks of the network hold each other outside Python's sight
    cam.nn_module.activations.clear()
    cam.nn_module.gradients.clear()
    cam.nn_module.score = None
    return np.stack([torch.as_tensor(found).detach().cpu().numpy() for found in maps])


def _scale_to_one(maps: torch.Tensor) -> torch.Tensor:
    """Scale maps ``(B, 1, H, W)`` to 0..1 each; MONAI's default turns them over, so that the most looked at is 0."""
    low, high = maps.amin(dim=(1, 2, 3), keepdim=True), maps.amax(dim=(1, 2, 3), keepdim=True)
    return (maps - low) / (high - low).clamp_min(1e-12)


@contextlib.contextmanager
def _without_inplace(network: nn.Module) -> Iterator[None]:
    """Let activations write new tensors: torch refuses to overwrite what a backward hook looks at (SqueezeNet)."""
    changed = [module for module in network.modules() if getattr(module, "inplace", False) is True]
    for module in changed:
        module.inplace = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for module in changed:
            module.inplace = True  # type: ignore[assignment]


def _cams(
    writer: Any, config: ClassifyConfig, material: Material, network: nn.Module, probabilities: np.ndarray, step: int
) -> None:
    layer = last_convolution(network)
    if layer is None:
        return
    predicted = probabilities.argmax(axis=1)
    chosen = np.argsort(-probabilities.max(axis=1), kind="stable")[:SHOWN]
    rows = [material.validation[place] for place in chosen]
    pixels = decode(rows, config)
    images = to_float(pixels.to(config.device))
    maps = class_activation(network, images, predicted[chosen].tolist(), layer)
    notes = [
        f"{row['class_name']}, called {material.classes[predicted[place]]}"
        for row, place in zip(rows, chosen, strict=True)
    ]
    writer.add_figure("classify/Grad-CAM", grid_figure(pixels, notes, maps), step)


def _projector(config: ClassifyConfig, output: Path, material: Material, network: nn.Module) -> None:
    """Write embeddings of training and validation images with class, source and split for TensorBoard's projector."""
    rows = [*subsample_rows(material.training, EMBEDDED), *subsample_rows(material.validation, EMBEDDED)]
    features = extract(Penultimate(network), single_pass_loader(rows, config), config)
    labels = [[row["class_name"], row["source"], row["split"]] for row in rows]
    write_projector(output / "tensorboard", features, labels, ["class", "source", "split"], "images")


def subsample_rows(rows: Sequence[Record], most: int) -> Sequence[Record]:
    """Return at most `most` rows, evenly from first to last: real and synthetic ones in proportion."""
    return rows[:: max(1, -(-len(rows) // most))]
