"""The order of the images and every random number of a training step, from the seed and the step alone.

Nothing is drawn from a running stream, so a resumed, a re-run and a multi-process training see the same batches.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from meddap_monai.core.seeds import derive_seed, generator
from meddap_monai.diffusion.bases.noise import Objective


@dataclass(frozen=True)
class Item:
    """One training image, ready for the UNet.

    Attributes:
        id: of its record.
        moments: ``(views, 2, C, h, w)`` mean and deviation of its latents.
        prompt: row of its prompt.
        prior: True for a class image of DreamBooth's prior preservation.
        marks: ``(views, h, w)`` bool, latents under a drawn mark, which teach nothing; None: there is none.
    """

    id: str
    moments: torch.Tensor
    prompt: int
    prior: bool = False
    marks: torch.Tensor | None = None


@dataclass
class Batch:
    """One process's share of a training step.

    Attributes:
        clean: ``(N, C, h, w)`` latents.
        noise: ``(N, C, h, w)``.
        times: ``(N,)`` time steps.
        prompts: ``(N,)`` rows of the prompts.
        factors: ``(N,)`` weight of each image in the loss (prior preservation).
        ids: of the records.
        weights: ``(N, 1, h, w)``, 0 under a drawn mark, else 1; None: all count.
    """

    clean: torch.Tensor
    noise: torch.Tensor
    times: torch.Tensor
    prompts: torch.Tensor
    factors: torch.Tensor
    ids: list[str]
    weights: torch.Tensor | None = None

    def part(self, start: int, stop: int) -> Batch:
        """Return a slice of the batch."""
        cut = slice(start, stop)
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        cuts: dict[str, Any] = {name: None if value is None else value[cut] for name, value in values.items()}
        return Batch(**cuts)

    def to(self, device: torch.device) -> Batch:
        """Move the tensors to a device."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        tensors = {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}
        return Batch(**values | {name: value.to(device, non_blocking=True) for name, value in tensors.items()})

    def __len__(self) -> int:
        return len(self.ids)


class Batches:
    """An endless plan of training steps.

    Items of one latent size (one aspect-ratio bucket) form a batch; a bucket's last batch is filled from its start.

    Args:
        items: training images.
        size: images per step over all processes; a multiple of `world`.
        objective: draws the noise and knows the number of time steps.
        seed: run seed.
        caption_dropout: share of images trained with the empty prompt.
        empty_prompt: row of the empty prompt.
        prior: class images that join each step, as many as instance images, and their weight in the loss.
        rank: number of this process.
        world: number of processes.
    """

    def __init__(
        self,
        items: Sequence[Item],
        size: int,
        objective: Objective,
        seed: int,
        caption_dropout: float = 0.0,
        empty_prompt: int = 0,
        prior: tuple[Sequence[Item], float] = ((), 0.0),
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.items, self.size, self.objective, self.seed = items, size, objective, seed
        self.caption_dropout, self.empty_prompt = caption_dropout, empty_prompt
        self.prior, self.prior_weight = prior
        self.rank, self.world = rank, world
        self._epochs: dict[int, list[list[int]]] = {}
        self.per_epoch = len(self._epoch(0))

    @property
    def marked(self) -> list[Item]:
        """The images with drawn marks."""
        return [item for item in self.items if item.marks is not None]

    def _epoch(self, number: int) -> list[list[int]]:
        if number not in self._epochs:
            draw = generator(self.seed, "adapt/order", epoch=number)
            buckets: dict[tuple[int, ...], list[int]] = {}
            for index in torch.randperm(len(self.items), generator=draw).tolist():
                buckets.setdefault(tuple(self.items[index].moments.shape[-2:]), []).append(index)
            plan = []
            for size in sorted(buckets):
                order = buckets[size]
                for start in range(0, len(order), self.size):
                    plan.append([order[(start + offset) % len(order)] for offset in range(self.size)])
            shuffled = torch.randperm(len(plan), generator=draw).tolist()
            self._epochs = {number: [plan[index] for index in shuffled]}
        return self._epochs[number]

    def step(self, number: int) -> Batch:
        """Return this process's share of step `number` (from 0)."""
        epoch, position = divmod(number, self.per_epoch)
        chosen = [self.items[index] for index in self._epoch(epoch)[position]]
        draw = generator(self.seed, "adapt/step", number)
        if self.prior:
            picks = torch.randint(len(self.prior), (self.size,), generator=draw).tolist()
            chosen = [item for pair in zip(chosen, (self.prior[pick] for pick in picks), strict=True) for item in pair]
        return self._draw(chosen, draw)

    def _draw(self, chosen: list[Item], draw: torch.Generator) -> Batch:
        count = len(chosen)
        picks = torch.rand(count, generator=draw).tolist()
        views = [int(pick * len(item.moments)) for item, pick in zip(chosen, picks, strict=True)]
        moments = torch.stack([item.moments[view] for item, view in zip(chosen, views, strict=True)])
        mean, deviation = moments.unbind(1)
        clean = mean + deviation * torch.randn(mean.shape, generator=draw)
        noise = self.objective.noise(tuple(mean.shape), draw)
        times = torch.randint(self.objective.steps, (count,), generator=draw)
        dropped = torch.rand(count, generator=draw) < self.caption_dropout
        prompts = torch.tensor([item.prompt for item in chosen]).masked_fill(dropped, self.empty_prompt)
        factors = torch.tensor([self.prior_weight if item.prior else 1.0 for item in chosen])
        share = count // self.world
        ids, weights = [item.id for item in chosen], loss_weights(chosen, views)
        whole = Batch(clean, noise, times, prompts, factors, ids, weights)
        return whole.part(self.rank * share, (self.rank + 1) * share)


def loss_weights(items: Sequence[Item], views: Sequence[int]) -> torch.Tensor | None:
    """Return ``(N, 1, h, w)`` float, 0 under a drawn mark of the chosen view, else 1; None where no item has one."""
    if all(item.marks is None for item in items):
        return None
    size = items[0].moments.shape[-2:]
    pairs = zip(items, views, strict=True)
    return torch.stack(
        [torch.ones(size) if item.marks is None else 1.0 - item.marks[view].float() for item, view in pairs]
    )[:, None]


def initial_down(name: str, shape: tuple[int, ...], seed: int, kaiming: bool = False) -> torch.Tensor:
    """Return the start of a low-rank layer's ``down``: N(0, 1/rank) as MEDDAP, or Kaiming-uniform as kohya-ss.

    Args:
        name: of the layer; each has its own random stream.
        shape: of the tensor, ``(rank, inputs, ...)``.
        seed: run seed.
        kaiming: uniform in ``+-1/sqrt(inputs)`` instead.
    """
    draw = torch.Generator().manual_seed(derive_seed(seed, "adapt/init", name))
    if kaiming:
        bound = shape[1] ** -0.5
        return (torch.rand(shape, generator=draw) * 2 - 1) * bound
    return torch.randn(shape, generator=draw) / shape[0]
