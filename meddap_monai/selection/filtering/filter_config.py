"""How the filter judges: the settings `select#filter` and `cluster#filter`."""

from dataclasses import dataclass
from typing import Annotated

from meddap_monai.classifier.config import MODES, ClassifyConfig
from meddap_monai.core.constraints import Choice, Range, constructing, here, settings


@dataclass(frozen=True)
@settings("select#filter")
class FilterConfig:
    """The classifier that judges synthetic images.

    Attributes:
        encoder: see `ClassifyConfig`.
        mode: ``probe`` fits a linear head per fold on the features of the frozen encoder, in seconds; ``finetune`` and
            ``scratch`` train a network per fold, see `ClassifyConfig`.
        head: of ``probe``: ``ridge`` or ``logistic``, see `ClassifyConfig`.
        features: of ``probe``: ``levels`` (means and deviations of the maps at every level but the last, see
            `meddap_monai.encoders.features.Levels`), or ``last`` (what enters the last linear layer).
        resolution: side in pixels at which images are judged.
        channels: 1 for grey, 3 for colour.
        fit: how an image becomes a square, see `ClassifyConfig`; synthetic images are square and real ones often are
            not, so "pad" would show the network which is which.
        folds: heads or networks, each leaving out one part of the patients.
        steps: optimizer steps per network; not of ``probe``.
        batch: images per step.
        learning_rate: of AdamW, at its highest.
        weight_decay: of AdamW.
        views: views (1 to 4: as it is, flipped, and slightly enlarged of both) averaged when judging; a probe also
            learns from them.
        device: where it is trained and used.
    """

    encoder: str = "efficientnet_lite0"
    mode: Annotated[str, Choice(MODES)] = "probe"
    head: Annotated[str, Choice(("ridge", "logistic"))] = "ridge"
    features: Annotated[str, Choice(("levels", "last"))] = "levels"
    resolution: int = 128
    channels: int = 1
    fit: str = "stretch"
    folds: Annotated[int, Range(2, 20)] = 5
    steps: int = 250
    batch: int = 16
    learning_rate: float = 3e-4
    weight_decay: float = 0.05
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
            head=self.head,
            resolution=self.resolution,
            channels=self.channels,
            fit=self.fit,
            steps=self.steps,
            batch=self.batch,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            augmentation="classical",
            class_weights="balanced" if self.mode == "probe" else "none",
            balance_classes=True,
            label_smoothing=0.05,
            cache="none",
            device=self.device,
            seed=seed,
        )
