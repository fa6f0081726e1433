"""What an ensemble of classifiers says of images, and what is said of it: a class with its set, or no answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from meddap_monai.classifier.abstention import Abstention, extractor_of, unit
from meddap_monai.classifier.data import to_float
from meddap_monai.classifier.inference_config import InferConfig
from meddap_monai.classifier.scoring import Classifier, logits_of_views, softmax
from meddap_monai.errors import StageError
from meddap_monai.images.framing import to_square

NO_ANSWER = "no answer"
BETWEEN = "|"
"""Between the classes of a set; no class name holds it."""


@dataclass(frozen=True)
class Scores:
    """What M classifiers say of F frames, K classes.

    Attributes:
        probabilities: (M, F, K), calibrated.
        raw: (M, F, K), not calibrated.
        outlying: (M, F), distance to the training images over the threshold: above 1 is out of distribution.
    """

    probabilities: np.ndarray
    raw: np.ndarray
    outlying: np.ndarray

    def mean(self) -> Scores:
        """Return the means over the frames, as of one frame."""
        return Scores(*(value.mean(axis=1, keepdims=True) for value in (self.probabilities, self.raw, self.outlying)))

    def frame(self, place: int) -> Scores:
        """Return those of one frame."""
        chosen = slice(place, place + 1)
        return Scores(self.probabilities[:, chosen], self.raw[:, chosen], self.outlying[:, chosen])

    def to_plain(self) -> dict[str, Any]:
        """Return what JSON holds, to the last bit."""
        return {field.name: [str((array := getattr(self, field.name)).dtype), array.tolist()] for field in fields(self)}

    @classmethod
    def from_plain(cls, given: Mapping[str, Any]) -> Scores:
        """Return the scores of which `to_plain` was made."""
        return cls(**{name: np.array(values, dtype=kind) for name, (kind, values) in given.items()})

    @property
    def flagged(self) -> bool:
        """Whether the frames together are out of distribution, by the mean over the classifiers."""
        return bool(self.outlying.mean() > 1)


def join(scores: Sequence[Scores]) -> Scores:
    """Return the frames of several in one."""
    return Scores(
        *(np.concatenate([getattr(one, name) for one in scores], 1) for name in ("probabilities", "raw", "outlying"))
    )


def abstention_of(model: Classifier, where: Path | str = "infer") -> Abstention:
    """Return what tells when a classifier has no answer.

    Raises:
        StageError: it was trained by a version that did not measure it.
    """
    if model.abstention is None:
        raise StageError(
            f"{where}: the classifier was made by an earlier version, which did not measure when it has no answer; "
            "run classify again"
        )
    return model.abstention


def picture_of(pixels: np.ndarray, channels: int) -> Image.Image:
    """Return pixels ``(C, H, W)`` uint8, grey or colour, as a grey (`channels` 1) or colour picture."""
    array = pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))
    return Image.fromarray(array).convert("L" if channels == 1 else "RGB")


def score_frames(ensemble: Sequence[Classifier], frames: np.ndarray, outliers: float) -> Scores:
    """Return what classifiers say of frames ``(F, C, H, W)`` uint8; `outliers` as in `InferConfig`."""
    each = [_score(model, frames, outliers) for model in ensemble]
    return Scores(*(np.stack(values) for values in zip(*each, strict=True)))


@torch.inference_mode()
def _score(model: Classifier, frames: np.ndarray, outliers: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    config, abstention = model.config, abstention_of(model)
    pictures = [picture_of(pixels, config.channels) for pixels in frames]
    squares = torch.stack([to_square(picture, config.resolution, config.fit) for picture in pictures])
    images = to_float(squares.to(config.device)).contiguous(memory_format=torch.channels_last)
    logits = logits_of_views(model.network.eval(), images, config.views).numpy()
    features = extractor_of(model.network).eval()(images).float().cpu().numpy()
    outlying = abstention.distance(unit(features)) / abstention.threshold(outliers)
    return softmax(logits / model.temperature), softmax(logits), outlying


def head_of(config: InferConfig, classes: Sequence[str]) -> list[str]:
    """Return the columns of the table."""
    about = {"frame": ["file", "frame"], "file": ["file", "frames"]}
    about["patient"] = ["patient", "files", "flagged_files", "frames"]
    numbers = ["confidence", *[f"p_{name}" for name in classes], "spread"]
    return [*about[config.rows], "class", *numbers, "set", "out_of_distribution", "flagged"]


def cells_of(scores: Scores, ensemble: Sequence[Classifier], config: InferConfig) -> list[str]:
    """Return the cells from ``class`` on for the mean over frames.

    A class belongs to the set when its p-value, the mean over the classifiers, is above 1 - coverage.
    """
    classes, mean = ensemble[0].classes, scores.mean()
    each = (mean.probabilities if config.calibrated else mean.raw)[:, 0]
    shown, whole = each.mean(axis=0), config.rows == "patient"
    asked = zip(ensemble, mean.probabilities[:, 0], strict=True)
    values = np.mean([abstention_of(model).p_values(own, whole) for model, own in asked], axis=0)
    chosen = [name for name, value in zip(classes, values, strict=True) if value > 1 - config.coverage + 1e-9]
    best = classes[int(shown.argmax())]
    answered = config.answer == "always" or (chosen == [best] and not mean.flagged)
    numbers = (shown.max(), *shown, float(each.std(axis=0).max()))
    return [
        best if answered else NO_ANSWER,
        *[f"{value:.6f}" for value in numbers],
        BETWEEN.join(chosen),
        f"{mean.outlying.mean():.4f}",
        "yes" if mean.flagged else "no",
    ]
