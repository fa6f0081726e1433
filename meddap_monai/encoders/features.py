"""Feature vectors of images: what a network hands to its last linear layer, or histograms of oriented gradients."""

import itertools

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name torch gives it everywhere
from skimage.feature import hog
from torch import nn

from meddap_monai.encoders.layers import blocks

Grey = float | tuple[float, float, float]
"""A grey value, or one for each of three channels."""


class Standardised(nn.Module):
    """A network with its normalisation in front, so that it takes images in 0..1.

    Args:
        network: maps normalised images to logits.
        how: ``image`` gives each image mean 0 and deviation 1, ``range`` maps 0..1 to -1..1, ``constant`` subtracts
            `mean` and divides by `deviation`.
        mean: of ``constant``, one value or one for each of three channels; three make three channels of a grey image.
        deviation: of ``constant``, as many.
    """

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, network: nn.Module, how: str = "image", mean: Grey = 0.5, deviation: Grey = 0.5) -> None:
        super().__init__()
        self.network, self.how = network, how
        self.told = f"{how}, {mean}, {deviation}" if how == "constant" else how
        self.register_buffer("mean", torch.tensor(mean).reshape(-1, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(deviation).reshape(-1, 1, 1), persistent=False)

    def extra_repr(self) -> str:
        """Say how, as it is part of what the network answers but not of its tensors."""
        return self.told

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits ``(B, K)`` of images ``(B, C, H, W)`` float in 0..1."""
        if self.how == "image":
            mean = images.mean(dim=(1, 2, 3), keepdim=True)
            deviation = images.std(dim=(1, 2, 3), keepdim=True)
            return self.network((images - mean) / deviation.clamp_min(1e-3))
        if self.how == "range":
            return self.network(images * 2 - 1)
        return self.network((images - self.mean) / self.deviation)


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


class Levels(nn.Module):
    """Map images to the means and deviations of a network's maps at every level but the last.

    A level is a run of blocks whose maps have one shape. The last belongs most to what the network was trained for; on
    another kind of image the ones before it tell more (Raghu et al., Transfusion, NeurIPS 2019). A network without
    maps gives the input of its last linear layer.

    Args:
        network: any classifier.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return ``(B, D)`` features of ``(B, C, H, W)`` images."""
        seen: list[torch.Tensor] = []
        hooks = [part.register_forward_hook(lambda _part, _in, out: seen.append(out)) for part in blocks(self.network)]
        try:
            logits, last = with_penultimate(self.network, images)
        finally:
            for hook in hooks:
                hook.remove()
        maps = [found for found in seen if isinstance(found, torch.Tensor) and found.ndim > 2]
        ends = [one for one, after in itertools.pairwise(maps) if one.shape != after.shape] + maps[-1:]
        if not ends:
            return logits if last is None else last
        return torch.cat([value for one in ends[: max(1, len(ends) - 1)] for value in _moments(one)], dim=1)


def _moments(found: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation over the places of maps ``(B, C, H, W)`` or tokens ``(B, T, C)``, each ``(B, C)``."""
    flat = found.flatten(2) if found.ndim == 4 else found.transpose(1, 2)
    return flat.mean(dim=2), flat.std(dim=2, correction=0)


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
