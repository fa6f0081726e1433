"""Latent consistency distillation (Luo et al. 2023, arXiv 2310.04378; LCM-LoRA, arXiv 2311.05556): few steps.

The adapter brings no new images: with it the base draws in four steps, without the unguided half, what it draws in many
with guidance. So it is trained on latents that the base itself draws for the prompts of the records; no image of the
records is opened, and the adapter has seen no more than its base. LCM-LoRA's layers: transformers and residual blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from meddap_monai.core.constraints import Choice, Range, settings
from meddap_monai.diffusion.adapting.methods.method import Common, Method
from meddap_monai.diffusion.bases.schedulers import Sampling

if TYPE_CHECKING:
    from meddap_monai.diffusion.adapting.losses import Loss
    from meddap_monai.diffusion.adapting.trainable import Trainable
    from meddap_monai.diffusion.bases.noise import Objective

TARGETS = ("attention", "attention_and_feed_forward", "transformer", "transformer_and_convolutions", "everything")
"""The target sets of a UNet (`adapters.targets`), the fourth is LCM-LoRA's."""


@dataclass(frozen=True)
@settings("adapt#method_settings")
class LatentConsistency(Method):
    """Latent consistency distillation, and what it adds to the common settings.

    Attributes:
        folded_guidance: classifier-free guidance scale that the adapter folds in; sampling needs none afterwards.
        sampling_steps: steps that `generate` takes with it.
        width: of the pseudo-Huber loss.
        targets: modules of the UNet.
        drawn: latents per record that the base draws from the record's prompt; 0 encodes the record's image instead.
        drawing_steps: sampling steps of those latents.
    """

    defaults: ClassVar[Mapping[str, Any]] = {"rank": 64, "clip_skip": 0, "flip": True, "buckets": False}
    folded_guidance: Annotated[float, Range(1.0, 100.0)] = 2.5
    sampling_steps: Annotated[int, Range(1, 50)] = 4
    width: Annotated[float, Range(1e-6, 10.0)] = 1e-3
    targets: Annotated[str, Choice(TARGETS)] = "transformer_and_convolutions"
    drawn: Annotated[int, Range(0, 10_000)] = 4
    drawing_steps: Annotated[int, Range(1, 1000)] = 15

    @property
    def sampling(self) -> Sampling:
        """How the student draws."""
        return Sampling("lcm", self.sampling_steps, 1.0)

    @property
    def drawing(self) -> tuple[int, Sampling] | None:
        """How many latents the base draws per record, and how; None where records are encoded."""
        how = Sampling(steps=self.drawing_steps, guidance=self.folded_guidance)
        return (self.drawn, how) if self.drawn else None

    def loss(self, objective: Objective, unet: Any) -> Loss:
        """Return the consistency loss."""
        from meddap_monai.diffusion.adapting.consistency import Consistency

        return Consistency(objective, unet, self.folded_guidance, self.width)

    def prepare(self, pipeline: Any, common: Common, wordings: Mapping[str, str]) -> Trainable:
        """Put trainable layers into the pipeline's UNet; see `Method.prepare`."""
        from meddap_monai.diffusion.adapting.trainable import train_low_rank

        rates, sets = {"unet": common.learning_rate}, {"unet": self.targets}
        return train_low_rank({"unet": pipeline.unet}, sets, common.rank_, common.alpha_, rates, common.seed)
