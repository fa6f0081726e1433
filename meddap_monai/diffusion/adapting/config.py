"""Every setting of adapter training, checked when it is made."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any

from meddap_monai.core.configuration import build
from meddap_monai.core.constraints import Choice, Multiple, Precision, Range, Share, here, settings
from meddap_monai.diffusion.adapting.methods.dreambooth import DreamBooth
from meddap_monai.diffusion.adapting.methods.inversion import TextualInversion
from meddap_monai.diffusion.adapting.methods.method import Method
from meddap_monai.diffusion.adapting.methods.registry import METHODS
from meddap_monai.errors import ConfigurationError


@dataclass(frozen=True)
@settings("adapt")
class AdaptConfig:
    """Settings of ``adapt``; the defaults of a method fill what is None.

    Attributes:
        method: "uslora", "fulora", "dreambooth", "textual_inversion", "lcm", or another name in ``methods.registry``.
        rank: inner width of the low-rank layers; default by method.
        alpha: scale numerator; equal to the rank by default.
        prompts: prompt table: "auto" (the package's table that knows all labels, else one made from them), a name or
            a YAML file.
        columns: keys of the records' ``meta`` that end each image's prompt, such as ("device", "birads"); empty: those
            for whose values the base has words, none with a base without such words.
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
        steps: optimizer steps.
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
        mask_marks: what is drawn over images (coloured marks, text, calipers) does not count in the loss.
        caption_dropout: share of images trained with the empty prompt.
        clip_skip: text-encoder layers left out; default by method.
        ema: decay of the running mean of the weights that is validated and kept; 0 keeps the weights themselves. It is
            the target of lcm.
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
        pictures_every: steps between sample grids in TensorBoard; 0 draws them at the end only.
        samples_per_class: pictures per class in grids and card; 0 draws none.
        sample_steps: sampling steps of those pictures.
        guidance: their guidance scale; lcm draws them in its own way.
        log_every: steps between points of the curves.
        seed: of everything random.
        cache: folder of the latent cache, to share between runs; inside the output (and removed) by default.
        dreambooth: settings of that method.
        inversion: settings of that method.
        method_settings: settings of a method without a section here (lcm, and those from outside the package): the
            fields of its class.
    """

    method: Annotated[str, Choice(METHODS)] = "uslora"
    rank: Annotated[int, Range(1, 1024)] | None = None
    alpha: Annotated[float, Range(1e-6, 1e6)] | None = None
    prompts: str = "auto"
    columns: tuple[str, ...] = ()
    adjective: str = "none"
    template: int = 0
    classes: tuple[str, ...] = ()
    only: dict[str, str] = field(default_factory=dict)
    resolution: Annotated[int, Range(8, 8192), Multiple(8)] | None = None
    fit: Annotated[str, Choice(("crop", "stretch", "pad"))] = "crop"
    flip: bool | None = None
    crops: Annotated[int, Range(1, 64)] = 1
    buckets: bool | None = None
    bucket_step: Annotated[int, Range(8, 512), Multiple(8)] = 64
    steps: Annotated[int, Range(1, 10_000_000)] = 1000
    batch: Annotated[int, Range(1, 4096)] = 4
    learning_rate: Annotated[float, Range(0.0, 10.0)] = 1e-4
    text_learning_rate: Annotated[float, Range(0.0, 10.0)] = 5e-5
    schedule: Annotated[str, Choice(("constant", "cosine"))] = "constant"
    warmup: Annotated[int, Range(0, 10_000_000)] = 0
    weight_decay: Annotated[float, Range(0.0, 10.0)] = 1e-2
    grad_clip: Annotated[float, Range(0.0, 1e6)] = 1.0
    accumulate: Annotated[int, Range(1, 4096)] = 1
    snr_gamma: float | None = None
    noise_offset: Share = 0.0
    mask_marks: bool = True
    caption_dropout: Share = 0.0
    clip_skip: int | None = None
    ema: Annotated[float, Range(0.0, 0.99999)] = 0.0
    precision: Precision = "fp32"
    optimizer: Annotated[str, Choice(("adamw", "adamw8bit"))] = "adamw"
    gradient_checkpointing: bool = False
    compile: bool = False
    device: str = "auto"
    validation_every: Annotated[int, Range(0, 10_000_000)] = 100
    validation_images: Annotated[int, Range(1, 100_000)] = 64
    validation_times: Annotated[int, Range(1, 1000)] = 4
    patience: Annotated[int, Range(0, 10_000)] = 0
    keep: Annotated[str, Choice(("best", "last"))] = "best"
    checkpoint_every: Annotated[int, Range(1, 10_000_000)] = 100
    pictures_every: Annotated[int, Range(0, 10_000_000)] = 0
    samples_per_class: Annotated[int, Range(0, 64)] = 2
    sample_steps: Annotated[int, Range(1, 1000)] = 15
    guidance: Annotated[float, Range(0.0, 100.0)] = 3.0
    log_every: Annotated[int, Range(1, 10_000)] = 10
    seed: int = 0
    cache: str | None = None
    dreambooth: DreamBooth = field(default_factory=DreamBooth)
    inversion: TextualInversion = field(default_factory=TextualInversion)
    method_settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.patience and not self.validation_every:
            raise ConfigurationError(
                f"{here('patience')}: early stopping needs validation; set {here('validation_every')}"
            )
        if self.accumulate > self.batch:
            raise ConfigurationError(
                f"{here('accumulate')}: got {self.accumulate}, expected at most the batch {self.batch}"
            )
        if isinstance(self.method_, DreamBooth | TextualInversion) and self.method_settings:
            raise ConfigurationError(
                f"{here('method_settings')}: got settings for {self.method}, whose own stand under "
                f"{here('dreambooth')} and {here('inversion')}"
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
        return own.get(kind) or build(kind, self.method_settings, "adapt#method_settings")

    @property
    def rank_(self) -> int:
        """Rank, filled in."""
        return int(self.rank if self.rank is not None else self.method_.defaults["rank"])

    @property
    def alpha_(self) -> float:
        """Alpha, filled in."""
        return float(self.rank_ if self.alpha is None else self.alpha)
