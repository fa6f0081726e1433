"""Prompts as the UNet hears them: computed once while the text encoder is frozen, at every step while it learns."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from meddap_monai import store


@dataclass(frozen=True)
class Conditioning:
    """Encoded prompts.

    Attributes:
        hidden: ``(P, T, D)`` what cross-attention reads.
        pooled: ``(P, E)`` for Stable Diffusion XL, else None.
    """

    hidden: torch.Tensor
    pooled: torch.Tensor | None = None

    def take(self, rows: torch.Tensor) -> Conditioning:
        """Return the prompts at `rows`, in that order."""
        return Conditioning(self.hidden[rows], None if self.pooled is None else self.pooled[rows])

    def to(self, *args: Any) -> Conditioning:
        """Move to a device or type."""
        return Conditioning(self.hidden.to(*args), None if self.pooled is None else self.pooled.to(*args))

    def arguments(self, latents: torch.Tensor, factor: int) -> dict[str, Any]:
        """Return the keyword arguments of the UNet's forward for a batch of latents ``(N, C, h, w)``.

        Args:
            latents: gives the picture's size, which Stable Diffusion XL is told.
            factor: pixels per latent.
        """
        arguments: dict[str, Any] = {"encoder_hidden_states": self.hidden}
        if self.pooled is not None:
            height, width = (side * factor for side in latents.shape[-2:])
            sizes = torch.tensor([[height, width, 0, 0, height, width]], device=latents.device, dtype=self.pooled.dtype)
            arguments["added_cond_kwargs"] = {
                "text_embeds": self.pooled,
                "time_ids": sizes.expand(len(latents), -1),
            }
        return arguments


def join(parts: Sequence[Conditioning]) -> Conditioning:
    """Return the prompts of all `parts`, in order."""
    pooled = [part.pooled for part in parts if part.pooled is not None]
    return Conditioning(torch.cat([part.hidden for part in parts]), torch.cat(pooled) if pooled else None)


def encode_prompts(pipeline: Any, prompts: Sequence[str], clip_skip: int | None = None) -> Conditioning:
    """Encode prompts with the pipeline's own text encoders; gradients flow where the encoders have any.

    Args:
        pipeline: Stable Diffusion 1.x, 2.x or XL.
        prompts: texts.
        clip_skip: layers of the text encoder to leave out at its end (diffusers' counting: 1 is kohya-ss' "2").
    """
    with _final_norm_found(pipeline.text_encoder):
        found = pipeline.encode_prompt(
            prompt=list(prompts),
            device=pipeline.text_encoder.device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
            clip_skip=clip_skip,
        )
    return Conditioning(found[0], found[2] if len(found) == 4 else None)


@contextlib.contextmanager
def _final_norm_found(encoder: Any) -> Iterator[None]:
    """Offer the encoder under its own ``text_model``, where diffusers' clip skip looks and transformers 5 has nothing.

    For this moment only: with that name in place diffusers' ``load_lora_weights`` puts nothing into the encoder.
    """
    if hasattr(encoder, "text_model"):
        yield
        return
    object.__setattr__(encoder, "text_model", encoder)
    try:
        yield
    finally:
        object.__delattr__(encoder, "text_model")


@torch.no_grad()
def cached_prompts(
    pipeline: Any, prompts: Sequence[str], folder: Path, encoder_name: str, clip_skip: int | None = None
) -> Conditioning:
    """Return the encoded prompts from a content-addressed cache on disk, encoding those that are missing one by one.

    Args:
        pipeline: with frozen text encoders.
        prompts: texts.
        folder: of the cache.
        encoder_name: hash that identifies the text encoders' weights.
        clip_skip: see `encode_prompts`.
    """
    entries = []
    for prompt in prompts:
        name = store.sha256_text(json.dumps([encoder_name, str(pipeline.text_encoder.dtype), prompt, clip_skip]))
        path = Path(folder) / name[:2] / f"{name}.safetensors"
        try:
            tensors = load_file(store.regular_file(path))
        except (SafetensorError, OSError):
            encoded = encode_prompts(pipeline, [prompt], clip_skip)
            tensors = {"hidden": encoded.hidden.cpu().contiguous()}
            if encoded.pooled is not None:
                tensors["pooled"] = encoded.pooled.cpu().contiguous()
            store.write_atomic(path, save(tensors))
        entries.append(Conditioning(tensors["hidden"].clone(), tensors.get("pooled")))
    return join(entries)
