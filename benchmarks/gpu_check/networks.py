"""The networks whose speed is measured: the embedded base, and full Stable Diffusion with random weights."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from torch.utils.flop_counter import FlopCounterMode

from meddap_monai.diffusion.bases.architectures import build_autoencoder, build_text_encoder, build_unet
from meddap_monai.diffusion.bases.base import load_base
from meddap_monai.diffusion.bases.conditioning import Conditioning
from tests.adapter_material import build_tiny_xl
from tools.tiny_base import build_tiny_base

NAMES = ("embedded", "sd1", "sdxl")


def build(name: str, dtype: torch.dtype, device: str, toy: bool = False) -> Any:
    """Return a frozen pipeline of a family; speed does not depend on the values of its weights.

    Args:
        name: one of `NAMES`.
        dtype: of the weights.
        device: they are drawn on it.
        toy: a tiny network of the same family instead.
    """
    if name == "embedded" and not toy:
        return load_base("embedded", dtype=dtype, device=device)
    with tempfile.TemporaryDirectory() as folder:
        tiny = build_tiny_base(Path(folder) / "tiny")
        if toy:
            found = build_tiny_xl(Path(folder) / "xl", tiny) if name == "sdxl" else tiny
            return load_base(found, dtype=dtype, device=device)
        small: Any = load_base(tiny)
    with torch.device(device):
        parts = {"unet": build_unet(name), "vae": build_autoencoder(), "text_encoder": build_text_encoder()}
        if name == "sdxl":
            parts["text_encoder_2"] = build_text_encoder(1280, 32, pooled=True)
    parts = {part: network.requires_grad_(False).eval().to(dtype) for part, network in parts.items()}
    words = {"tokenizer": small.tokenizer, "scheduler": small.scheduler}
    if name == "sdxl":
        pipeline: Any = StableDiffusionXLPipeline(**parts, **words, tokenizer_2=small.tokenizer)
    else:
        pipeline = StableDiffusionPipeline(
            **parts, **words, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def counted_work(pipeline: Any, side: int) -> dict[str, float]:
    """Return teraFLOP of one UNet call and of one decoding for one image of `side` pixels, counted without weights."""
    latent = side // pipeline.vae_scale_factor
    with torch.device("meta"):
        unet, vae = (type(part).from_config(part.config).eval() for part in (pipeline.unet, pipeline.vae))
        config = unet.config
        noise, hidden, pooled = torch.zeros(1, config.in_channels, latent, latent), config.cross_attention_dim, None
        if config.addition_embed_type == "text_time":
            width = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
            pooled = torch.zeros(1, width)
        words = Conditioning(torch.zeros(1, 77, hidden), pooled)
        with torch.no_grad(), FlopCounterMode(display=False) as of_unet:
            unet(noise, torch.zeros(1), **words.arguments(noise, pipeline.vae_scale_factor))
        with torch.no_grad(), FlopCounterMode(display=False) as of_decoder:
            vae.decode(noise)
    return {"unet": of_unet.get_total_flops() / 1e12, "decode": of_decoder.get_total_flops() / 1e12}
