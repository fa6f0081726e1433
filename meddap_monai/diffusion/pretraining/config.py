"""Every setting of pre-training, checked when it is made."""

from __future__ import annotations

from dataclasses import dataclass, field

from meddap_monai.core.configuration import check_choice, check_range
from meddap_monai.diffusion.pretraining.autoencoder import AutoencoderConfig
from meddap_monai.diffusion.pretraining.decoder_refinement import PolishConfig
from meddap_monai.diffusion.pretraining.text_encoder import TextEncoderConfig
from meddap_monai.diffusion.pretraining.unet import DenoiserConfig
from meddap_monai.diffusion.pretraining.views import ViewsConfig
from meddap_monai.errors import ConfigurationError


@dataclass(frozen=True)
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
        polish: further training of the decoder, on what the UNet draws.
        device: "cpu" or "cuda".
        half: compute the UNet in bfloat16 autocast.
        checkpoint_every: steps between checkpoints.
        picture_every: steps between pictures in TensorBoard.
        sources: lines for the card: data, licence, citation.
    """

    seed: int = 0
    resolution: int = 128
    prompts: tuple[str, ...] = ("breast", "fetal")
    views: ViewsConfig = field(default_factory=ViewsConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    text_encoder: TextEncoderConfig = field(default_factory=TextEncoderConfig)
    unet: DenoiserConfig = field(default_factory=DenoiserConfig)
    polish: PolishConfig = field(default_factory=PolishConfig)
    device: str = "cpu"
    half: bool = True
    checkpoint_every: int = 250
    picture_every: int = 500
    sources: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check what only the whole configuration can tell."""
        check_choice(self.device, ("cpu", "cuda"), "pretrain.device")
        check_range(self.resolution, 8, 2048, "pretrain.resolution")
        check_range(self.checkpoint_every, 1, 1_000_000_000, "pretrain.checkpoint_every")
        self.autoencoder.check_crop(self.polish.crop, "polish.crop")
        factor = self.autoencoder.factor * 2 ** (len(self.unet.channels) - 1)
        if self.resolution % factor:
            raise ConfigurationError(
                f"pretrain.resolution is {self.resolution}, expected a multiple of {factor}, which the autoencoder and "
                "the UNet halve it by"
            )
