"""From rows of a plan to pictures: one denoising loop for text, image and inpaint.

Why not the pipelines' own ``__call__``: three of them would be needed; none takes one strength-independent seed per
image together with cached embeddings of mixed prompts, stops between two steps when a signal arrives, leaves the
unguided half away where guidance is off, or keeps the latents in float32 while the network runs in bfloat16. What a
batch needs is little: starting latents, the network on both guidance halves at once, the scheduler's step. Text
encoding, network, autoencoder and schedulers remain diffusers' own.
"""

import inspect
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from meddap_monai.diffusion.bases.conditioning import Conditioning, encode_prompts, join
from meddap_monai.diffusion.bases.schedulers import build_scheduler
from meddap_monai.diffusion.generation.plan import PlanRow
from meddap_monai.errors import BadBase

Guide = Callable[..., torch.Tensor]
_CACHED_PROMPTS = 4096


@dataclass(frozen=True)
class LoopSettings:
    """How the loop runs, equal for all images of a run.

    Attributes:
        clip_skip: last text-encoder layers left out.
        eta: noise added by DDIM, 0 to 1.
        guidance_interval: part of the sampling in which classifier-free guidance acts, each 0 to 1.
        guidance_rescale: 0 to 1 (Lin et al. 2024, arXiv 2305.08891, section 3.4).
        timestep_spacing: see `build_scheduler`.
        compile: compile the UNet.
    """

    clip_skip: int = 0
    eta: float = 0.0
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    guidance_rescale: float = 0.0
    timestep_spacing: str | None = None
    compile: bool = False


@dataclass(frozen=True)
class Sources:
    """Real images that a batch starts from.

    Attributes:
        images: ``(N, 3, H, W) float32 [-1, 1]``.
        masks: ``(N, 1, H, W) float32 {0, 1}``, 1 where the picture is painted again; none: everywhere.
    """

    images: torch.Tensor
    masks: torch.Tensor | None = None


class ImageSampler:
    """A base with its adapters, ready to make images in batches.

    Args:
        pipeline: from `load_base` (Stable Diffusion 1.x, 2.x or XL), adapters already fused.
        settings: see `LoopSettings`.
        guide: classifier guidance, called at every step with ``latents, timestep, model_output, scheduler, labels``.
    """

    def __init__(self, pipeline: Any, settings: LoopSettings | None = None, guide: Guide | None = None) -> None:
        self.pipeline, self.settings, self.guide = pipeline, settings or LoopSettings(), guide
        self.device, self.dtype = pipeline.unet.device, pipeline.unet.dtype
        channels = (pipeline.unet.config.in_channels, pipeline.vae.config.latent_channels)
        if channels[0] != channels[1]:
            raise BadBase(
                f"the base's UNet takes {channels[0]} channels and its latents have {channels[1]}, expected equal"
                " numbers (a 9-channel inpainting UNet is not supported; inpainting works with any ordinary base)"
            )
        _order_channels_last(pipeline)
        self._unet = torch.compile(pipeline.unet, dynamic=False) if self.settings.compile else pipeline.unet
        self._prompts: OrderedDict[str, Conditioning] = OrderedDict()

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels of the images that the base was made for."""
        sample = self.pipeline.unet.config.sample_size
        height, width = (sample, sample) if isinstance(sample, int) else sample
        return height * self.factor, width * self.factor

    @property
    def factor(self) -> int:
        """Pixels per latent along one axis."""
        return int(self.pipeline.vae_scale_factor)

    @torch.no_grad()
    def sample(
        self, rows: Sequence[PlanRow], sources: Sources | None = None, each_step: Callable[[], None] = lambda: None
    ) -> np.ndarray:
        """Make one image per row.

        Args:
            rows: of one batch, equal in all that `PlanRow.together` names.
            sources: for the modes image and inpaint.
            each_step: called before every step; what it raises ends the sampling.

        Returns:
            ``(N, H, W, 3) uint8 0..255``.
        """
        first = rows[0]
        scheduler = build_scheduler(first.scheduler, self.pipeline.scheduler, self.settings.timestep_spacing)
        scheduler.set_timesteps(first.steps, device=self.device)
        timesteps = _timesteps(scheduler, first)
        generators = [torch.Generator().manual_seed(row.seed) for row in rows]
        shape = (self.pipeline.vae.config.latent_channels, first.height // self.factor, first.width // self.factor)
        noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators]).to(self.device)
        start = self._encode(sources.images) if sources is not None else None
        latents = _starting_latents(scheduler, timesteps, noise, start, first.strength)
        mask = _latent_mask(sources, shape[-2:], self.device)
        words = self._words(rows)
        extra = _step_arguments(scheduler, generators, self.settings.eta)
        labels = torch.tensor([row.label for row in rows], device=self.device)
        for number, timestep in enumerate(timesteps):
            each_step()
            inputs = scheduler.scale_model_input(latents, timestep)
            share = number / len(timesteps)
            output = self._predict(inputs, timestep, words, first.guidance, share)
            if self.guide is not None:
                output = self.guide(
                    latents=inputs, timestep=timestep, model_output=output, scheduler=scheduler, labels=labels
                )
            latents = scheduler.step(output, timestep, latents, **extra, return_dict=False)[0]
            if mask is not None and start is not None:
                known = _noised(scheduler, start, noise, timesteps, number + 1)
                latents = mask * latents + (1 - mask) * known
        return _keep_known(self._decode(latents), sources)

    def _predict(
        self, inputs: torch.Tensor, timestep: torch.Tensor, words: Conditioning, guidance: float, share: float
    ) -> torch.Tensor:
        """Return the network's prediction ``(N, C, h, w) float32`` after classifier-free guidance.

        Ho and Salimans 2022 (arXiv 2207.12598), eq. 6, as diffusers writes it: e_u + w (e_c - e_u), on both halves in
        one batch.
        """
        start, end = self.settings.guidance_interval
        inputs = inputs.to(self.dtype)
        guided = guidance != 1.0 and start <= share < max(end, 1e-9)
        if guided:
            inputs = torch.cat([inputs] * 2)
        else:
            words = words.take(torch.arange(len(inputs), 2 * len(inputs)))
        output = self._unet(inputs, timestep, return_dict=False, **words.arguments(inputs, self.factor))[0].float()
        if not guided:
            return output
        without, text = output.chunk(2)
        return _rescale(without + guidance * (text - without), text, self.settings.guidance_rescale)

    # -------------------------------------------------------------------------------------------------------- text
    def _words(self, rows: Sequence[PlanRow]) -> Conditioning:
        """Return all negative, then all positive prompts of the rows, each distinct prompt encoded once."""
        texts = [row.negative_prompt for row in rows] + [row.prompt for row in rows]
        return join([self._encoded(text) for text in texts])

    def _encoded(self, text: str) -> Conditioning:
        if text not in self._prompts:
            self._prompts[text] = encode_prompts(self.pipeline, [text], self.settings.clip_skip or None)
            if len(self._prompts) > _CACHED_PROMPTS:
                self._prompts.popitem(last=False)
        return self._prompts[text].to(self.dtype)

    # ------------------------------------------------------------------------------------------------- autoencoder
    def _encode(self, images: torch.Tensor) -> torch.Tensor:
        """Return the scaled latents ``(N, C, h, w) float32`` of images ``(N, 3, H, W) [-1, 1]``, without noise."""
        vae = self.pipeline.vae
        encoded = vae.encode(images.to(self.device, vae.dtype))
        latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
        return latents.float() * vae.config.scaling_factor

    def _decode(self, latents: torch.Tensor) -> np.ndarray:
        """Return images ``(N, H, W, 3) uint8`` of latents."""
        vae = self.pipeline.vae
        images = vae.decode((latents / vae.config.scaling_factor).to(vae.dtype), return_dict=False)[0].float()
        grey_levels = ((images / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
        result: np.ndarray = grey_levels.permute(0, 2, 3, 1).cpu().numpy()
        return np.repeat(result, 3, axis=3) if result.shape[3] == 1 else result

    def save_memory(self) -> bool:
        """Decode one image at a time from now on; False when that was already so or is not possible."""
        vae = self.pipeline.vae
        if getattr(vae, "use_slicing", True) or not hasattr(vae, "enable_slicing"):
            return False
        vae.enable_slicing()
        return True


def _order_channels_last(pipeline: Any) -> None:
    """Store weights channels last: the same numbers, faster convolutions (measured in ``benchmarks/peers.py``).

    The UNet in bfloat16 on a CPU is the exception: there oneDNN is faster with the usual order.
    """
    pipeline.vae.to(memory_format=torch.channels_last)
    if pipeline.unet.device.type == "cuda" or pipeline.unet.dtype == torch.float32:
        pipeline.unet.to(memory_format=torch.channels_last)


def _timesteps(scheduler: Any, row: PlanRow) -> torch.Tensor:
    """Return the time steps that are run: all for text, the last ``strength`` of them from a source image on.

    At least one step is always run, so that the smallest strengths do something with few steps.
    """
    if row.mode == "text":
        return scheduler.timesteps
    kept = min(max(int(row.steps * row.strength), 1), row.steps)
    begin = (row.steps - kept) * scheduler.order
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(begin)
    return scheduler.timesteps[begin:]


def _starting_latents(
    scheduler: Any, timesteps: torch.Tensor, noise: torch.Tensor, start: torch.Tensor | None, strength: float
) -> torch.Tensor:
    if start is None or strength >= 1.0:
        return noise * scheduler.init_noise_sigma
    return scheduler.add_noise(start, noise, timesteps[:1].repeat(len(noise)))


def _noised(
    scheduler: Any, start: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor, number: int
) -> torch.Tensor:
    """Return the known part at the noise level of step `number`; without noise after the last one."""
    if number >= len(timesteps):
        return start
    return scheduler.add_noise(start, noise, timesteps[number : number + 1].repeat(len(noise)))


def _latent_mask(sources: Sources | None, size: tuple[int, int], device: torch.device) -> torch.Tensor | None:
    """Return ``(N, 1, h, w) float32 {0, 1}``: a latent is painted again where any of its pixels is."""
    if sources is None or sources.masks is None:
        return None
    return torch.nn.functional.adaptive_max_pool2d(sources.masks, size).to(device)


def _keep_known(images: np.ndarray, sources: Sources | None) -> np.ndarray:
    """Put the source's own pixels back outside the mask, so that there nothing changes by decoding."""
    if sources is None or sources.masks is None:
        return images
    original = ((sources.images / 2 + 0.5) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    result: np.ndarray = np.where(sources.masks.permute(0, 2, 3, 1).numpy() > 0.5, images, original)
    return result


def _rescale(guided: torch.Tensor, text: torch.Tensor, amount: float) -> torch.Tensor:
    """Bring the guided prediction's spread back to that of the text half (arXiv 2305.08891, eq. 15 and 16)."""
    if amount == 0.0:
        return guided
    axes = tuple(range(1, guided.ndim))
    factor = text.std(dim=axes, keepdim=True) / guided.std(dim=axes, keepdim=True)
    return guided * (amount * factor + 1 - amount)


def _step_arguments(scheduler: Any, generators: list[torch.Generator], eta: float) -> dict[str, Any]:
    known = inspect.signature(scheduler.step).parameters
    given = {"generator": generators, "eta": eta}
    return {name: value for name, value in given.items() if name in known}
