"""Frozen extractors of features by name: images in, one vector each out, and whose weights they are.

- any name of `meddap_monai.encoders.registry` that has weights of its own, such as ``efficientnet_lite0``, or ``hog``;
- ``<encoder>:<file>``: an encoder of the registry with the weights of a local file;
- ``vae`` or ``vae:<base folder>``: latents of a base's autoencoder, averaged to 4 x 4;
- ``clip:<folder>``: a CLIP vision tower saved by transformers.

A TorchScript file is a program that may write files: it runs only as ``torchscript:<file>#<sha256>``, its hash stated.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from meddap_monai import store
from meddap_monai.core import resources
from meddap_monai.core.constraints import unknown
from meddap_monai.core.progress import progress
from meddap_monai.core.tensors import check_finite
from meddap_monai.encoders.features import Levels, Penultimate
from meddap_monai.encoders.frozen import FrozenEncoder
from meddap_monai.encoders.registry import ENCODERS, SCHEMES, build_network, find_encoder
from meddap_monai.errors import ConfigurationError

BATCH = 64
MANY = 500
"""From this number of images on a progress line is shown."""
SHOWN_DIGITS = 12

Views = Callable[[torch.Tensor], Sequence[torch.Tensor]]


@dataclass(frozen=True)
class Extractor:
    """A frozen network without its last layer.

    Attributes:
        name: as it was asked for.
        sha256: of its weights; empty where it has none.
        network: images ``(B, C, H, W)`` float32 in 0..1 to features ``(B, ...)``.
        device: where it runs.
    """

    name: str
    sha256: str
    network: Callable[[torch.Tensor], torch.Tensor]
    device: str = "cpu"

    @property
    def identity(self) -> str:
        """Kind and hash of the weights: no path, which may name a hospital."""
        kind = self.name if self.name in ENCODERS else self.name.split(":")[0]
        return f"{kind} (weights {self.sha256[:SHOWN_DIGITS]})" if self.sha256 else kind

    def extract(self, images: np.ndarray | torch.Tensor, views: Views = lambda images: [images]) -> np.ndarray:
        """Return ``(V, N, D)`` float32 features.

        Args:
            images: ``(N, C, H, W)`` uint8.
            views: images to the V versions of them that are looked at; by default as they are.

        Raises:
            ConfigurationError: a feature is NaN or infinite.
        """
        stack, found = torch.as_tensor(images), []
        starts = range(0, len(stack), BATCH)
        for start in progress(starts, desc="features", unit="batch", disable=len(stack) < MANY):
            batch = stack[start : start + BATCH].to(self.device).float() / 255
            with torch.inference_mode():
                found.append(torch.stack([self.network(view).flatten(1).float().cpu() for view in views(batch)]))
        values = torch.cat(found, dim=1)
        check_finite({"an image": values}, f"features of {self.name!r}", ConfigurationError)
        return values.numpy()


def build_extractor(
    name: str, channels: int = 1, size: int = 128, device: str = "cpu", levels: bool = False
) -> Extractor:
    """Return an extractor by its name.

    Args:
        name: see above.
        channels: 1 or 3, of the images.
        size: side of the images in pixels; only transformers depend on it.
        device: where it runs.
        levels: of an encoder: `Levels` in place of what enters its last linear layer.

    Raises:
        ConfigurationError: an unknown name (with the forms that are known), or a file that cannot be used.
        MissingPackage: the package of its weights is not installed.
    """
    kind, _, place = name.partition(":")
    try:
        if kind == "vae":
            return _vae(name, Path(place) if place else resources.find("data/base"), device)
        if kind == "clip" and place:
            return _clip(name, Path(place), device)
        if kind in ENCODERS or kind in SCHEMES:
            return _encoder(name, channels, size, device, levels)
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigurationError(
            f"features: extractor {name!r} cannot be used ({error}); expected a complete local file or folder"
        ) from error
    known = ["vae", "clip", *ENCODERS]
    raise ConfigurationError(
        f"features: {unknown('extractor', kind, known)}; expected an encoder such as efficientnet_lite0, "
        "<encoder>:<file of its weights>, vae[:<base>] or clip:<folder>"
    )


def _encoder(name: str, channels: int, size: int, device: str, levels: bool) -> Extractor:
    parts = 2 if name.split(":")[0] in SCHEMES else 1
    encoder, file = ":".join(name.split(":")[:parts]), ":".join(name.split(":")[parts:])
    with torch.random.fork_rng(devices=[]):  # the new last layer is drawn and never used
        network = build_network(encoder, 2, channels, size, file or None, pretrained=True).to(device)
    weights = find_encoder(encoder).weights
    sha256 = store.sha256_file(file) if file else weights.sha256 if weights else ""
    return Extractor(name, sha256, FrozenEncoder(network, Levels if levels else Penultimate), device)


def _vae(name: str, base: Path, device: str) -> Extractor:
    from diffusers import AutoModel

    coder = AutoModel.from_pretrained(str(base), subfolder="vae", local_files_only=True).to(device).eval()

    def latents(images: torch.Tensor) -> torch.Tensor:
        wide = images if images.shape[1] == coder.config.in_channels else images.mean(dim=1, keepdim=True)
        wide = wide.expand(-1, coder.config.in_channels, -1, -1)
        found = coder.encode(wide * 2 - 1)
        values = found.latent_dist.mean if hasattr(found, "latent_dist") else found.latents
        return functional.adaptive_avg_pool2d(values, 4)

    return Extractor(name, _hash_of(base / "vae"), latents, device)


def _clip(name: str, folder: Path, device: str) -> Extractor:
    from transformers import CLIPVisionModel

    tower: Any = CLIPVisionModel.from_pretrained(str(folder), local_files_only=True)
    tower.to(device).eval()
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073], device=device)[:, None, None]
    deviation = torch.tensor([0.26862954, 0.26130258, 0.27577711], device=device)[:, None, None]
    side = tower.config.image_size

    def pooled(images: torch.Tensor) -> torch.Tensor:
        sized = functional.interpolate(images.expand(-1, 3, -1, -1), size=(side, side), mode="bilinear")
        return tower(pixel_values=(sized - mean) / deviation).pooler_output

    return Extractor(name, _hash_of(folder), pooled, device)


def _hash_of(folder: Path) -> str:
    """One hash of all weights files of a folder, in the order of their names."""
    files = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin", ".pt", ".pth"))
    return store.sha256_text("\n".join(store.sha256_file(path) for path in files))
