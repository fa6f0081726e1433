"""What the network is trained to say: noise or velocity, its weight per time step, and the noise itself.

Notation of Ho et al. 2020 (arXiv 2006.11239): ``x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from meddap_monai.errors import BadBase

PREDICTIONS = ("epsilon", "v_prediction")


class Objective:
    """The training objective of a base, from its scheduler's configuration.

    Args:
        scheduler_config: of any diffusers scheduler of the base (betas, steps, prediction type).
        snr_gamma: min-SNR weighting (Hang et al. 2023, arXiv 2303.09556), usually 5; None weighs all steps alike.
        noise_offset: standard deviation of a constant added to each noise channel; lets a base learn dark and bright.

    Raises:
        BadBase: the base predicts something else than noise or velocity.
    """

    def __init__(
        self, scheduler_config: Mapping[str, Any], snr_gamma: float | None = None, noise_offset: float = 0.0
    ) -> None:
        from diffusers import DDPMScheduler

        scheduler = DDPMScheduler.from_config(scheduler_config)
        self.prediction = scheduler.config["prediction_type"]
        if self.prediction not in PREDICTIONS:
            raise BadBase(f"the base predicts {self.prediction!r}, expected one of {', '.join(PREDICTIONS)}")
        self.alpha_bar = scheduler.alphas_cumprod.float()
        self.snr_gamma, self.noise_offset = snr_gamma, noise_offset

    @property
    def steps(self) -> int:
        """Number of diffusion time steps."""
        return len(self.alpha_bar)

    def to(self, device: torch.device | str) -> Objective:
        """Move the schedule to a device."""
        self.alpha_bar = self.alpha_bar.to(device)
        return self

    def noise(self, shape: tuple[int, ...], draw: torch.Generator) -> torch.Tensor:
        """Return Gaussian noise ``(N, C, H, W)``, with the offset per image and channel where one is set."""
        noise = torch.randn(shape, generator=draw)
        if self.noise_offset:
            noise += self.noise_offset * torch.randn((*shape[:2], 1, 1), generator=draw)
        return noise

    def diffuse(
        self, clean: torch.Tensor, noise: torch.Tensor, times: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (noisy latents, what the network should answer), both ``(N, C, H, W)``.

        Velocity is ``v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x_0`` (Salimans and Ho 2022, arXiv 2202.00512).
        """
        keep = self.alpha_bar[times].sqrt()[:, None, None, None]
        lose = (1 - self.alpha_bar[times]).sqrt()[:, None, None, None]
        noisy = keep * clean + lose * noise
        return noisy, noise if self.prediction == "epsilon" else keep * noise - lose * clean

    def split(
        self, noisy: torch.Tensor, answer: torch.Tensor, times: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (clean latents, noise) that the network's answer means, both ``(N, C, H, W)``; undoes `diffuse`."""
        keep = self.alpha_bar[times].sqrt()[:, None, None, None]
        lose = (1 - self.alpha_bar[times]).sqrt()[:, None, None, None]
        if self.prediction == "epsilon":
            return (noisy - lose * answer) / keep, answer
        return keep * noisy - lose * answer, lose * noisy + keep * answer

    def weight(self, times: torch.Tensor) -> torch.Tensor:
        """Return the weight of each time step ``(N,)``: ``min(snr, gamma) / snr``, for velocity ``/ (snr + 1)``."""
        if self.snr_gamma is None:
            return torch.ones(len(times), device=times.device)
        snr = self.alpha_bar[times] / (1 - self.alpha_bar[times])
        below = snr.clamp(min=1e-8) if self.prediction == "epsilon" else snr + 1
        return snr.clamp(min=1e-8 if self.prediction == "epsilon" else 0.0, max=self.snr_gamma) / below

    def errors(self, answer: torch.Tensor, target: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        """Return the mean squared error per image ``(N,)`` in float32.

        Args:
            answer: ``(N, C, h, w)`` of the network.
            target: ``(N, C, h, w)``.
            weights: ``(N, 1, h, w)``, 0 where latents do not count; the mean is over those that do, 0 where none does.
        """
        squared = (answer.float() - target.float()).square()
        if weights is None:
            return squared.flatten(1).mean(1)
        counted = weights.flatten(1).sum(1) * squared.shape[1]
        return (squared * weights).flatten(1).sum(1) / counted.clamp(min=1.0)
