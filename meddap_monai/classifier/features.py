"""Feature vectors of images: what a network hands to its last linear layer, or histograms of oriented gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name torch gives it everywhere
from skimage.feature import hog
from torch import nn

from meddap_monai.classifier.augment import augment
from meddap_monai.classifier.config import ClassifyConfig
from meddap_monai.classifier.data import normalise, to_float


class Penultimate(nn.Module):
    """Map images to the input of a network's last linear layer; to its logits when it has none.

    Args:
        network: any classifier.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return ``(B, D)`` features of ``(B, C, H, W)`` images."""
        logits, features = with_penultimate(self.network, images)
        return logits if features is None else features


def with_penultimate(network: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return logits ``(B, K)`` and what enters the last linear layer, ``(B, D)``, None without such a layer."""
    linears = [module for module in network.modules() if isinstance(module, nn.Linear)]
    if not linears:
        return network(images), None
    seen: list[torch.Tensor] = []
    hook = linears[-1].register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    try:
        logits = network(images)
    finally:
        hook.remove()
    return logits, seen[0].flatten(1)


class Hog(nn.Module):
    """1,764 HOG features at 128 x 128 px: 9 orientations, 16 x 16 cells, 2 x 2 blocks (Dalal and Triggs 2005)."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return ``(B, 1764)`` features of ``(B, C, H, W)`` images."""
        grey = images.mean(dim=1, keepdim=True)
        small = F.interpolate(grey, size=(128, 128), mode="bilinear", antialias=True) if grey.shape[-1] != 128 else grey
        found = [
            hog(image, orientations=9, pixels_per_cell=(16, 16), cells_per_block=(2, 2))
            for image in small[:, 0].detach().cpu().numpy()
        ]
        return torch.from_numpy(np.stack(found).astype(np.float32))


@torch.inference_mode()
def extract(extractor: nn.Module, loader: Any, config: ClassifyConfig, augmented: bool = False) -> np.ndarray:
    """Run an extractor over a loader; return ``(N, D)`` float32.

    Args:
        extractor: normalised images to features.
        loader: batches with ``image``.
        config: device, normalisation, and the seed of the augmentation.
        augmented: change every image once by the run's augmentation first.
    """
    extractor.eval()
    found = []
    for number, batch in enumerate(loader):
        images = to_float(batch["image"].to(config.device))
        if augmented:
            images = augment(images, config, number)
        found.append(extractor(normalise(images, config.normalise)).float().cpu())
    return torch.cat(found).numpy()
