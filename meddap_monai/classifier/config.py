"""What a classifier run is asked for: one frozen dataclass, checked on construction."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from meddap_monai.augmentation.parts import PARTS
from meddap_monai.core.constraints import Choice, Precision, Range, Share, here, settings
from meddap_monai.encoders.places import pinned, without_place
from meddap_monai.errors import ConfigurationError, MeddapError
from meddap_monai.store import sha256_file

MODES = ("finetune", "probe", "scratch")
CANDIDATES = ("ridge", "logistic", "svc", "mlp", "boosting")
"""Classical heads, the simplest first; ``auto`` compares them."""
HEADS = (*CANDIDATES, "auto")


@dataclass(frozen=True)
@settings("classify")
class ClassifyConfig:
    """One classifier: network, images, optimisation, mixing of real and synthetic images.

    All arms of a comparison use the same values but `augmentation`; the arm itself stands in the records.

    Attributes:
        encoder: a name of `meddap_monai.encoders.registry.ENCODERS`, ``torchvision:<name>``, ``timm:<name>``,
            ``transformers:<folder>`` or ``torchscript:<file>#<sha256>``.
        mode: ``finetune`` trains the encoder from its weights on, ``probe`` fits a classical head on its frozen
            features, ``scratch`` trains it from random weights.
        weights: local state dict (``.pt`` or ``.safetensors``) to start from in place of the encoder's own.
        head: of ``probe``: see `meddap_monai.classifier.fitting.build_model`; ``auto`` takes the one that does best on
            training patients left out.
        channels: 1 (grey) or 3.
        resolution: side of the square that the network sees, in pixels.
        fit: ``pad`` keeps the aspect ratio with black borders, ``stretch`` fills the square, ``crop`` cuts the centre.
        normalise: ``encoder`` as its weights expect (without weights: ``image``), ``image`` gives each image mean 0 and
            deviation 1, ``range`` maps 0..255 to -1..1.
        steps: optimizer steps, equal for all arms.
        batch: images per step over all processes.
        learning_rate: at the first step; `schedule` takes it from there.
        layer_decay: factor on the learning rate from one layer to the one before it; the last has `encoder_rate`.
        encoder_rate: factor on the learning rate of the encoder; its new last layer has 1.
        freeze: how many of the encoder's first layers stay as they are (`meddap_monai.encoders.layers.layers`).
        weight_decay: of the optimizer.
        optimizer: ``adamw``, ``adam`` or ``sgd`` (momentum 0.9).
        schedule: ``cosine`` to zero, ``one_cycle`` (up over the first 30 %, then to zero; Smith and Topin 2019), or
            ``constant``.
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
        ema: decay of a moving average of the weights, which is then what is validated and kept; 0 keeps none.
        keep: keep the weights ``best`` by validation AUC or the ``last`` ones.
        views: 1 to 4 views of an image whose logits are averaged (test-time augmentation), see `views_of`.
        pictures: TensorBoard pictures at the end (errors, curves, calibration, Grad-CAM, projector).
        device: torch device.
        seed: initial weights, batch order, augmentation.
    """

    encoder: str = "efficientnet_lite0"
    mode: Annotated[str, Choice(MODES)] = "finetune"
    weights: Path | None = None
    head: Annotated[str, Choice(HEADS)] = "ridge"
    channels: Annotated[int, Range(1, 3)] = 1
    resolution: Annotated[int, Range(16, 1024)] = 128
    fit: Annotated[str, Choice(("pad", "stretch", "crop"))] = "pad"
    normalise: Annotated[str, Choice(("encoder", "image", "range"))] = "encoder"
    steps: Annotated[int, Range(1, 10_000_000)] = 250
    batch: Annotated[int, Range(1, 65_536)] = 16
    learning_rate: Annotated[float, Range(1e-8, 10.0)] = 3e-4
    layer_decay: Annotated[float, Range(0.1, 1.0)] = 1.0
    encoder_rate: Annotated[float, Range(0.0, 10.0)] = 1.0
    freeze: Annotated[int, Range(0, 1000)] = 0
    weight_decay: Share = 0.05
    optimizer: Annotated[str, Choice(("adamw", "adam", "sgd"))] = "adamw"
    schedule: Annotated[str, Choice(("cosine", "one_cycle", "constant"))] = "one_cycle"
    augmentation: Annotated[str, Choice(("none", "classical", "ultrasound"))] = "ultrasound"
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
    label_smoothing: Annotated[float, Range(0.0, 0.5)] = 0.1
    mixup: Annotated[float, Range(0.0, 10.0)] = 0.0
    precision: Precision = "fp32"
    compile: bool = False
    cache: Annotated[str, Choice(("memory", "disk", "none"))] = "memory"
    workers: Annotated[int, Range(0, 64)] = 0
    validation_every: Annotated[int, Range(1, 10_000_000)] = 50
    checkpoint_every: Annotated[int, Range(1, 10_000_000)] = 100
    patience: Annotated[int, Range(0, 1_000_000)] = 0
    ema: Annotated[float, Range(0.0, 0.9999)] = 0.0
    keep: Annotated[str, Choice(("best", "last"))] = "best"
    views: Annotated[int, Range(1, 4)] = 2
    pictures: bool = True
    device: str = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.channels == 2:
            raise ConfigurationError(f"{here('channels')}: got 2, expected 1 (grey) or 3")
        if self.encoder == "hog" and self.mode != "probe":
            raise ConfigurationError(f"{here('mode')}: encoder 'hog' has nothing to train; set mode to 'probe'")
        if self.encoder.startswith("torchscript:") and self.mode == "scratch":
            raise ConfigurationError(f"{here('mode')}: a TorchScript file has its weights; expected finetune or probe")
        if self.real_weight == 0 and self.synthetic_weight == 0:
            raise ConfigurationError(f"{here('real_weight')}: both sampling weights are 0; expected one above 0")


def identity(config: ClassifyConfig) -> ClassifyConfig:
    """Return the configuration without what does not change the result; files by their content.

    A path can hold a patient's or a hospital's name. So SHA-256 and suffix of the file of weights, and name and SHA-256
    of an encoder's folder or file, stand in its place.

    Raises:
        ConfigurationError: the file of weights or the encoder cannot be read.
    """
    try:
        weights = config.weights and Path(f"{sha256_file(config.weights)}{Path(config.weights).suffix}")
    except MeddapError as error:
        raise ConfigurationError(f"classify#weights: {error}") from error
    encoder = without_place(pinned(config.encoder))
    return replace(config, workers=0, cache="memory", pictures=True, device="cpu", weights=weights, encoder=encoder)
