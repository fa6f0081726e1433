"""What a classifier run is asked for: one frozen dataclass, checked on construction."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from meddap_monai.augmentation.parts import PARTS
from meddap_monai.core.constraints import Choice, Precision, Range, Share, here, settings
from meddap_monai.errors import ConfigurationError, MeddapError
from meddap_monai.store import sha256_file

HEADS = ("none", "logistic", "svc", "mlp")
EXTRACTOR_HOG = "hog"


@dataclass(frozen=True)
@settings("classify")
class ClassifyConfig:
    """One classifier: network, images, optimisation, mixing of real and synthetic images.

    All arms of a comparison use the same values but `augmentation`; the arm itself stands in the records.

    Attributes:
        network: a name of `meddap_monai.classifier.networks.NETWORKS`, ``torchvision:<name>``, ``timm:<name>``, or
            ``hog`` (histograms of oriented gradients; only with a head).
        weights: local state dict (``.pt`` or ``.safetensors``) to start from, never downloaded; None starts at random.
        head: ``none`` trains the network; else a classical head is fitted on its frozen features.
        channels: 1 (grey) or 3.
        resolution: side of the square that the network sees, in pixels.
        fit: ``pad`` keeps the aspect ratio with black borders, ``stretch`` fills the square, ``crop`` cuts the centre.
        normalise: ``image`` gives each image mean 0 and deviation 1, ``range`` maps 0..255 to -1..1.
        steps: optimizer steps, equal for all arms.
        batch: images per step over all processes.
        learning_rate: at the first step; `schedule` takes it from there.
        weight_decay: of the optimizer.
        optimizer: ``adamw``, ``adam`` or ``sgd`` (momentum 0.9).
        schedule: ``cosine`` to zero, or ``constant``.
        augmentation: ``classical`` = rotation, zoom, flip, contrast, noise (`meddap_monai.classifier.augment`);
            ``ultrasound`` = what separates scanners (`meddap_monai.augmentation`).
        augmentation_of: which source is augmented.
        augmentation_strength: factor on every range; 1 is as measured, 0 changes nothing.
        augmentation_without: parts of ``ultrasound`` to leave out (`meddap_monai.augmentation.parts`); for ablations.
        real_weight: sampling weight of one real image.
        synthetic_weight: sampling weight of one synthetic image; 1 and 1 draw them as often as they occur.
        real_loss_weight: factor on the loss of real images.
        synthetic_loss_weight: factor on the loss of synthetic images.
        class_weights: ``balanced`` weights the loss by inverse class frequency in train.
        balance_classes: draw all classes equally often.
        loss: ``cross_entropy`` or ``focal`` (Lin et al. 2017).
        focal_gamma: focusing parameter of the focal loss.
        label_smoothing: share of the target spread over all classes.
        mixup: alpha of the Beta distribution (Zhang et al. 2018); 0 switches it off.
        precision: of training: "fp32", "bf16" or "fp16" (GPU only, with a scaled loss); weights stay in float32.
        compile: ``torch.compile`` the network.
        cache: ``memory`` decodes once (MONAI ``CacheDataset``), ``disk`` ``PersistentDataset``, ``none`` each time.
        workers: loader processes; the result does not depend on it.
        validation_every: steps between validations.
        checkpoint_every: steps between checkpoints; at most these are lost by a kill.
        patience: validations without a better AUC after which training stops; 0 never stops early.
        keep: keep the weights ``best`` by validation AUC or the ``last`` ones.
        pictures: TensorBoard pictures at the end (errors, curves, calibration, Grad-CAM, projector).
        device: torch device.
        seed: initial weights, batch order, augmentation.
    """

    network: str = "resnet10"
    weights: Path | None = None
    head: Annotated[str, Choice(HEADS)] = "none"
    channels: Annotated[int, Range(1, 3)] = 1
    resolution: Annotated[int, Range(16, 1024)] = 64
    fit: Annotated[str, Choice(("pad", "stretch", "crop"))] = "pad"
    normalise: Annotated[str, Choice(("image", "range"))] = "image"
    steps: Annotated[int, Range(1, 10_000_000)] = 400
    batch: Annotated[int, Range(1, 65_536)] = 16
    learning_rate: Annotated[float, Range(1e-8, 10.0)] = 1e-3
    weight_decay: Share = 1e-4
    optimizer: Annotated[str, Choice(("adamw", "adam", "sgd"))] = "adamw"
    schedule: Annotated[str, Choice(("cosine", "constant"))] = "cosine"
    augmentation: Annotated[str, Choice(("none", "classical", "ultrasound"))] = "none"
    augmentation_of: Annotated[str, Choice(("all", "real", "synthetic"))] = "all"
    augmentation_strength: Annotated[float, Range(0.0, 3.0)] = 1.0
    augmentation_without: tuple[Annotated[str, Choice(PARTS)], ...] = ()
    real_weight: Annotated[float, Range(0.0, 1e6)] = 1.0
    synthetic_weight: Annotated[float, Range(0.0, 1e6)] = 1.0
    real_loss_weight: Annotated[float, Range(0.0, 1e6)] = 1.0
    synthetic_loss_weight: Annotated[float, Range(0.0, 1e6)] = 1.0
    class_weights: Annotated[str, Choice(("none", "balanced"))] = "none"
    balance_classes: bool = False
    loss: Annotated[str, Choice(("cross_entropy", "focal"))] = "cross_entropy"
    focal_gamma: Annotated[float, Range(0.0, 10.0)] = 2.0
    label_smoothing: Annotated[float, Range(0.0, 0.5)] = 0.0
    mixup: Annotated[float, Range(0.0, 10.0)] = 0.0
    precision: Precision = "fp32"
    compile: bool = False
    cache: Annotated[str, Choice(("memory", "disk", "none"))] = "memory"
    workers: Annotated[int, Range(0, 64)] = 0
    validation_every: Annotated[int, Range(1, 10_000_000)] = 50
    checkpoint_every: Annotated[int, Range(1, 10_000_000)] = 100
    patience: Annotated[int, Range(0, 1_000_000)] = 0
    keep: Annotated[str, Choice(("best", "last"))] = "best"
    pictures: bool = True
    device: str = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.channels == 2:
            raise ConfigurationError(f"{here('channels')}: got 2, expected 1 (grey) or 3")
        if self.network == EXTRACTOR_HOG and self.head == "none":
            raise ConfigurationError(f"{here('head')}: network 'hog' has nothing to train; set head to 'logistic'")
        if self.real_weight == 0 and self.synthetic_weight == 0:
            raise ConfigurationError(f"{here('real_weight')}: both sampling weights are 0; expected one above 0")


def identity(config: ClassifyConfig) -> ClassifyConfig:
    """Return the configuration without what does not change the result; the file of weights by its content.

    Its path can hold a patient's or a hospital's name. So its SHA-256 and its suffix stand in its place.

    Raises:
        ConfigurationError: the file of weights cannot be read.
    """
    try:
        weights = config.weights and Path(f"{sha256_file(config.weights)}{Path(config.weights).suffix}")
    except MeddapError as error:
        raise ConfigurationError(f"classify#weights: {error}") from error
    return replace(config, workers=0, cache="memory", pictures=True, device="cpu", weights=weights)
