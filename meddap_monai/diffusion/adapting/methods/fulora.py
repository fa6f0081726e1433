"""FU-LoRA (Wang et al. 2024, arXiv 2407.20072): kohya-ss' LoRA on whole transformers and on the text encoder.

Every Linear and 1x1 convolution inside ``Transformer2DModel`` (192 modules, 54,263,808 parameters at rank 128 on
Stable Diffusion 1.5) and 72 modules of the text encoder at half the learning rate; clip skip 2 (here counted 1),
aspect-ratio buckets, no flip.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from meddap_monai.diffusion.adapting.methods.method import Common, Method

if TYPE_CHECKING:
    from meddap_monai.diffusion.adapting.trainable import Trainable


@dataclass(frozen=True)
class FULoRA(Method):
    """Low-rank layers on whole transformers and the text encoder(s); it has no settings of its own."""

    defaults: ClassVar[Mapping[str, Any]] = {"rank": 32, "clip_skip": 1, "flip": False, "buckets": True}

    def prepare(self, pipeline: Any, common: Common, wordings: Mapping[str, str]) -> Trainable:
        """Put the trainable layers in; a text learning rate of 0 leaves the text encoder(s) out."""
        from meddap_monai.diffusion.adapters.targets import COMPONENTS, TEXT, TRANSFORMER
        from meddap_monai.diffusion.adapting.trainable import train_low_rank

        parts = {name: part for name in COMPONENTS if (part := getattr(pipeline, name, None)) is not None}
        rates = {name: common.learning_rate if name == "unet" else common.text_learning_rate for name in parts}
        sets = {name: TRANSFORMER if name == "unet" else TEXT for name in parts if rates[name] > 0}
        return train_low_rank(parts, sets, common.rank_, common.alpha_, rates, common.seed, kaiming=True)
