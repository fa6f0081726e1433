"""A decoder made sharper on what the UNet draws, not only on what the encoder saw.

Latents drawn by a UNet are smoother than encoded ones, and a decoder trained on encoded latents alone hands that on as
missing speckle. Here it trains on with both: encoded latents keep their pixel target; drawn ones, which have none, are
judged by the patch discriminator beside pictures of the same sentence, and by the power of their spectrum against the
mean of that sentence's pictures. The moving average of the weights is kept. Encoder, latents and UNet stay as they are.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import save
from torch import nn

from meddap_monai import store
from meddap_monai.core.seeds import derive_seed, generator
from meddap_monai.diffusion.bases.sample_pictures import dpm_solver
from meddap_monai.diffusion.pretraining.autoencoder_training import (
    crops_of_step,
    discriminator_step,
    generator_loss,
    gradient_energy,
    make_discriminator,
    reconstruction_losses,
)
from meddap_monai.diffusion.pretraining.config import PretrainConfig, RefinementConfig
from meddap_monai.diffusion.pretraining.views import Views, grey_tensor
from meddap_monai.training.ema import update_average
from meddap_monai.training.finite import check_finite
from meddap_monai.training.schedules import FLOOR, schedule, set_rate

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

CELLS = 8
"""The half spectrum is compared in this many cells per axis."""


def choose_views(groups: Sequence[str], count: int, seed: int) -> np.ndarray:
    """Return `count` rows of views whose captions are drawn, every group equally often."""
    rows: dict[str, list[int]] = defaultdict(list)
    for row, group in enumerate(groups):
        rows[group].append(row)
    draw = np.random.default_rng(derive_seed(seed, "pretrain/polish", "views"))
    names = sorted(rows)
    return np.array([draw.choice(rows[names[number % len(names)]]) for number in range(count)])


@torch.no_grad()
def draw_latents(
    pipeline: Any,
    captions: Sequence[str],
    config: RefinementConfig,
    seed: int,
    half: bool = False,
    each_batch: Callable[[], None] = lambda: None,
) -> torch.Tensor:
    """Return latents (N, C, h, w) float16 that a base draws, one per caption.

    Args:
        pipeline: the base.
        captions: N prompts.
        config: sampling.
        seed: of the start noise.
        half: compute in bfloat16.
        each_batch: called before every batch; may raise.
    """
    parts = []
    with dpm_solver(pipeline), torch.autocast(pipeline.device.type, torch.bfloat16, enabled=half):
        for start in range(0, len(captions), 8):
            each_batch()
            texts = list(captions[start : start + 8])
            found = pipeline(
                texts,
                num_inference_steps=config.sampling_steps,
                guidance_scale=config.guidance,
                generator=[generator(seed, "pretrain/polish/draw", start + number) for number in range(len(texts))],
                output_type="latent",
            ).images
            parts.append(found.float().cpu())
    return torch.cat(parts).half()


def draw_once(
    path: Path, pipeline: Any, captions: Sequence[str], config: PretrainConfig, each_batch: Callable[[], None]
) -> None:
    """Write what `draw_latents` returns, unless the file is there already."""
    if not path.is_file():
        latents = draw_latents(
            pipeline, captions, config.refinement, config.seed, config.precision == "bf16", each_batch
        )
        store.write_atomic(path, save({"latents": latents}))


class RefinementTraining:
    """Steps that train a decoder on encoded and on drawn latents.

    Args:
        vae: its decoder is trained; `decoder` is the average that replaces it in the end.
        views: N pictures with their captions.
        latents: (N, C, h, w) float16, those pictures encoded.
        drawn: (M, C, h, w) latents from `draw_latents`.
        rows: (M,) the view whose caption each was drawn with.
        config: of the whole pre-training; `refinement`, `seed` and `device` count here.
    """

    def __init__(
        self,
        vae: Any,
        views: Views,
        latents: torch.Tensor,
        drawn: torch.Tensor,
        rows: np.ndarray,
        config: PretrainConfig,
    ) -> None:
        self.config, self.seed, self.device, self.half = (
            config.refinement,
            config.seed,
            config.device,
            config.precision == "bf16",
        )
        self.vae, self.pixels, self.ids = vae.to(self.device), views.pixels, views.ids
        self.latents, self.drawn = latents, drawn
        self.factor = views.pixels.shape[-1] // latents.shape[-1]
        self.words = [views.looks[row] for row in rows]
        self.rows_of_caption: dict[str, list[int]] = defaultdict(list)
        for row, caption in enumerate(views.looks):
            self.rows_of_caption[caption].append(row)
        self.power = {word: self._mean_power(self.rows_of_caption[word]) for word in sorted(set(self.words))}
        self._make_networks()

    def _make_networks(self) -> None:
        vae = self.vae
        self.discriminator, self.discriminator_optimizer = make_discriminator(self.seed, self.device)
        vae.requires_grad_(False)
        vae.decoder.requires_grad_(True)
        self.average = copy.deepcopy(vae.decoder).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(vae.decoder.parameters(), lr=0.0, betas=(0.5, 0.95), weight_decay=0.0)

    @property
    def state(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        modules = {"decoder": self.vae.decoder, "average": self.average, "discriminator": self.discriminator}
        return modules | {"optimizer": self.optimizer, "discriminator_optimizer": self.discriminator_optimizer}

    def advance(self, step: int) -> dict[str, float]:
        """Do step `step`: the decoder, its average, then the discriminator."""
        config = self.config
        draw = generator(self.seed, "pretrain/polish", step)
        rate = config.learning_rate * schedule("cosine", step, config.steps, min(100, config.steps), FLOOR)
        set_rate(self.optimizer, rate)
        images, latents, names = self._encoded(step, draw)
        drawn, same_caption_images, power = self._drawn(draw)
        with torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.half):
            made, free = (self.vae.decode(part).sample.float().mean(1, keepdim=True) for part in (latents, drawn))
        losses = reconstruction_losses(made, images)
        losses["energy"] = (cell_power(free) / power).log().abs().mean()
        loss = losses["l1"] + config.gradient * losses["gradient"] + config.spectrum * losses["spectrum"]
        loss = check_finite(loss + config.energy * losses["energy"], "pretrain#refinement", step + 1, rate, names)
        weight = config.adversarial * min(1.0, max(0.0, 10 * step / config.steps - 1))
        last = self.vae.decoder.conv_out.weight
        total = loss + weight * generator_loss(self.discriminator, last, loss, (made, free))
        self.optimizer.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(self.vae.decoder.parameters(), 1.0)
        self.optimizer.step()
        update_average(self.average.parameters(), self.vae.decoder.parameters(), config.ema, step)
        report = {name: value.item() for name, value in losses.items()}
        fakes = (made.detach(), free.detach())
        discriminator_rate = rate / config.learning_rate * config.discriminator_learning_rate
        hinge_loss = discriminator_step(
            self.discriminator, self.discriminator_optimizer, (images, same_caption_images), fakes, discriminator_rate
        )
        report["discriminator"] = check_finite(hinge_loss, "pretrain#refinement", step + 1, rate, names).item()
        report["gradient_energy_drawn"] = float(gradient_energy(fakes[1]) / gradient_energy(same_caption_images))
        report["gradient_energy"] = float(gradient_energy(fakes[0]) / gradient_energy(images))
        return report

    def finish(self) -> None:
        """Put the average in place of the trained decoder."""
        self.vae.decoder.load_state_dict(self.average.state_dict())

    @torch.no_grad()
    def picture(self, writer: SummaryWriter, step: int) -> None:
        """Draw eight drawn latents, decoded by the average."""
        count = min(8, len(self.drawn))
        chosen = np.linspace(0, len(self.drawn) - 1, count).astype(int)
        made = self.average(self.drawn[chosen].float().to(self.device)).mean(1).clamp(-1, 1)
        writer.add_image("refinement/drawn", (torch.cat(list(made), dim=1)[None] + 1) / 2, step)

    def _encoded(self, step: int, draw: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
        """Return pictures or crops of them, their latents with some noise, and the ids."""
        config, side = self.config, self.pixels.shape[-1]
        crop, count = crops_of_step(step, side, config.crop, config.batch)
        chosen = torch.randint(len(self.pixels), (count,), generator=draw).tolist()
        corners = torch.randint((side - crop) // self.factor + 1, (count, 2), generator=draw).tolist()
        pixels, latents, width = [], [], crop // self.factor
        for row, (top, left) in zip(chosen, corners, strict=True):
            latents.append(self.latents[row, :, top : top + width, left : left + width])
            high, wide = top * self.factor, left * self.factor
            pixels.append(self.pixels[row, high : high + crop, wide : wide + crop])
        found = torch.stack(latents).float()
        size = torch.rand(count, 1, 1, 1, generator=draw) * config.latent_noise
        noisy = found + size * torch.randn(found.shape, generator=draw)
        return grey_tensor(np.stack(pixels), self.device), noisy.to(self.device), [self.ids[row] for row in chosen]

    def _drawn(self, draw: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return drawn latents, pictures of the same captions, and the mean power of those captions."""
        chosen = torch.randint(len(self.drawn), (self.config.batch_drawn,), generator=draw).tolist()
        same_caption_rows = [self.rows_of_caption[self.words[number]] for number in chosen]
        rows = [one[int(torch.randint(len(one), (1,), generator=draw))] for one in same_caption_rows]
        power = torch.stack([self.power[self.words[number]] for number in chosen])
        return self.drawn[chosen].float().to(self.device), grey_tensor(self.pixels[rows], self.device), power

    def _mean_power(self, rows: list[int]) -> torch.Tensor:
        parts = [grey_tensor(self.pixels[rows[start : start + 64]], self.device) for start in range(0, len(rows), 64)]
        return torch.cat([cell_power(part) for part in parts]).mean(0)


def cell_power(images: torch.Tensor) -> torch.Tensor:
    """Return the power of pictures (B, 1, H, W) in cells of their half spectrum, (B, 2 * CELLS, CELLS)."""
    power = torch.fft.rfft2(images - images.mean((2, 3), keepdim=True), norm="ortho").abs().square()
    power = torch.fft.fftshift(power, dim=2)
    return nn.functional.adaptive_avg_pool2d(power, (2 * CELLS, CELLS))[:, 0] + 1e-4
