"""Classifier guidance of any diffusers scheduler, beside classifier-free guidance and adapters.

HistoDiffusion (Ye et al., MICCAI 2023), after Dhariwal and Nichol (2021, alg. 2):
``eps' = eps - scale * sqrt(1 - alpha_bar_t) * grad_x log p(y | x_t)``. Other predictions are converted to eps and back.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from meddap_monai.core.constraints import check_choice
from meddap_monai.diffusion.bases.base import Base
from meddap_monai.diffusion.generation.config import GUIDANCE_VARIANTS
from meddap_monai.diffusion.generation.latent_classifier import load_latent_classifier
from meddap_monai.errors import ConfigurationError

VARIANTS = GUIDANCE_VARIANTS
Guide = Callable[..., torch.Tensor]


class ClassifierGuide:
    """What a sampling loop calls on every prediction of the UNet.

    Args:
        classifier: ``(latents, times) -> logits``.
        scale: strength; 0 changes nothing (published code: 10).
        start: share of the noise times, from the noisiest, before which nothing is guided.
        end: share after which nothing is guided.
        variant: "noisy" asks a time-conditioned classifier about x_t; "clean" asks a classifier of clean latents about
            the current estimate of the clean latent, the network's v held fixed, so that dx0/dx_t = sqrt(alpha_bar);
            "published" asks a classifier of clean latents about x_t itself, at time 0.
        labels: (B,) wanted classes, where the caller gives none.
    """

    def __init__(
        self,
        classifier: nn.Module,
        scale: float = 10.0,
        start: float = 0.0,
        end: float = 1.0,
        variant: str = "noisy",
        labels: torch.Tensor | None = None,
    ) -> None:
        check_choice(variant, VARIANTS, "generate#classifier_guidance#variant")
        self.classifier, self.scale, self.start, self.end = classifier.eval(), scale, start, end
        self.variant, self.labels = variant, labels

    def __call__(
        self,
        latents: torch.Tensor,
        timestep: torch.Tensor | float,
        model_output: torch.Tensor,
        scheduler: Any,
        labels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the guided prediction, in the scheduler's own prediction type.

        Args:
            latents: (B, C, h, w) the UNet's input x_t at unit total variance (after ``scale_model_input``).
            timestep: the scheduler's time, 0 to its number of training steps.
            model_output: (B, C, h, w) the UNet's prediction, after classifier-free guidance.
            scheduler: any diffusers scheduler with ``alphas_cumprod``.
            labels: (B,) wanted classes.

        Raises:
            ConfigurationError: no labels, or a prediction type other than epsilon, v_prediction and sample.
        """
        wanted = labels if labels is not None else self.labels
        if wanted is None:
            raise ConfigurationError("classifier guidance: no labels were given, expected one wanted class per image")
        total = len(scheduler.alphas_cumprod)
        time = min(max(round(float(timestep)), 0), total - 1)
        share = 1.0 - (time + 1) / total
        if self.scale == 0 or not self.start <= share < max(self.end, 1e-9):
            return model_output
        alpha = float(scheduler.alphas_cumprod[time])
        keep, blur = max(alpha, 1e-8) ** 0.5, (1.0 - alpha) ** 0.5
        kind = scheduler.config.prediction_type
        eps = to_epsilon(model_output, latents, keep, blur, kind)
        gradient = self._gradient(latents.float(), eps.float(), time, keep, blur, wanted.to(latents.device))
        guided = eps - self.scale * blur * gradient.to(eps.dtype)
        return from_epsilon(guided, latents, keep, blur, kind)

    def _gradient(
        self, latents: torch.Tensor, eps: torch.Tensor, time: int, keep: float, blur: float, wanted: torch.Tensor
    ) -> torch.Tensor:
        """Return grad_x log p(wanted | x), each item its own."""
        clean = self.variant == "clean"
        point = (latents - blur * eps) / keep if clean else latents
        moment = time if self.variant == "noisy" else 0
        with torch.enable_grad():
            point = point.detach().requires_grad_(True)
            times = torch.full((len(point),), moment, device=point.device, dtype=torch.long)
            logs = self.classifier(point, times).log_softmax(dim=1)
            picked = logs.gather(1, wanted[:, None]).sum()
            gradient = torch.autograd.grad(picked, point)[0]
        return keep * gradient if clean else gradient


def to_epsilon(output: torch.Tensor, latents: torch.Tensor, keep: float, blur: float, kind: str) -> torch.Tensor:
    """Return the noise that a prediction implies; ``x_t = keep * x0 + blur * eps``, ``v = keep * eps - blur * x0``."""
    if kind == "epsilon":
        return output
    if kind == "v_prediction":
        return keep * output + blur * latents
    if kind == "sample":
        return (latents - keep * output) / max(blur, 1e-8)
    raise ConfigurationError(f"classifier guidance: prediction type {kind!r}, expected epsilon, v_prediction or sample")


def from_epsilon(eps: torch.Tensor, latents: torch.Tensor, keep: float, blur: float, kind: str) -> torch.Tensor:
    """Return the prediction of type `kind` that implies `eps`; the inverse of `to_epsilon`."""
    if kind == "epsilon":
        return eps
    if kind == "v_prediction":
        return (eps - blur * latents) / keep
    return (latents - blur * eps) / keep


def open_guide(settings: Any, base: str | Path | Base, device: str | torch.device = "cpu") -> ClassifierGuide:
    """Return the guide that generation's ``classifier_guidance`` asks for.

    Args:
        settings: a `ClassifierGuidance` that names its classifier.
        base: the base that is guided.
        device: of the UNet.

    Raises:
        ConfigurationError: no classifier is named.
    """
    if settings.classifier is None:
        raise ConfigurationError("generate#classifier_guidance#classifier: none is given, expected a trained folder")
    classifier, _ = load_latent_classifier(Path(settings.classifier), base)
    return ClassifierGuide(classifier.to(device), settings.scale, settings.start, settings.end, settings.variant)
