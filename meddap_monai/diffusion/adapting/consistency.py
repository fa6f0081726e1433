"""Latent consistency distillation: the network learns to say at once where a guided sampling path ends.

Luo et al. 2023, Latent Consistency Models (arXiv 2310.04378), algorithm 1 without the guidance embedding, as LCM-LoRA
(arXiv 2311.05556) trains low-rank layers: teacher and student are one UNet, without and with them.
"""

from __future__ import annotations

from typing import Any

import torch

from meddap_monai.diffusion.adapters.injection import switched_off
from meddap_monai.diffusion.adapting.batches import Batch
from meddap_monai.diffusion.adapting.losses import Network
from meddap_monai.diffusion.bases.noise import Objective

SIGMA_DATA = 0.5
TIME_SCALE = 10.0
"""Of the boundary condition, as in the paper's appendix and in diffusers' ``LCMScheduler``."""
INTERVALS = 50
"""Steps of the teacher's path from noise to image; `LCMScheduler` takes its time steps from the same grid."""
EMPTY = 0
"""Row of the empty prompt, which is the unguided half."""


def boundary(times: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (c_skip, c_out), each ``(N, 1, 1, 1)``, of time steps ``(N,)``; 1 and 0 at time 0 (paper, eq. 8)."""
    scaled = TIME_SCALE * times.float()[:, None, None, None]
    below = scaled.square() + SIGMA_DATA**2
    return SIGMA_DATA**2 / below, scaled / below.sqrt()


def ddim_step(
    objective: Objective, noisy: torch.Tensor, answer: torch.Tensor, times: torch.Tensor, before: torch.Tensor
) -> torch.Tensor:
    """Return the latents at the time steps `before`, by one step of DDIM (Song et al. 2020, arXiv 2010.02502, eq. 12).

    Args:
        objective: schedule and prediction type.
        noisy: ``(N, C, h, w)`` at `times`.
        answer: of the network.
        times: ``(N,)``.
        before: ``(N,)``, each smaller.
    """
    clean, noise = objective.split(noisy, answer, times)
    kept = objective.alpha_bar[before][:, None, None, None]
    return kept.sqrt() * clean + (1 - kept).sqrt() * noise


def pseudo_huber(
    answer: torch.Tensor, target: torch.Tensor, width: float, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Return ``sqrt(d^2 + width^2) - width`` per image ``(N,)`` (Song and Dhariwal 2023, arXiv 2310.14189), the mean.

    Args:
        answer: ``(N, C, h, w)``.
        target: ``(N, C, h, w)``.
        width: below it the loss is quadratic, above it linear.
        weights: see `Objective.errors`.
    """
    distance = ((answer - target).square() + width**2).sqrt() - width
    if weights is None:
        return distance.flatten(1).mean(1)
    counted = weights.flatten(1).sum(1) * distance.shape[1]
    return (distance * weights).flatten(1).sum(1) / counted.clamp(min=1.0)


class Consistency:
    """The loss of consistency distillation.

    One step of the guided teacher leads from a noisy latent to an earlier one; the student's answers for both must be
    equal. The target is the student's running mean of weights (`adapt#ema`), or the student itself without gradients.

    Args:
        objective: schedule and prediction type of the base.
        unet: with the layers under training; without them it is the teacher.
        guidance: scale that is folded in: ``e_u + guidance (e_c - e_u)``.
        width: see `pseudo_huber`.
    """

    def __init__(self, objective: Objective, unet: Any, guidance: float, width: float) -> None:
        self.objective, self.unet, self.guidance, self.width = objective, unet, guidance, width
        self.stride = objective.steps // INTERVALS
        self._ends: dict[Any, torch.Tensor] = {}

    def on_grid(self, times: torch.Tensor) -> torch.Tensor:
        """Return the teacher's time steps that drawn ones belong to: of 1,000 these are 19, 39, ... 999."""
        return times // self.stride * self.stride + self.stride - 1

    def before(self, times: torch.Tensor) -> torch.Tensor:
        """Return the teacher's next time steps; after the last one comes 0."""
        return (times - self.stride).clamp(min=0)

    def __call__(self, network: Network, batch: Batch) -> torch.Tensor:
        """Return the consistency loss per image."""
        times = self.on_grid(batch.times)
        before = self.before(times)
        noisy, _ = self.objective.diffuse(batch.clean, batch.noise, times)
        with torch.no_grad():
            earlier = self.teach(network, noisy, times, before, batch.prompts)
            with network.kept_values():
                target = self.end(network, earlier, before, batch.prompts)
        return pseudo_huber(self.end(network, noisy, times, batch.prompts), target, self.width, batch.weights)

    def validate(self, network: Network, batch: Batch) -> torch.Tensor:
        """Return the squared distance between the student's answer and the end of the teacher's path."""
        times = self.on_grid(batch.times)
        noisy, _ = self.objective.diffuse(batch.clean, batch.noise, times)
        key = (tuple(batch.ids), tuple(times.tolist()))
        if key not in self._ends:
            self._ends[key] = self.path_end(network, noisy, times, batch.prompts)
        return self.objective.errors(self.end(network, noisy, times, batch.prompts), self._ends[key], batch.weights)

    def end(self, network: Network, noisy: torch.Tensor, times: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Return the consistency function: where the path through `noisy` ends, as the student says."""
        skip, out = boundary(times)
        clean, _ = self.objective.split(noisy, network.predict(noisy, times, rows).float(), times)
        return skip * noisy + out * clean

    @torch.no_grad()
    def teach(
        self, network: Network, noisy: torch.Tensor, times: torch.Tensor, before: torch.Tensor, rows: torch.Tensor
    ) -> torch.Tensor:
        """Return the latents at `before` on the guided teacher's path through `noisy`."""
        both = torch.cat([torch.full_like(rows, EMPTY), rows])
        with switched_off(self.unet):
            answer = network.predict(torch.cat([noisy] * 2), torch.cat([times] * 2), both).float()
        without, text = answer.chunk(2)
        guided = without + self.guidance * (text - without)
        return ddim_step(self.objective, noisy, guided, times, before)

    def path_end(self, network: Network, noisy: torch.Tensor, times: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Return where the teacher's paths end, all steps to time 0; images that are there wait for the others."""
        while bool((times > 0).any()):
            going = times > 0
            before = self.before(times)
            noisy = noisy.clone()
            noisy[going] = self.teach(network, noisy[going], times[going], before[going], rows[going])
            times = before
        return noisy
