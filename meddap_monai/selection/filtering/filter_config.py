"""How the filter's classifier is trained: the settings `select#filter` and `cluster#filter`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from meddap_monai.classifier.config import ClassifyConfig
from meddap_monai.core.constraints import Choice, Range, constructing, here, settings


@dataclass(frozen=True)
@settings("select#filter")
class FilterConfig:
    """The classifier that judges synthetic images.

    Attributes:
        encoder: see `ClassifyConfig`.
        mode: ``finetune`` or ``scratch``, see `ClassifyConfig`.
        resolution: side in pixels at which images are judged.
        channels: 1 for grey, 3 for colour.
        fit: how an image becomes a square, see `ClassifyConfig`; synthetic images are square and real ones often are
            not, so "pad" would show the network which is which.
        folds: networks, each leaving out one part of the patients.
        steps: optimizer steps per network.
        batch: images per step.
        learning_rate: of AdamW, annealed to 0 by a cosine.
        weight_decay: of AdamW.
        views: views (1 to 4: as it is, flipped, and slightly enlarged of both) averaged when judging.
        device: where it is trained and used.
    """

    encoder: str = "resnet10_tiny"
    mode: Annotated[str, Choice(("finetune", "scratch"))] = "scratch"
    resolution: int = 64
    channels: int = 1
    fit: str = "stretch"
    folds: Annotated[int, Range(2, 20)] = 5
    steps: int = 300
    batch: int = 24
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    views: Annotated[int, Range(1, 4)] = 2
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Check what the classifier's own settings ask for."""
        with constructing(ClassifyConfig, here()):
            self.settings(0)

    def settings(self, seed: int) -> ClassifyConfig:
        """Return the classifier configuration of one fold."""
        return ClassifyConfig(
            encoder=self.encoder,
            mode=self.mode,
            resolution=self.resolution,
            channels=self.channels,
            fit=self.fit,
            steps=self.steps,
            batch=self.batch,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            augmentation="classical",
            balance_classes=True,
            label_smoothing=0.05,
            cache="none",
            device=self.device,
            seed=seed,
        )
