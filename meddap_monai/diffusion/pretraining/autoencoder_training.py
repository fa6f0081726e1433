"""Training of the autoencoder: reconstruction, gradients, spectrum, and a patch discriminator for the speckle.

Least squares and L1 losses average speckle away; the hinge patch discriminator (Isola et al. 2017; the balance of
the two gradients as in Esser et al. 2021, eq. 7) brings its energy back. With a fixed encoder latents stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from meddap_monai.core.seeds import generator
from meddap_monai.diffusion.pretraining.autoencoder import PatchPCA
from meddap_monai.diffusion.pretraining.parts import AutoencoderConfig
from meddap_monai.diffusion.pretraining.views import grey_tensor
from meddap_monai.training.finite import check_finite
from meddap_monai.training.schedules import FLOOR, schedule, set_rate

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


def make_discriminator(seed: int, device: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Return a patch discriminator of grey pictures (0.2 M parameters, no normalisation) and its optimizer."""
    widths = (1, 32, 64, 96)
    layers: list[nn.Module] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for before, after in zip(widths, widths[1:], strict=False):
            layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        discriminator = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 3, padding=1)).to(device)
    discriminator_optimizer = torch.optim.AdamW(discriminator.parameters(), lr=0.0, betas=(0.5, 0.9), weight_decay=0.0)
    return discriminator, discriminator_optimizer


def crops_of_step(step: int, side: int, crop: int, batch: int) -> tuple[int, int]:
    """Return side and number of a step's crops.

    Even steps take `batch` crops, odd ones as many pixels in whole pictures, at least one. Pictures no larger than a
    crop are always whole.
    """
    if step % 2 == 0 and side > crop:
        return crop, batch
    return side, max(1, batch * crop**2 // side**2)


class AutoencoderTraining:
    """One step of autoencoder training; see `AutoencoderConfig` for what is weighed how."""

    def __init__(
        self,
        vae: Any,
        pca: PatchPCA | None,
        pixels: np.ndarray,
        ids: list[str],
        config: AutoencoderConfig,
        seed: int,
        device: str = "cpu",
    ) -> None:
        """Hold the pictures (N, H, W) uint8 and make the optimizers."""
        self.vae, self.pca, self.config, self.seed = vae.to(device), pca, config, seed
        self.pixels, self.ids, self.device = pixels, ids, device
        self.discriminator, self.discriminator_optimizer = make_discriminator(seed, device)
        trained = vae.decoder if pca is not None else vae
        self.optimizer = torch.optim.AdamW(trained.parameters(), lr=0.0, betas=(0.9, 0.99), weight_decay=0.0)

    @property
    def state(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        names = {"vae": self.vae, "discriminator": self.discriminator}
        return names | {"optimizer": self.optimizer, "discriminator_optimizer": self.discriminator_optimizer}

    def advance(self, step: int) -> dict[str, float]:
        """Do step `step`: crops on even steps, whole pictures on odd ones."""
        config = self.config
        draw = generator(self.seed, "pretrain/decoder", step)
        images, names = self._batch(step, draw)
        rate = config.learning_rate * schedule("cosine", step, config.steps, min(100, config.steps), FLOOR)
        set_rate(self.optimizer, rate)
        made, kl = self._reconstruct(images, draw)
        losses = reconstruction_losses(made, images)
        loss = losses["l1"] + config.gradient * losses["gradient"] + config.spectrum * losses["spectrum"]
        total = check_finite(loss + config.kl * kl, "pretrain#autoencoder", step + 1, rate, names)
        adversarial = config.adversarial > 0 and step >= config.adversarial_from * config.steps
        if adversarial:
            last = self.vae.decoder.conv_out.weight
            total = total + config.adversarial * generator_loss(self.discriminator, last, loss, (made,))
        self.optimizer.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_([p for g in self.optimizer.param_groups for p in g["params"]], 1.0)
        self.optimizer.step()
        report = {name: value.item() for name, value in losses.items()}
        if adversarial:
            hinge_loss = discriminator_step(
                self.discriminator, self.discriminator_optimizer, (images,), (made.detach(),), 0.5 * rate
            )
            report["discriminator"] = check_finite(hinge_loss, "pretrain#autoencoder", step + 1, rate, names).item()
        return report

    def picture(self, writer: SummaryWriter, step: int) -> None:
        """Draw eight pictures above their reconstructions and write the share of gradient energy kept."""
        count = min(8, len(self.pixels))
        chosen = np.linspace(0, len(self.pixels) - 1, count).astype(int)
        images = grey_tensor(self.pixels[chosen], self.device)
        with torch.no_grad():
            made = self.vae.decode(self._encode(images)).sample.mean(1, keepdim=True)
        rows = torch.cat([torch.cat(list(part), dim=2) for part in (images, made.clamp(-1, 1))], dim=1)
        writer.add_image("autoencoder/real above reconstructed", (rows + 1) / 2, step)
        writer.add_scalar("autoencoder/gradient_energy", float(gradient_energy(made) / gradient_energy(images)), step)
        writer.add_scalar("autoencoder/psnr", float(-10 * ((made - images) / 2).square().mean().log10()), step)

    def _batch(self, step: int, draw: torch.Generator) -> tuple[torch.Tensor, list[str]]:
        config, side = self.config, self.pixels.shape[-1]
        crop, count = crops_of_step(step, side, config.crop, config.batch)
        chosen = torch.randint(len(self.pixels), (count,), generator=draw).tolist()
        parts = []
        for number in chosen:
            corner = torch.randint((side - crop) // config.factor + 1, (2,), generator=draw) * config.factor
            top, left = corner.tolist()
            parts.append(self.pixels[number, top : top + crop, left : left + crop])
        return grey_tensor(np.stack(parts), self.device), [self.ids[number] for number in chosen]

    def _encode(self, images: torch.Tensor) -> torch.Tensor:
        if self.pca is not None:
            return self.pca.encode(images)
        return self.vae.encode(images.expand(-1, 3, -1, -1)).latent_dist.mode()

    def _reconstruct(self, images: torch.Tensor, draw: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        kl = images.new_zeros(())
        if self.pca is not None:
            latents = self.pca.encode(images)
            size = torch.rand(len(images), 1, 1, 1, generator=draw).to(self.device) * self.config.latent_noise
        else:
            posterior = self.vae.encode(images.expand(-1, 3, -1, -1)).latent_dist
            latents, size, kl = posterior.mean, posterior.std, posterior.kl().mean()
        noise = torch.randn(latents.shape, generator=draw).to(self.device)
        return self.vae.decode(latents + size * noise).sample.mean(1, keepdim=True), kl


def reconstruction_losses(made: torch.Tensor, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return L1, the L1 distance of image gradients and of log spectra.

    Args:
        made: (B, 1, H, W) in about [-1, 1].
        images: likewise.
    """
    gradient = sum((torch.diff(made, dim=axis) - torch.diff(images, dim=axis)).abs().mean() for axis in (2, 3))
    spectra = [torch.fft.rfft2(part, norm="ortho").abs().add(1e-2).log() for part in (made, images)]
    return {
        "l1": (made - images).abs().mean(),
        "gradient": torch.as_tensor(gradient),
        "spectrum": (spectra[0] - spectra[1]).abs().mean(),
    }


def gradient_energy(images: torch.Tensor) -> torch.Tensor:
    """Return the mean size of the horizontal gradients of pictures (B, 1, H, W)."""
    return torch.diff(images, dim=3).abs().mean()


def generator_loss(
    discriminator: nn.Module, last: nn.Parameter, loss: torch.Tensor, fakes: Sequence[torch.Tensor]
) -> torch.Tensor:
    """Return the generator's hinge loss, scaled so that its gradient at `last` is as large as that of `loss`."""
    hinge_loss = -torch.stack([discriminator(fake).mean() for fake in fakes]).mean()
    own = torch.autograd.grad(loss, last, retain_graph=True)[0].norm()
    other = torch.autograd.grad(hinge_loss, last, retain_graph=True)[0].norm()
    weight = (own / (other + 1e-6)).clamp(max=100.0).detach()
    return weight * hinge_loss


def discriminator_step(
    discriminator: nn.Module,
    discriminator_optimizer: torch.optim.Optimizer,
    reals: Sequence[torch.Tensor],
    fakes: Sequence[torch.Tensor],
    rate: float,
) -> torch.Tensor:
    """Do one step of the discriminator on pairs of real and made pictures; return its hinge loss."""
    set_rate(discriminator_optimizer, rate)
    losses = [functional.relu(1 - discriminator(real)).mean() for real in reals]
    losses += [functional.relu(1 + discriminator(fake)).mean() for fake in fakes]
    loss = torch.stack(losses).sum() / len(reals)
    discriminator_optimizer.zero_grad()
    loss.backward()
    discriminator_optimizer.step()
    return loss.detach()
