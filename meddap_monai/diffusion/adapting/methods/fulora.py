"""FU-LoRA (Wang et al. 2024, arXiv 2407.20072): kohya-ss' LoRA on whole transformers and on the text encoder.

Every Linear and 1x1 convolution inside ``Transformer2DModel`` (192 modules, 54,263,808 parameters at rank 128 on
Stable Diffusion 1.5) and 72 modules of the text encoder at half the learning rate; clip skip 2 (here counted 1),
aspect-ratio buckets, no flip.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meddap_monai.diffusion.adapters.targets import COMPONENTS, TEXT, TRANSFORMER
from meddap_monai.diffusion.adapting.trainable import Trainable, train_low_rank

if TYPE_CHECKING:
    from meddap_monai.diffusion.adapting.config import AdaptConfig

DEFAULTS = {"rank": 32, "clip_skip": 1, "flip": False, "buckets": True}


def prepare(pipeline: Any, config: AdaptConfig) -> Trainable:
    """Put the trainable layers into UNet and text encoder(s); a text learning rate of 0 leaves those out."""
    parts = {name: part for name in COMPONENTS if (part := getattr(pipeline, name, None)) is not None}
    rates = {name: config.learning_rate if name == "unet" else config.text_learning_rate for name in parts}
    sets = {name: TRANSFORMER if name == "unet" else TEXT for name in parts if rates[name] > 0}
    return train_low_rank(parts, sets, config.rank_, config.alpha_, rates, config.seed, kaiming=True)
