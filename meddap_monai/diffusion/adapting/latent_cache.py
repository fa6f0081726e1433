"""Latents computed once: mean and deviation per image and view, in a content-addressed cache on disk.

The published training loops decode the image and run the autoencoder at every step. Here each image is encoded once
per view (flip, crop); a training step only draws ``z = mean + deviation * eps``. An entry's name is a hash of
everything that decides its content, so a cache may be shared between runs and is never stale.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch.nn import functional

from meddap_monai import store
from meddap_monai.core.records import Record
from meddap_monai.core.seeds import derive_seed
from meddap_monai.images.framing import frame
from meddap_monai.images.reading import opening
from meddap_monai.images.reading.overlays import overlay_mask
from meddap_monai.images.reading.recorded import open_recorded


@dataclass(frozen=True)
class Framing:
    """How an image becomes the network's picture.

    Attributes:
        height: pixels, a multiple of 8.
        width: pixels, a multiple of 8.
        fit: see `meddap_monai.images.framing.frame`.
        flip: also encode the mirrored image.
        crops: number of cuts; 1 is the middle, more are drawn from the seed.
        seed: of the cuts.
    """

    height: int
    width: int
    fit: str = "crop"
    flip: bool = False
    crops: int = 1
    seed: int = 0

    @property
    def views(self) -> int:
        """Number of pictures made of one image."""
        return self.crops * (2 if self.flip else 1)


def bucket_size(height: int, width: int, resolution: int, step: int) -> tuple[int, int]:
    """Return the (height, width) of an image's aspect-ratio bucket, as kohya-ss chooses it.

    The area is at most ``resolution ** 2``, sides are multiples of `step`, and images are never enlarged (an image
    smaller than one step is, to one step).
    """
    scale = min(1.0, (resolution**2 / (height * width)) ** 0.5)
    return tuple(max(step, int(side * scale + 1e-6) // step * step) for side in (height, width))  # type: ignore[return-value]


def image_size(record: Record) -> tuple[int, int]:
    """Return (height, width) of a record's image without decoding it."""
    return opening.image_size(record["image"])


def views(record: Record, framing: Framing) -> torch.Tensor:
    """Return the pictures of an image, ``(views, 3, H, W)`` float32 in [-1, 1]: all cuts, then them mirrored."""
    image = open_recorded(record).convert("RGB")
    cuts = [_cut(image, framing, record["sha256"], number) for number in range(framing.crops)]
    pictures = torch.from_numpy(np.stack(cuts)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return torch.cat([pictures, pictures.flip(-1)]) if framing.flip else pictures


def marks(record: Record, framing: Framing) -> torch.Tensor:
    """Return where marks are drawn over the pictures of `views`, ``(views, H, W)`` bool."""
    image = open_recorded(record)
    found = Image.fromarray(overlay_mask(np.asarray(image.convert("RGB"))).astype(np.uint8) * 255)
    cuts = [_cut(found, framing, record["sha256"], number) for number in range(framing.crops)]
    drawn = torch.from_numpy(np.stack(cuts)) > 0
    return torch.cat([drawn, drawn.flip(-1)]) if framing.flip else drawn


def _cut(image: Image.Image, framing: Framing, name: str, number: int) -> np.ndarray:
    draw = None
    if framing.crops > 1:
        draw = np.random.default_rng(derive_seed(framing.seed, "adapt/crop", name, number))
    return np.asarray(frame(image, framing.height, framing.width, framing.fit, draw))


class LatentCache:
    """Encode images once and keep mean and deviation on disk.

    Args:
        folder: of the cache; may be shared between runs.
        vae: ``AutoencoderKL`` or ``AutoencoderTiny`` in evaluation mode.
        vae_name: hash that identifies the autoencoder's weights.
        device: where to encode.
    """

    def __init__(self, folder: Path, vae: Any, vae_name: str, device: torch.device | str = "cpu") -> None:
        self.folder, self.vae, self.vae_name, self.device = Path(folder), vae, vae_name, device
        self.encoded = 0

    def get(self, record: Record, framing: Framing) -> torch.Tensor:
        """Return ``(views, 2, C, h, w)`` float32: mean and standard deviation of the scaled latents.

        An image's views are always encoded together and alone, so the result does not depend on what the cache holds.
        """
        path = self._path(record, framing)
        try:
            return load_file(store.regular_file(path))["moments"].clone()
        except (SafetensorError, OSError, KeyError):
            moments = self._encode(views(record, framing))
            store.write_atomic(path, save({"moments": moments.contiguous()}))
            self.encoded += 1
            return moments

    def marks(self, record: Record, framing: Framing, size: tuple[int, int]) -> torch.Tensor | None:
        """Return ``(views, h, w)`` bool, the latents of a size that a mark touches; None where there is no mark."""
        path = self._path(record, framing, "marks")
        try:
            found = load_file(store.regular_file(path))["marks"].clone()
        except (SafetensorError, OSError, KeyError):
            found = functional.adaptive_max_pool2d(marks(record, framing)[:, None].float(), size)[:, 0] > 0
            store.write_atomic(path, save({"marks": found.contiguous()}))
        return found if found.any() else None

    def _path(self, record: Record, framing: Framing, *kind: str) -> Path:
        facts = [self.vae_name, str(next(self.vae.parameters()).dtype), record["sha256"], store.plain(framing), *kind]
        name = store.sha256_text(json.dumps(facts, sort_keys=True))
        return self.folder / name[:2] / f"{name}.safetensors"

    @torch.no_grad()
    def _encode(self, pictures: torch.Tensor) -> torch.Tensor:
        parameter = next(self.vae.parameters())
        output = self.vae.encode(pictures.to(self.device, parameter.dtype))
        if hasattr(output, "latents"):
            mean, deviation = output.latents, torch.zeros_like(output.latents)
        else:
            mean, deviation = output.latent_dist.mean, output.latent_dist.std
        shift = getattr(self.vae.config, "shift_factor", None) or 0.0
        scale = self.vae.config.scaling_factor
        return torch.stack([(mean - shift) * scale, deviation * scale], dim=1).float().cpu()
