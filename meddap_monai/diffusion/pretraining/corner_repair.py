"""A last touch to a decoder: the corner of its pictures.

A decoder with group normalisation tends to use a corner pixel as its notebook (a huge value there shifts the statistics
of the whole picture), which shows as a dot in every picture. Its last block learns to keep the dot to itself: near the
corner it follows the real picture, everywhere else the decoder as it was, so that the texture stays.
"""

import copy
from typing import Any

import numpy as np
import torch

from meddap_monai.core.seeds import generator
from meddap_monai.diffusion.pretraining.parts import AutoencoderConfig
from meddap_monai.diffusion.pretraining.views import grey_tensor
from meddap_monai.training.finite import check_finite
from meddap_monai.training.schedules import set_rate

SIZE = 6
"""Side of the corner in pixels."""
_RATE = 3e-4
_BATCH = 4


class CornerTraining:
    """Steps that train the last block of a decoder on whole pictures.

    Args:
        vae: trained; its decoder as it is becomes the teacher.
        pixels: (N, H, W) uint8 pictures.
        ids: of their records.
        config: steps and the latent noise.
        seed: of batches and noise.
        device: where to train.
    """

    def __init__(
        self, vae: Any, pixels: np.ndarray, ids: list[str], config: AutoencoderConfig, seed: int, device: str = "cpu"
    ) -> None:
        self.vae, self.pixels, self.ids = vae.to(device), pixels, ids
        self.config, self.seed, self.device = config, seed, device
        self.teacher = copy.deepcopy(vae.decoder).eval().requires_grad_(False)
        vae.requires_grad_(False)
        parts = (vae.decoder.up_blocks[-1], vae.decoder.conv_norm_out, vae.decoder.conv_out)
        trained = [parameter for part in parts for parameter in part.parameters()]
        for parameter in trained:
            parameter.requires_grad_(True)
        self.optimizer = torch.optim.AdamW(trained, lr=0.0, weight_decay=0.0)

    @property
    def state(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {"decoder": self.vae.decoder, "optimizer": self.optimizer}

    def advance(self, step: int) -> dict[str, float]:
        """Do step `step`."""
        draw = generator(self.seed, "pretrain/corners", step)
        chosen = torch.randint(len(self.pixels), (_BATCH,), generator=draw)
        images = grey_tensor(self.pixels[chosen.numpy()], self.device)
        with torch.no_grad():
            latents = self.vae.encode(images.expand(-1, 3, -1, -1)).latent_dist.mode()
            size = torch.rand(_BATCH, 1, 1, 1, generator=draw) * self.config.latent_noise
            latents = latents + (size * torch.randn(latents.shape, generator=draw)).to(self.device)
            target = self.teacher(latents).mean(1, keepdim=True)
            target[:, :, :SIZE, :SIZE] = images[:, :, :SIZE, :SIZE]
        difference = (self.vae.decoder(latents).mean(1, keepdim=True) - target).abs()
        everywhere, corner = difference.mean(), difference[:, :, :SIZE, :SIZE].mean()
        rate = _RATE * min(1.0, 3.0 * (self.config.corner_steps - step) / self.config.corner_steps)
        names = [self.ids[number] for number in chosen.tolist()]
        loss = check_finite(3.0 * everywhere + 0.5 * corner, "pretrain#autoencoder#corner_steps", step + 1, rate, names)
        set_rate(self.optimizer, rate)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"everywhere": everywhere.item(), "corner": corner.item()}
