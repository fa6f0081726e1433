"""A Stable Diffusion folder with random weights, made in a second: real classes, no training, no download.

Tests and smoke runs use it where the embedded base would be too slow or is not the point.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from meddap_monai import store
from meddap_monai.diffusion.bases.prompts import PromptTable, load_prompt_table, table_names
from meddap_monai.diffusion.pretraining.text_encoder import build_text_encoder
from meddap_monai.diffusion.pretraining.tokenizer import vocabulary_words

if TYPE_CHECKING:
    pass

_FACTOR = 4


def build_tiny_base(folder: Path | str, resolution: int = 32, seed: int = 0) -> Path:
    """Write an untrained Stable Diffusion folder that ``StableDiffusionPipeline.from_pretrained`` opens.

    Args:
        folder: written to; tokenizer, CLIP text encoder, AutoencoderKL (factor 4, 4 latent channels),
            UNet2DConditionModel with six attention blocks, DDIM scheduler, ``base.json``.
        resolution: side of its images in pixels, a multiple of 8.
        seed: of the random weights; equal seeds give equal files.

    Returns:
        The folder.
    """
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    folder = Path(folder)
    tables = [load_prompt_table(name) for name in table_names()]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer, text_encoder = build_text_encoder(folder, vocabulary_words(tables), width=32, layers=1, heads=4)
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(8, 8, 16),
            norm_num_groups=4,
            latent_channels=4,
            sample_size=resolution,
        )
        unet = UNet2DConditionModel(
            sample_size=resolution // _FACTOR,
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            block_out_channels=(16, 32),
            layers_per_block=1,
            cross_attention_dim=32,
            attention_head_dim=4,
            norm_num_groups=8,
        )
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
    )
    pipeline: Any = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    store.write_json(folder / "base.json", _card(pipeline, tables, resolution, seed))
    store.write_atomic(folder / "train_sha256.txt", "")
    return folder


def _card(pipeline: object, tables: list[PromptTable], resolution: int, seed: int) -> dict[str, object]:
    parts = ("unet", "text_encoder", "vae")
    counts = {part: sum(p.numel() for p in getattr(pipeline, part).parameters()) for part in parts}
    return {
        "resolution": resolution,
        "prompts": [table.name for table in tables],
        "prompts_sha256": {table.name: table.sha256 for table in tables},
        "parameters": counts,
        "seed": seed,
        "steps": {"unet": 0},
        "prediction_type": "epsilon",
        "untrained": True,
    }
