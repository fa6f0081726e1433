"""USLoRA (MEDDAP, Medghalchi et al. 2024, arXiv 2403.16335): rank 4 on the attention projections of the UNet.

On Stable Diffusion 1.4 these are 128 modules, 256 tensors, 797,184 parameters, 0.0927 % of the UNet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meddap_monai.diffusion.adapters.targets import ATTENTION
from meddap_monai.diffusion.adapting.trainable import Trainable, train_low_rank

if TYPE_CHECKING:
    from meddap_monai.diffusion.adapting.config import AdaptConfig

DEFAULTS = {"rank": 4, "clip_skip": 0, "flip": True, "buckets": False}


def prepare(pipeline: Any, config: AdaptConfig) -> Trainable:
    """Put the trainable layers into the pipeline's UNet.

    Args:
        pipeline: a frozen base.
        config: with every default filled in.
    """
    return train_low_rank(
        {"unet": pipeline.unet},
        {"unet": ATTENTION},
        config.rank_,
        config.alpha_,
        {"unet": config.learning_rate},
        config.seed,
    )
