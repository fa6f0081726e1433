"""What a training minimises on cached latents: how far the network's answer is from noise or velocity."""

from contextlib import AbstractContextManager
from typing import Protocol

import torch

from meddap_monai.diffusion.adapting.batches import Batch
from meddap_monai.diffusion.bases.noise import Objective


class Network(Protocol):
    """The network under training, as a loss asks it."""

    def predict(self, noisy: torch.Tensor, times: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Return the answer ``(N, C, h, w)`` for noisy latents at `times` with the prompts at `rows`."""

    def kept_values(self) -> AbstractContextManager[None]:
        """Answer with the running mean of the weights, where there is one."""


class Loss(Protocol):
    """A loss per image; a method has its own where it learns something else than the images' noise."""

    def __call__(self, network: Network, batch: Batch) -> torch.Tensor:
        """Return ``(N,)``, weighed by time step, with gradients."""

    def validate(self, network: Network, batch: Batch) -> torch.Tensor:
        """Return ``(N,)`` that can be compared between steps and runs."""


class Denoising:
    """The loss of diffusion (Ho et al. 2020, arXiv 2006.11239, eq. 14): mean squared error of noise or velocity.

    Args:
        objective: target and weight of each time step.
    """

    def __init__(self, objective: Objective) -> None:
        self.objective = objective

    def __call__(self, network: Network, batch: Batch) -> torch.Tensor:
        """Return the weighed errors."""
        return self.validate(network, batch) * self.objective.weight(batch.times)

    def validate(self, network: Network, batch: Batch) -> torch.Tensor:
        """Return the errors; all time steps weigh alike."""
        noisy, target = self.objective.diffuse(batch.clean, batch.noise, batch.times)
        answer = network.predict(noisy, batch.times, batch.prompts)
        return self.objective.errors(answer, target, batch.weights)
