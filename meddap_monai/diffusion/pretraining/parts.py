"""The settings of what a base is made of: its pictures, its autoencoder, its text encoder and its UNet."""

from dataclasses import dataclass, field
from typing import Annotated

from meddap_monai.core.constraints import Choice, Count, Range, Share, here, settings
from meddap_monai.errors import ConfigurationError


@dataclass(frozen=True)
@settings("pretrain#views")
class ViewsConfig:
    """How pictures are cut and captioned.

    Attributes:
        clean: views per image without an adjective; the first is the plain crop.
        changed: views per image with an adjective.
        smallest: smallest side of a random crop, as a share of the plain crop.
        flip: chance of a horizontal flip, except in the plain view.
        captions: "prompts" (the tables' sentences) or "none" (the empty prompt: an unconditional base).
        device_template: scanner model in ``meta.device`` -> number of the template its captions use.
        close: further views around ``meta.lesion_box`` ([x0, y0, x1, y1] in pixels), for records that have one.
        words: keys of the records' ``meta`` whose values become words of the captions, such as ("device", "birads");
            "view" is known without one: "close" or "whole" of a record with a lesion box. Each caption draws a share,
            and leaves each of its words out with this chance, so that the base knows prompts with any of them.
    """

    clean: Annotated[int, Range(1, 10_000)] = 8
    changed: Annotated[int, Range(0, 10_000)] = 8
    smallest: Annotated[float, Range(0.1, 1.0)] = 0.82
    flip: Share = 0.5
    captions: Annotated[str, Choice(("prompts", "none"))] = "prompts"
    device_template: dict[str, int] = field(default_factory=dict)
    close: Annotated[int, Range(0, 10_000)] = 0
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
@settings("pretrain#autoencoder")
class AutoencoderConfig:
    """Shape and training of the autoencoder.

    Attributes:
        encoder: "patch_pca" (fixed, linear, needs four or fewer halvings) or "learned" (trained with the decoder).
        channels: widths from full resolution downwards; n widths give factor 2**(n-1).
        latents: latent channels; for "patch_pca" the number of principal components.
        whitening: 0 keeps every component at the first one's scale (white), 1 keeps PCA's own scales.
        layers: residual blocks per resolution.
        groups: of the group normalisations.
        attention: self-attention in the middle block.
        steps: training steps.
        corner_steps: steps of `corner_repair.CornerTraining` afterwards; 0 leaves the corners as they are.
        batch: crops per step.
        crop: side of a training crop in pixels; every second step takes a quarter as many whole pictures.
        learning_rate: peak.
        gradient: weight of the loss on image gradients.
        spectrum: weight of the loss on the logarithm of the spectrum.
        adversarial: share of the reconstruction gradient that the patch discriminator's may reach; 0 is none.
        adversarial_from: share of the steps before the discriminator starts.
        kl: weight of the Kullback-Leibler term ("learned" only).
        latent_noise: largest standard deviation of noise added to latents while the decoder trains.
        per_group: views of a class on a device that the components and the decoder learn from, at most; 0: all.
    """

    encoder: Annotated[str, Choice(("patch_pca", "learned"))] = "patch_pca"
    channels: Annotated[tuple[Annotated[int, Range(1, 4096)], ...], Count(2, 6)] = (16, 32, 64, 64)
    latents: Annotated[int, Range(1, 256)] = 16
    whitening: Share = 0.25
    layers: Annotated[int, Range(1, 16)] = 1
    groups: Annotated[int, Range(1, 1024)] = 8
    attention: bool = False
    steps: Annotated[int, Range(0, 100_000_000)] = 8000
    corner_steps: Annotated[int, Range(0, 1_000_000)] = 0
    batch: Annotated[int, Range(1, 4096)] = 8
    crop: int = 64
    learning_rate: Annotated[float, Range(0.0, 10.0)] = 1e-3
    gradient: float = 0.5
    spectrum: float = 0.05
    adversarial: float = 0.4
    adversarial_from: Share = 0.4
    kl: float = 1e-6
    latent_noise: float = 0.15
    per_group: Annotated[int, Range(0, 100_000_000)] = 0

    def __post_init__(self) -> None:
        """Check crop and widths."""
        self.check_crop(self.crop, here("crop"))
        if self.encoder == "patch_pca":
            self._check_linear()

    def _check_linear(self) -> None:
        for level, width in enumerate(self.channels[:-2]):
            if width < 4 ** (level + 1):
                raise ConfigurationError(
                    f"{here('channels', str(level))} is {width}, expected at least {4 ** (level + 1)} for 'patch_pca'"
                )
        if self.channels[-2] != self.channels[-1]:
            raise ConfigurationError(f"{here('channels')} is {self.channels}; 'patch_pca' needs two equal last widths")
        if self.latents > self.factor**2:
            raise ConfigurationError(
                f"{here('latents')} is {self.latents}, expected at most {self.factor**2}, the pixels of a patch"
            )
        room = self.channels[-1] // self.groups - 2
        if room < 2 * -(-self.latents // self.groups):
            raise ConfigurationError(
                f"{here('channels')}: the last is {self.channels[-1]}, too narrow for {self.latents} latents, each "
                f"twice, and two constants in each of {self.groups} groups"
            )

    def check_crop(self, crop: int, name: str) -> None:
        """Raise `ConfigurationError` unless a crop of pictures is a crop of latents too."""
        if crop < self.factor or crop % self.factor:
            raise ConfigurationError(f"{name} is {crop}, expected a multiple of {self.factor}, the pixels per latent")

    @property
    def factor(self) -> int:
        """Pixels per latent, along one side."""
        return int(2 ** (len(self.channels) - 1))


@dataclass(frozen=True)
@settings("pretrain#text_encoder")
class TextEncoderConfig:
    """Shape and training of the text encoder.

    Attributes:
        width: of the hidden states and of the denoiser's cross-attention.
        layers: transformer layers.
        heads: attention heads.
        steps: training steps.
        batch: captions per step.
        learning_rate: peak.
    """

    width: Annotated[int, Range(8, 4096)] = 128
    layers: Annotated[int, Range(1, 48)] = 2
    heads: Annotated[int, Range(1, 256)] = 4
    steps: Annotated[int, Range(0, 10_000_000)] = 1200
    batch: Annotated[int, Range(1, 65536)] = 48
    learning_rate: Annotated[float, Range(0.0, 10.0)] = 1e-3


@dataclass(frozen=True)
@settings("pretrain#unet")
class DenoiserConfig:
    """Shape and training of the UNet.

    Attributes:
        channels: widths from the latents' resolution downwards.
        attention: per width, whether it holds self- and cross-attention.
        layers: residual blocks per resolution.
        heads: attention heads.
        groups: of the group normalisations.
        pooled_text: also add the pooled text to the time embedding.
        prediction: "v_prediction" or "epsilon".
        beta_start: first variance of the "scaled_linear" schedule of 1,000 steps.
        beta_end: last variance. 0.02 leaves a signal of 0.015 at the end: next to none, yet finite, so that every
            scheduler of diffusers samples from it (PNDM cannot start from exactly none).
        zero_terminal_snr: rescale the betas to exactly none (Lin et al. 2023); PNDM is then out.
        loss: "mse" or "l1" (HistoDiffusion).
        snr_gamma: min-SNR weighting (Hang et al. 2023, arXiv 2303.09556), usually 5; none weighs all times alike.
        steps: training steps.
        batch: latents per step.
        learning_rate: peak.
        warmup: steps of linear warm-up.
        text_factor: multiplies the rate of cross-attention and of the pooled-text path.
        ema: decay of the exponential moving average of the weights, which is what is kept.
        empty_prompt: chance of the empty prompt, for classifier-free guidance.
        changed_from: share of the steps after which pictures changed by adjectives join.
        changed_share: their share from then on.
        balance: a group of n pictures is drawn in proportion to n ** balance.
        emphasis: class -> factor of how often its groups are drawn; 1 where none is given.
    """

    channels: Annotated[tuple[Annotated[int, Range(1, 65536)], ...], Count(2, 8)] = (96, 160)
    attention: tuple[bool, ...] = (False, True)
    layers: Annotated[int, Range(1, 16)] = 1
    heads: Annotated[int, Range(1, 256)] = 4
    groups: Annotated[int, Range(1, 1024)] = 16
    pooled_text: bool = True
    prediction: Annotated[str, Choice(("v_prediction", "epsilon"))] = "v_prediction"
    beta_start: float = 0.00085
    beta_end: float = 0.02
    zero_terminal_snr: bool = False
    loss: Annotated[str, Choice(("mse", "l1"))] = "mse"
    snr_gamma: Annotated[float, Range(0.01, 1e6)] | None = None
    steps: Annotated[int, Range(0, 100_000_000)] = 7000
    batch: Annotated[int, Range(1, 65536)] = 16
    learning_rate: Annotated[float, Range(0.0, 10.0)] = 5e-4
    warmup: Annotated[int, Range(0, 100_000_000)] = 100
    text_factor: float = 2.0
    ema: Share = 0.999
    empty_prompt: Share = 0.1
    changed_from: Share = 0.5
    changed_share: Share = 0.4
    balance: float = 0.4
    emphasis: dict[str, Annotated[float, Range(0.0, 1000.0)]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that there is an answer for each width."""
        if len(self.attention) != len(self.channels):
            raise ConfigurationError(
                f"{here('attention')}: got {len(self.attention)} values, expected {len(self.channels)}, one per width"
            )
