"""Adapter training against the loop of diffusers' LoRA example, at the same base, batch, rank and images.

The peer is written after ``examples/text_to_image/train_text_to_image_lora.py`` of diffusers 0.42: a data loader that
opens, resizes, crops and flips each picture and tokenises its prompt; autoencoder and text encoder at every step; peft
layers in the UNet; AdamW, gradients clipped. It stays in float32, that example's setting without mixed precision.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from adapter_training import CLASSES, OurLoop, PublishedLoop
from diffusers import DDPMScheduler
from peft import LoraConfig
from PIL import Image

from meddap_monai.diffusion.adapting.config import AdaptConfig
from meddap_monai.diffusion.bases.base import load_base
from meddap_monai.diffusion.bases.prompts import load_prompt_table

__all__ = ["OurLoop", "PeerLoop", "PublishedLoop"]
SIDE, RANK = 128, 4


class Pictures(torch.utils.data.Dataset):
    """Pictures in [-1, 1] with the tokens of their prompts, made when asked for."""

    def __init__(self, records: list[dict[str, Any]], tokenizer: Any) -> None:
        self.records, self.tokenizer = records, tokenizer
        self.prompts = {name: load_prompt_table("breast").prompt(name) for name in CLASSES}
        self.draw = torch.Generator().manual_seed(0)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        record = self.records[number]
        image = Image.open(record["image"]).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 127.5 - 1
        if torch.rand((), generator=self.draw) < 0.5:
            pixels = pixels.flip(-1)
        tokens = self.tokenizer(
            self.prompts[record["class_name"]], max_length=self.tokenizer.model_max_length, padding="max_length",
            truncation=True, return_tensors="pt",
        )  # fmt: skip
        return {"pixels": pixels, "tokens": tokens.input_ids[0]}


class PeerLoop:
    """diffusers' example, a step at a time."""

    def __init__(self, base: str, records: list[dict[str, Any]], batch: int) -> None:
        self.pipeline: Any = load_base(base)
        unet = self.pipeline.unet
        targets = ["to_k", "to_q", "to_v", "to_out.0"]
        unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, init_lora_weights="gaussian", target_modules=targets))
        self.parameters = [parameter for parameter in unet.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-4, weight_decay=1e-2)
        self.scheduler = DDPMScheduler.from_config(self.pipeline.scheduler.config)
        self.loader = torch.utils.data.DataLoader(Pictures(records, self.pipeline.tokenizer), batch, shuffle=True)
        self.batches = self._endless()
        unet.train()

    def _endless(self) -> Iterator[dict[str, torch.Tensor]]:
        while True:
            yield from self.loader

    def step(self) -> int:
        """Train one step and return its number of images."""
        batch, pipeline = next(self.batches), self.pipeline
        with torch.no_grad():
            latents = pipeline.vae.encode(batch["pixels"]).latent_dist.sample() * pipeline.vae.config.scaling_factor
        noise = torch.randn_like(latents)
        times = torch.randint(0, self.scheduler.config.num_train_timesteps, (len(latents),))
        noisy = self.scheduler.add_noise(latents, noise, times)
        words = pipeline.text_encoder(batch["tokens"], return_dict=False)[0]
        target = noise
        if self.scheduler.config.prediction_type == "v_prediction":
            target = self.scheduler.get_velocity(latents, noise, times)
        answer = pipeline.unet(noisy, times, words, return_dict=False)[0]
        torch.nn.functional.mse_loss(answer, target).backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return len(latents)


def our_loop(base: str, records: list[dict[str, Any]], folder: Path, batch: int, precision: str) -> OurLoop:
    """Return the engine of ``adapt``."""
    config = AdaptConfig(
        device="cpu", precision=precision, batch=batch, samples_per_class=0, prompts="breast", rank=RANK
    )
    return OurLoop(config, base, records, folder)
