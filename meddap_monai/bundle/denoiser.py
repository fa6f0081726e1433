"""The UNet of a base as MONAI's tools call a network: one tensor in, one out."""

from typing import Any

import torch
from torch import nn

from meddap_monai.diffusion.bases.conditioning import Conditioning


class Denoiser(nn.Module):
    """Predict noise or velocity of noisy latents under a prompt, by default the empty one at the middle time step.

    ``monai.bundle verify_net_in_out`` and MONAI's inferers call a network with an image alone. Its state is that of the
    UNet, under ``unet.``.

    Args:
        unet: of diffusers.
        prompt: the encoded empty prompt.
        factor: pixels per latent.
        time: default time step.
    """

    def __init__(self, unet: nn.Module, prompt: Conditioning, factor: int = 8, time: int = 500) -> None:
        super().__init__()
        self.unet, self.factor, self.time = unet, factor, time
        self.register_buffer("hidden", prompt.hidden, persistent=False)
        self.register_buffer("pooled", prompt.pooled, persistent=False)

    def forward(
        self, image: torch.Tensor, timesteps: torch.Tensor | int | None = None, **conditions: Any
    ) -> torch.Tensor:
        """Return the prediction ``(N, C, h, w)`` of noisy latents.

        Args:
            image: ``(N, C, h, w)`` latents.
            timesteps: ``(N,)`` or one number.
            conditions: of the UNet, such as ``encoder_hidden_states``, in place of the empty prompt.
        """
        hidden, pooled = self.get_buffer("hidden"), self._buffers["pooled"]
        rows = torch.zeros(len(image), dtype=torch.long, device=image.device)
        empty = Conditioning(hidden, pooled).take(rows).to(image.dtype).arguments(image, self.factor)
        time = self.time if timesteps is None else timesteps
        answer: torch.Tensor = self.unet(image, time, return_dict=False, **empty | conditions)[0]
        return answer
