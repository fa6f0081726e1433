"""USLoRA (MEDDAP, Medghalchi et al. 2024, arXiv 2403.16335): rank 4 on the attention projections of the UNet.

On Stable Diffusion 1.4 these are 128 modules, 256 tensors, 797,184 parameters, 0.0927 % of the UNet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from meddap_monai.diffusion.adapting.methods.method import Common, Method

if TYPE_CHECKING:
    from meddap_monai.diffusion.adapting.trainable import Trainable


@dataclass(frozen=True)
class USLoRA(Method):
    """Low-rank layers on the attention projections of the UNet; it has no settings of its own."""

    defaults: ClassVar[Mapping[str, Any]] = {"rank": 4, "clip_skip": 0, "flip": True, "buckets": False}

    def prepare(self, pipeline: Any, common: Common, wordings: Mapping[str, str]) -> Trainable:
        """Put the trainable layers into the pipeline's UNet; see `Method.prepare`."""
        from meddap_monai.diffusion.adapters.targets import ATTENTION
        from meddap_monai.diffusion.adapting.trainable import train_low_rank

        return train_low_rank(
            {"unet": pipeline.unet},
            {"unet": ATTENTION},
            common.rank_,
            common.alpha_,
            {"unet": common.learning_rate},
            common.seed,
        )
