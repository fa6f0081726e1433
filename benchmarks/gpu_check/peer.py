"""What a careful user of diffusers has: the loops that ours are held against on a GPU.

Training follows ``examples/text_to_image/train_text_to_image_lora.py`` of diffusers: frozen weights in half precision,
peft's layers in float32, autoencoder and text encoder at every step. It is given more than the example has: pictures
that lie ready on the device in place of a loader, and a fused optimizer. Generation is the pipeline with our batch,
scheduler, steps and guidance. Weights lie channels last in both.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch

from meddap_monai.diffusion.bases.schedulers import build_scheduler

ATTENTION = ["to_k", "to_q", "to_v", "to_out.0"]


class PeerTraining:
    """One step of diffusers' example for low-rank layers.

    Args:
        pipeline: in the half precision of the run; its UNet gets the layers.
        batch: images per step.
        side: of the pictures, in pixels.
        prompts: one for each image of the batch, repeated.
        half: type of autocast; None computes in the pipeline's own.
    """

    def __init__(self, pipeline: Any, batch: int, side: int, prompts: list[str], half: torch.dtype | None) -> None:
        from diffusers import DDPMScheduler
        from diffusers.training_utils import cast_training_params
        from peft import LoraConfig

        self.pipeline, self.unet, self.vae = pipeline, pipeline.unet, pipeline.vae
        self.device, self.dtype = self.unet.device, self.unet.dtype
        settings = LoraConfig(r=4, lora_alpha=4, init_lora_weights="gaussian", target_modules=ATTENTION)
        self.unet.to(memory_format=torch.channels_last)
        self.vae.to(memory_format=torch.channels_last)
        self.unet.add_adapter(settings)
        cast_training_params(self.unet, dtype=torch.float32)
        self.layers = [parameter for parameter in self.unet.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.layers, lr=1e-4, fused=self.device.type == "cuda")
        self.noise = DDPMScheduler.from_config(pipeline.scheduler.config)
        self.pixels = torch.rand(batch, 3, side, side, device=self.device, dtype=self.dtype) * 2 - 1
        self.prompts = [prompts[number % len(prompts)] for number in range(batch)]
        self.half, self.xl = half, getattr(pipeline, "text_encoder_2", None) is not None
        self.unet.train()

    def step(self) -> int:
        """Train one step and return its number of images."""
        count, side = len(self.pixels), self.pixels.shape[-1]
        with torch.no_grad():
            latents = self.vae.encode(self.pixels).latent_dist.sample() * self.vae.config.scaling_factor
            encoded = self.pipeline.encode_prompt(
                self.prompts, device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
            )
        noise = torch.randn_like(latents)
        times = torch.randint(self.noise.config.num_train_timesteps, (count,), device=self.device)
        noisy = self.noise.add_noise(latents, noise, times)
        told: dict[str, Any] = {"encoder_hidden_states": encoded[0]}
        if self.xl:
            sizes = torch.tensor([[side, side, 0, 0, side, side]], device=self.device, dtype=self.dtype)
            told["added_cond_kwargs"] = {"text_embeds": encoded[2], "time_ids": sizes.expand(count, -1)}
        with torch.autocast(self.device.type, self.half) if self.half else contextlib.nullcontext():
            answer = self.unet(noisy, times, return_dict=False, **told)[0]
        torch.nn.functional.mse_loss(answer.float(), noise.float()).backward()
        torch.nn.utils.clip_grad_norm_(self.layers, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return count


def draw(
    pipeline: Any, loop: tuple[str, int], guidance: float, batch: int, side: int, prompt: str
) -> Callable[[], int]:
    """Return a call that makes a batch with diffusers' pipeline and returns its number of images."""
    pipeline.scheduler = build_scheduler(loop[0], pipeline.scheduler)
    pipeline.unet.to(memory_format=torch.channels_last)
    pipeline.vae.to(memory_format=torch.channels_last)
    settings = {"height": side, "width": side, "num_inference_steps": loop[1], "guidance_scale": guidance}

    def make() -> int:
        pipeline([prompt] * batch, output_type="np", **settings)
        return batch

    return make
