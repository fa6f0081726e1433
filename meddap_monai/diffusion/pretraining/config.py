"""Every setting of pre-training, checked when it is made."""

from dataclasses import dataclass, field
from typing import Annotated

from meddap_monai.core.constraints import Choice, Range, Share, here, settings
from meddap_monai.diffusion.pretraining.parts import AutoencoderConfig, DenoiserConfig, TextEncoderConfig, ViewsConfig
from meddap_monai.errors import ConfigurationError


@dataclass(frozen=True)
@settings("pretrain#refinement")
class RefinementConfig:
    """How a decoder is made sharper once the UNet is trained.

    Attributes:
        steps: training steps; 0 leaves the decoder as it is.
        drawn: latents that the UNet draws first, with the captions of as many training views.
        sampling_steps: of DPM-Solver++ for each.
        guidance: classifier-free guidance scale of each.
        batch: crops of real pictures per step; every second step takes a quarter as many whole ones.
        batch_drawn: drawn latents per step, decoded whole.
        crop: side of a crop in pixels.
        learning_rate: peak.
        gradient: weight of the loss on image gradients (encoded latents).
        spectrum: weight of the loss on the logarithm of the spectrum (encoded latents).
        energy: weight of the distance of log power spectra from the captions' means (drawn latents).
        discriminator_learning_rate: peak learning rate of the discriminator.
        adversarial: share of the reconstruction gradient that the discriminator's reaches after a fifth of the steps;
            in the first tenth the discriminator learns alone.
        latent_noise: largest standard deviation of noise added to encoded latents.
        ema: decay of the moving average of the weights.
    """

    steps: Annotated[int, Range(0, 100_000_000)] = 0
    drawn: Annotated[int, Range(1, 10_000_000)] = 512
    sampling_steps: Annotated[int, Range(1, 1000)] = 15
    guidance: float = 2.5
    batch: Annotated[int, Range(1, 4096)] = 8
    batch_drawn: Annotated[int, Range(1, 4096)] = 2
    crop: int = 64
    learning_rate: Annotated[float, Range(0.0, 10.0)] = 3e-4
    discriminator_learning_rate: Annotated[float, Range(0.0, 10.0)] = 1e-3
    gradient: float = 0.5
    spectrum: float = 0.05
    energy: float = 0.2
    adversarial: float = 0.5
    latent_noise: float = 0.15
    ema: Share = 0.995


@dataclass(frozen=True)
@settings("pretrain")
class PretrainConfig:
    """What to train and for how long.

    Attributes:
        seed: everything random derives from it.
        resolution: side of the pictures in pixels, a multiple of the autoencoder's factor.
        prompts: prompt tables that caption the records; their classes must not share names.
        views: crops and captions.
        autoencoder: shape and training of the autoencoder.
        text_encoder: shape and training of the text encoder.
        unet: shape and training of the UNet.
        refinement: further training of the decoder, on what the UNet draws.
        device: "cpu" or "cuda".
        precision: "fp32", or "bf16": the UNet computes in bfloat16 autocast.
        checkpoint_every: steps between checkpoints.
        pictures_every: steps between pictures in TensorBoard.
        part_mb: largest file of weights in MB; a part of the base that is larger is saved in several. 0: one file each.
        sources: lines for the card: data, licence, citation.
    """

    seed: int = 0
    resolution: Annotated[int, Range(8, 2048)] = 128
    prompts: tuple[str, ...] = ("breast", "fetal")
    views: ViewsConfig = field(default_factory=ViewsConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    text_encoder: TextEncoderConfig = field(default_factory=TextEncoderConfig)
    unet: DenoiserConfig = field(default_factory=DenoiserConfig)
    refinement: RefinementConfig = field(default_factory=RefinementConfig)
    device: Annotated[str, Choice(("cpu", "cuda"))] = "cpu"
    precision: Annotated[str, Choice(("fp32", "bf16"))] = "bf16"
    checkpoint_every: Annotated[int, Range(1, 1_000_000_000)] = 250
    pictures_every: Annotated[int, Range(1, 1_000_000_000)] = 500
    part_mb: Annotated[int, Range(0, 100_000)] = 0
    sources: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check what only the whole configuration can tell."""
        self.autoencoder.check_crop(self.refinement.crop, here("refinement", "crop"))
        factor = self.autoencoder.factor * 2 ** (len(self.unet.channels) - 1)
        if self.resolution % factor:
            raise ConfigurationError(
                f"{here('resolution')} is {self.resolution}, expected a multiple of {factor}, which the autoencoder "
                "and the UNet halve it by"
            )
