"""Every setting of adapter training, checked when it is made."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from meddap_monai.core.configuration import check_choice, check_range
from meddap_monai.diffusion.adapting.methods.dreambooth import DreamBooth
from meddap_monai.diffusion.adapting.methods.inversion import TextualInversion
from meddap_monai.diffusion.adapting.methods.method import Method
from meddap_monai.diffusion.adapting.methods.registry import METHODS
from meddap_monai.errors import ConfigurationError
from meddap_monai.images.framing import FITS

_CHOICES = {
    "fit": FITS,
    "schedule": ("constant", "cosine"),
    "precision": ("fp32", "bf16", "fp16"),
    "optimizer": ("adamw", "adamw8bit"),
    "keep": ("best", "last"),
}
_RANGES = {
    "steps": (1, 10_000_000),
    "batch": (1, 4096),
    "learning_rate": (0.0, 10.0),
    "text_learning_rate": (0.0, 10.0),
    "warmup": (0, 10_000_000),
    "weight_decay": (0.0, 10.0),
    "grad_clip": (0.0, 1e6),
    "accumulate": (1, 4096),
    "noise_offset": (0.0, 1.0),
    "caption_dropout": (0.0, 1.0),
    "ema": (0.0, 0.99999),
    "crops": (1, 64),
    "bucket_step": (8, 512),
    "validation_every": (0, 10_000_000),
    "validation_images": (1, 100_000),
    "validation_times": (1, 1000),
    "patience": (0, 10_000),
    "checkpoint_every": (1, 10_000_000),
    "samples_every": (0, 10_000_000),
    "samples_per_class": (0, 64),
    "sample_steps": (1, 1000),
    "guidance": (0.0, 100.0),
    "log_every": (1, 10_000),
}


@dataclass(frozen=True)
class AdaptConfig:
    """Settings of ``adapt``; the defaults of a method fill what is None.

    Attributes:
        method: "uslora", "fulora", "dreambooth", "textual_inversion", or another name in ``methods.registry``.
        rank: inner width of the low-rank layers; default by method.
        alpha: scale numerator; equal to the rank by default.
        prompts: prompt table, a name or a YAML file.
        adjective: of the training prompts.
        template: number of the table's sentence.
        classes: only these class names; empty takes all. One class gives one adapter per class.
        only: keep records whose ``meta`` has these values, e.g. ``{"cluster": "2"}`` or ``{"centre": "A"}``.
        resolution: side in pixels, a multiple of 8; the base's own by default.
        fit: "crop", "stretch" or "pad" for images of another shape.
        flip: half of the images mirrored; default by method.
        crops: cuts per image, 1 is the middle.
        buckets: aspect-ratio buckets; default by method.
        bucket_step: side step of the buckets in pixels.
        steps: optimiser steps.
        batch: images per step over all processes.
        learning_rate: of the UNet's layers (or the new words).
        text_learning_rate: of the text encoder's layers.
        schedule: "constant" or "cosine", after `warmup` steps.
        warmup: steps of linear warm-up.
        weight_decay: of AdamW.
        grad_clip: largest gradient norm; 0 does not clip.
        accumulate: parts in which a batch is computed, to save memory; the step stays the same.
        snr_gamma: min-SNR weighting; None weighs time steps alike.
        noise_offset: see ``objective``.
        caption_dropout: share of images trained with the empty prompt.
        clip_skip: text-encoder layers left out; default by method.
        ema: decay of the running mean of the weights that is validated and kept; 0 keeps the weights themselves.
        precision: "fp32", "bf16" or "fp16" (GPU only).
        optimizer: "adamw" or "adamw8bit" (GPU with bitsandbytes).
        gradient_checkpointing: recompute the forward pass to save memory.
        compile: compile the UNet before the first step (docs/performance.md).
        device: "auto", "cpu", "cuda", "cuda:1".
        validation_every: steps between validations on split val; 0 never validates.
        validation_images: at most this many.
        validation_times: fixed time steps per validation image.
        patience: stop after this many validations without a new best; 0 never stops early.
        keep: "best" by validation loss, or "last".
        checkpoint_every: steps between checkpoints, at most lost by a kill.
        samples_every: steps between sample grids in TensorBoard; 0 draws them at the end only.
        samples_per_class: pictures per class in grids and card; 0 draws none.
        sample_steps: sampling steps of those pictures.
        guidance: their guidance scale.
        log_every: steps between points of the curves.
        seed: of everything random.
        cache: folder of the latent cache, to share between runs; inside the output (and removed) by default.
        dreambooth: settings of that method.
        inversion: settings of that method.
    """

    method: str = "uslora"
    rank: int | None = None
    alpha: float | None = None
    prompts: str = "breast"
    adjective: str = "none"
    template: int = 0
    classes: tuple[str, ...] = ()
    only: dict[str, str] = field(default_factory=dict)
    resolution: int | None = None
    fit: str = "crop"
    flip: bool | None = None
    crops: int = 1
    buckets: bool | None = None
    bucket_step: int = 64
    steps: int = 1000
    batch: int = 4
    learning_rate: float = 1e-4
    text_learning_rate: float = 5e-5
    schedule: str = "constant"
    warmup: int = 0
    weight_decay: float = 1e-2
    grad_clip: float = 1.0
    accumulate: int = 1
    snr_gamma: float | None = None
    noise_offset: float = 0.0
    caption_dropout: float = 0.0
    clip_skip: int | None = None
    ema: float = 0.0
    precision: str = "fp32"
    optimizer: str = "adamw"
    gradient_checkpointing: bool = False
    compile: bool = False
    device: str = "auto"
    validation_every: int = 100
    validation_images: int = 64
    validation_times: int = 4
    patience: int = 0
    keep: str = "best"
    checkpoint_every: int = 100
    samples_every: int = 0
    samples_per_class: int = 2
    sample_steps: int = 15
    guidance: float = 3.0
    log_every: int = 10
    seed: int = 0
    cache: str | None = None
    dreambooth: DreamBooth = field(default_factory=DreamBooth)
    inversion: TextualInversion = field(default_factory=TextualInversion)

    def __post_init__(self) -> None:
        check_choice(self.method, tuple(METHODS), "adapt#method")
        for name, choices in _CHOICES.items():
            check_choice(getattr(self, name), choices, f"adapt#{name}")
        for name, (low, high) in _RANGES.items():
            check_range(getattr(self, name), low, high, f"adapt#{name}")
        if self.rank is not None:
            check_range(self.rank, 1, 1024, "adapt#rank")
        if self.alpha is not None:
            check_range(self.alpha, 1e-6, 1e6, "adapt#alpha")
        if self.resolution is not None and (self.resolution < 8 or self.resolution % 8):
            raise ConfigurationError(f"adapt#resolution: got {self.resolution}, expected a multiple of 8, 8 or more")
        if self.bucket_step % 8:
            raise ConfigurationError(f"adapt#bucket_step: got {self.bucket_step}, expected a multiple of 8")
        if self.patience and not self.validation_every:
            raise ConfigurationError("adapt#patience: early stopping needs validation; set adapt#validation_every")
        if self.accumulate > self.batch:
            raise ConfigurationError(
                f"adapt#accumulate: got {self.accumulate}, expected at most the batch {self.batch}"
            )

    def filled(self) -> AdaptConfig:
        """Return the configuration with the method's defaults in place of None."""
        defaults = self.method_.defaults
        return dataclasses.replace(
            self, **{name: value for name, value in defaults.items() if getattr(self, name) is None}
        )

    @property
    def method_(self) -> Method:
        """The method, with its own settings."""
        own: dict[type[Method], Method] = {type(settings): settings for settings in (self.dreambooth, self.inversion)}
        kind = METHODS[self.method]
        return own.get(kind) or kind()

    @property
    def rank_(self) -> int:
        """Rank, filled in."""
        return int(self.rank if self.rank is not None else self.method_.defaults["rank"])

    @property
    def alpha_(self) -> float:
        """Alpha, filled in."""
        return float(self.rank_ if self.alpha is None else self.alpha)
