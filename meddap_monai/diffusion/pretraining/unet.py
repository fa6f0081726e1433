"""The denoising UNet of a base: shape, cached latents, training with an average of the weights."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from meddap_monai.core.distributed import SINGLE_PROCESS, Ranks
from meddap_monai.core.seeds import generator
from meddap_monai.diffusion.bases.noise import Objective
from meddap_monai.diffusion.pretraining.parts import DenoiserConfig
from meddap_monai.errors import ConfigurationError
from meddap_monai.training.ema import update_average
from meddap_monai.training.finite import check_finite
from meddap_monai.training.schedules import FLOOR, schedule, set_rate

if TYPE_CHECKING:
    from diffusers import DDIMScheduler, UNet2DConditionModel


def build_denoiser(config: DenoiserConfig, latents: int, side: int, text_width: int) -> UNet2DConditionModel:
    """Make the UNet with random weights.

    Args:
        config: shape.
        latents: latent channels.
        side: of the latents.
        text_width: width of the text encoder's hidden states.
    """
    from diffusers import UNet2DConditionModel

    down = tuple("CrossAttnDownBlock2D" if attends else "DownBlock2D" for attends in config.attention)
    up = tuple("CrossAttnUpBlock2D" if attends else "UpBlock2D" for attends in reversed(config.attention))
    pooled = {"addition_embed_type": "text", "addition_embed_type_num_heads": 4} if config.pooled_text else {}
    return UNet2DConditionModel(
        sample_size=side,
        in_channels=latents,
        out_channels=latents,
        down_block_types=down,
        up_block_types=up,
        block_out_channels=config.channels,
        layers_per_block=config.layers,
        cross_attention_dim=text_width,
        attention_head_dim=config.heads,
        norm_num_groups=config.groups,
        **pooled,
    )


def build_scheduler(config: DenoiserConfig) -> DDIMScheduler:
    """Return the noise schedule; a base keeps it as its ``scheduler`` folder."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=config.beta_start,
        beta_end=config.beta_end,
        beta_schedule="scaled_linear",
        prediction_type=config.prediction,
        rescale_betas_zero_snr=config.zero_terminal_snr,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


@dataclass(frozen=True)
class Cache:
    """What the UNet trains on, encoded once.

    Attributes:
        latents: (N, C, h, w) float16.
        captions: (N,) int64, row of `embeddings`.
        embeddings: (M, T, D) float32 hidden states of every distinct caption; row 0 is the empty prompt.
        groups: N group names, for balancing.
        ids: N record ids.
        changed: (N,) bool, changed by an adjective.
    """

    latents: torch.Tensor
    captions: torch.Tensor
    embeddings: torch.Tensor
    groups: list[str]
    ids: list[str]
    changed: np.ndarray


class DenoiserTraining:
    """Steps of UNet training on cached latents."""

    def __init__(
        self,
        unet: Any,
        scheduler: Any,
        cache: Cache,
        config: DenoiserConfig,
        seed: int,
        device: str = "cpu",
        half: bool = True,
        ranks: Ranks = SINGLE_PROCESS,
    ) -> None:
        """Make the optimizer and the average.

        Args:
            unet: with random weights, equal in all processes.
            scheduler: its noise schedule.
            cache: what it learns, equal in all processes.
            config: of the training; its batch is that of all processes together.
            seed: of batches, times and noise.
            device: where to train.
            half: compute in bfloat16 autocast.
            ranks: the processes that divide every batch.

        Raises:
            ConfigurationError: the batch cannot be divided.
        """
        if config.batch % ranks.size:
            raise ConfigurationError(
                f"pretrain#unet#batch is {config.batch}, expected a multiple of the {ranks.size} processes"
            )
        self.unet, self.cache = unet.to(device).train(), cache
        self.config, self.seed, self.ranks = config, seed, ranks
        self.average = copy.deepcopy(unet).eval().requires_grad_(False)
        self.device, self.half = device, half
        text: list[nn.Parameter] = []
        rest: list[nn.Parameter] = []
        for name, parameter in unet.named_parameters():
            (text if "attn2" in name or "add_embedding" in name else rest).append(parameter)
        groups = [{"params": rest, "factor": 1.0}, {"params": text, "factor": config.text_factor}]
        self.optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=0.0, weight_decay=1e-2, fused=True)
        self.objective = Objective(scheduler.config, config.snr_gamma).to(device)
        self.chances = {changed: _sampling_weights(cache, config, changed) for changed in (False, True)}

    @property
    def state(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {"unet": self.unet, "average": self.average, "optimizer": self.optimizer}

    def advance(self, step: int) -> dict[str, float]:
        """Do step `step`; batch, noise and times derive from its number alone, each process takes its share."""
        config, cache = self.config, self.cache
        draw = generator(self.seed, "pretrain/unet", step)
        chosen = self._choose(step, draw)
        times = torch.randint(self.objective.steps, (config.batch,), generator=draw)
        noise = torch.randn((config.batch, *cache.latents.shape[1:]), generator=draw)
        empty = torch.rand(config.batch, generator=draw) < config.empty_prompt
        captions = torch.where(empty, 0, cache.captions[chosen])
        mine = slice(self.ranks.rank, None, self.ranks.size)
        self.optimizer.zero_grad()
        loss = self._loss(chosen[mine], times[mine], noise[mine], captions[mine])
        loss.backward()
        self.ranks.average([*(p.grad for p in self.unet.parameters() if p.grad is not None), loss])
        rate = config.learning_rate * schedule("cosine", step, config.steps, config.warmup, FLOOR)
        check_finite(loss, "pretrain#unet", step + 1, rate, [cache.ids[n] for n in chosen.tolist()])
        set_rate(self.optimizer, rate)
        norm = nn.utils.clip_grad_norm_(self.unet.parameters(), 1.0)
        self.optimizer.step()
        update_average(self.average.parameters(), self.unet.parameters(), config.ema, step)
        return {"loss": float(loss.item()), "gradient_norm": float(norm), "learning_rate": rate}

    def _loss(
        self, chosen: torch.Tensor, times: torch.Tensor, noise: torch.Tensor, captions: torch.Tensor
    ) -> torch.Tensor:
        config, device = self.config, self.device
        latents, times = self.cache.latents[chosen].float().to(device), times.to(device)
        text = self.cache.embeddings[captions].to(device)
        noisy, target = self.objective.diffuse(latents, noise.to(device), times)
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=self.half):
            predicted = self.unet(noisy, times, text).sample
        measure = functional.mse_loss if config.loss == "mse" else functional.l1_loss
        if config.snr_gamma is None:
            return measure(predicted.float(), target)
        errors = measure(predicted.float(), target, reduction="none").flatten(1).mean(1)
        return (errors * self.objective.weight(times)).mean()

    def _choose(self, step: int, draw: torch.Generator) -> torch.Tensor:
        config = self.config
        chosen = torch.multinomial(self.chances[False], config.batch, replacement=True, generator=draw)
        if step >= config.changed_from * config.steps and float(self.chances[True].sum()) > 0:
            others = torch.multinomial(self.chances[True], config.batch, replacement=True, generator=draw)
            swap = torch.rand(config.batch, generator=draw) < config.changed_share
            chosen = torch.where(swap, others, chosen)
        return chosen


def _sampling_weights(cache: Cache, config: DenoiserConfig, changed: bool) -> torch.Tensor:
    sizes = Counter(group for group, flag in zip(cache.groups, cache.changed, strict=True) if bool(flag) == changed)
    chances = {
        group: config.emphasis.get(group.partition("/")[0], 1.0) * size ** (config.balance - 1.0)
        for group, size in sizes.items()
    }
    weights = [
        chances[group] if bool(flag) == changed else 0.0
        for group, flag in zip(cache.groups, cache.changed, strict=True)
    ]
    return torch.tensor(weights, dtype=torch.float64)
