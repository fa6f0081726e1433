"""A validation loss that can be compared between steps and runs: held-out images, fixed noise, fixed time steps."""

from collections.abc import Sequence

import torch

from meddap_monai.core.seeds import generator
from meddap_monai.diffusion.adapting.batches import Batch, Item, loss_weights
from meddap_monai.diffusion.adapting.losses import Loss, Network
from meddap_monai.diffusion.adapting.trainer import AdapterTrainer


class FixedValidation:
    """Mean loss over all pairs of a held-out image and a fixed time step; no weighting, no random number.

    Args:
        items: held-out images; their first view's mean latents are used.
        steps: number of the objective's time steps.
        times: number of time steps, evenly spread, each in the middle of its interval.
        batch: pairs per forward pass.
        seed: of the noise, which belongs to the image and the time step.
        rank: number of this process, which computes every `world`-th batch.
        world: number of processes.
    """

    def __init__(
        self,
        items: Sequence[Item],
        steps: int,
        times: int,
        batch: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        spread = [int((number + 0.5) * steps / times) for number in range(times)]
        pairs = [(item, time) for item in items for time in spread]
        pairs.sort(key=lambda pair: tuple(pair[0].moments.shape[-2:]))
        self.chunks = []
        for shape in sorted({tuple(item.moments.shape[-2:]) for item in items}):
            same = [pair for pair in pairs if tuple(pair[0].moments.shape[-2:]) == shape]
            self.chunks += [same[start : start + batch] for start in range(0, len(same), batch)]
        self.count = len(pairs)
        self.seed, self.rank, self.world = seed, rank, world

    @torch.no_grad()
    def __call__(self, network: Network, loss: Loss, device: torch.device) -> torch.Tensor:
        """Return this process's share of the mean loss; the shares of all processes add up to it."""
        total = torch.zeros((), dtype=torch.float64)
        for chunk in self.chunks[self.rank :: self.world]:
            total += loss.validate(network, self._batch(chunk).to(device)).double().sum().cpu()
        return total / self.count

    def _batch(self, chunk: Sequence[tuple[Item, int]]) -> Batch:
        clean = torch.stack([item.moments[0, 0] for item, _ in chunk])
        noise = torch.stack([self._fixed_noise(item, time) for item, time in chunk])
        times = torch.tensor([time for _, time in chunk])
        prompts = torch.tensor([item.prompt for item, _ in chunk])
        weights = loss_weights([item for item, _ in chunk], [0] * len(chunk))
        ids = [item.id for item, _ in chunk]
        return Batch(clean, noise, times, prompts, torch.ones(len(chunk)), ids, weights)

    def _fixed_noise(self, item: Item, time: int) -> torch.Tensor:
        draw = generator(self.seed, "adapt/validation", item.id, time)
        return torch.randn(item.moments.shape[-3:], generator=draw)


def validation_loss(trainer: AdapterTrainer, fixed: FixedValidation) -> float:
    """Return the validation loss, over all processes, of the weights that would be kept now."""
    with trainer.kept_values(), trainer.cast():
        share = fixed(trainer, trainer.loss, trainer.state.device)
    return trainer.ranks.sum(float(share))
