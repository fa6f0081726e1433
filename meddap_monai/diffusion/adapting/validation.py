"""A validation loss that can be compared between steps and runs: held-out images, fixed noise, fixed time steps."""

from collections.abc import Callable, Sequence

import torch

from meddap_monai.core.seeds import generator
from meddap_monai.diffusion.adapting.batches import Item, loss_weights
from meddap_monai.diffusion.adapting.trainer import AdapterTrainer
from meddap_monai.diffusion.bases.noise import Objective

Predict = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(noisy latents, times, prompt rows) -> the network's answer."""


class FixedValidation:
    """Mean squared error over all pairs of a held-out image and a fixed time step; no weighting, no random number.

    Args:
        items: held-out images; their first view's mean latents are used.
        objective: of the training.
        times: number of time steps, evenly spread, each in the middle of its interval.
        batch: pairs per forward pass.
        seed: of the noise, which belongs to the image and the time step.
        rank: number of this process, which computes every `world`-th batch.
        world: number of processes.
    """

    def __init__(
        self,
        items: Sequence[Item],
        objective: Objective,
        times: int,
        batch: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.objective = objective
        spread = [int((number + 0.5) * objective.steps / times) for number in range(times)]
        pairs = [(item, time) for item in items for time in spread]
        pairs.sort(key=lambda pair: tuple(pair[0].moments.shape[-2:]))
        self.chunks = []
        for shape in sorted({tuple(item.moments.shape[-2:]) for item in items}):
            same = [pair for pair in pairs if tuple(pair[0].moments.shape[-2:]) == shape]
            self.chunks += [same[start : start + batch] for start in range(0, len(same), batch)]
        self.count = len(pairs)
        self.seed, self.rank, self.world = seed, rank, world

    @torch.no_grad()
    def __call__(self, predict: Predict, device: torch.device) -> torch.Tensor:
        """Return this process's share of the mean error; the shares of all processes add up to it."""
        total = torch.zeros((), dtype=torch.float64)
        for chunk in self.chunks[self.rank :: self.world]:
            clean = torch.stack([item.moments[0, 0] for item, _ in chunk])
            noise = torch.stack([self._fixed_noise(item, time) for item, time in chunk])
            times = torch.tensor([time for _, time in chunk]).to(device)
            noisy, target = self.objective.diffuse(clean.to(device), noise.to(device), times)
            prompts = torch.tensor([item.prompt for item, _ in chunk]).to(device)
            weights = loss_weights([item for item, _ in chunk], [0] * len(chunk))
            weights = None if weights is None else weights.to(device)
            errors = self.objective.errors(predict(noisy, times, prompts), target, weights)
            total += errors.double().sum().cpu()
        return total / self.count

    def _fixed_noise(self, item: Item, time: int) -> torch.Tensor:
        draw = generator(self.seed, "adapt/validation", item.id, time)
        return torch.randn(item.moments.shape[-3:], generator=draw)


def validation_loss(trainer: AdapterTrainer, fixed: FixedValidation) -> float:
    """Return the validation loss, over all processes, of the weights that would be kept now."""

    def predict(noisy: torch.Tensor, times: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        with trainer.cast():
            return trainer.predict(noisy, times, rows)

    with trainer.kept_values():
        return trainer.ranks.sum(float(fixed(predict, trainer.state.device)))
