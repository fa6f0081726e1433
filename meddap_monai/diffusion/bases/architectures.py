"""The full-size architectures, built from their published configurations on the meta device: shapes without weights."""

from dataclasses import dataclass
from typing import Any

import torch

NAMES = {"sd1": "Stable Diffusion 1.x", "sd2": "Stable Diffusion 2.x", "sdxl": "Stable Diffusion XL"}

_UNETS: dict[str, dict[str, Any]] = {
    "sd1": {
        "sample_size": 64,
        "block_out_channels": (320, 640, 1280, 1280),
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
    },
    "sd2": {
        "sample_size": 96,
        "block_out_channels": (320, 640, 1280, 1280),
        "cross_attention_dim": 1024,
        "attention_head_dim": [5, 10, 20, 20],
        "use_linear_projection": True,
    },
    "sdxl": {
        "sample_size": 128,
        "block_out_channels": (320, 640, 1280),
        "cross_attention_dim": 2048,
        "attention_head_dim": [5, 10, 20],
        "transformer_layers_per_block": [1, 2, 10],
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    },
}
_TEXT = {"sd1": [(768, 12)], "sd2": [(1024, 23)], "sdxl": [(768, 12), (1280, 32)]}


@dataclass
class Architecture:
    """Model parts of a Stable Diffusion family, in the places where a pipeline has them."""

    unet: Any
    text_encoder: Any
    text_encoder_2: Any = None


def build_unet(name: str) -> Any:
    """Return a ``UNet2DConditionModel`` of the family `name` on the current device; use ``torch.device("meta")``."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(**_UNETS[name])


def build_autoencoder() -> Any:
    """Return the ``AutoencoderKL`` of Stable Diffusion 1.x and 2.x (83.7 M parameters) on the current device."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=4,
    )


def build_text_encoder(width: int = 768, layers: int = 12, pooled: bool = False) -> Any:
    """Return a CLIP text encoder of that width and depth on the current device; `pooled` adds XL's projection."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        projection_dim=width,
    )
    return (CLIPTextModelWithProjection if pooled else CLIPTextModel)(config)


def meta_architecture(name: str) -> Architecture:
    """Return UNet and text encoder(s) of "sd1", "sd2" or "sdxl" without weights."""
    with torch.device("meta"):
        encoders = [
            build_text_encoder(width, layers, pooled=number == 1) for number, (width, layers) in enumerate(_TEXT[name])
        ]
        return Architecture(build_unet(name), *encoders)
