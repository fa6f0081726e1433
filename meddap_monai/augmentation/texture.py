"""What beam and pulse do to the texture: resolution along and across the beam, and speckle.

Images are ``(B, C, H, W)`` float in 0..1, the probe at the top: axial is along H, lateral along W. Sizes are standard
deviations in pixels, ``(B,)``.
"""

import torch
import torch.nn.functional as F  # noqa: N812 - the name torch gives it everywhere

from meddap_monai.augmentation.grey import per_image


def blur(images: torch.Tensor, axial: torch.Tensor, lateral: torch.Tensor) -> torch.Tensor:
    """Blur with a Gaussian of another width in each direction, cut at three deviations; edges are repeated."""
    return _smooth(_smooth(images, axial, 2), lateral, 3)


def speckle(
    images: torch.Tensor, strength: torch.Tensor, axial: torch.Tensor, lateral: torch.Tensor, seed: torch.Tensor
) -> torch.Tensor:
    """Multiply with a field of unit mean that blends 1 and fully developed speckle.

    The field is the envelope of filtered complex Gaussian noise, so Rayleigh distributed (Goodman 1976); the deviation
    is 0.523 times the strength.

    Args:
        images: see the module.
        strength: ``(B,)``, 0 (no change) to 1 (fully developed).
        axial: ``(B,)`` depth of a grain.
        lateral: ``(B,)`` width of a grain.
        seed: ``(B,)`` int64 of the noise.
    """
    field = blur(noise(seed, (2, *images.shape[-2:])).to(images), axial, lateral)
    envelope = field.square_().sum(dim=1, keepdim=True).sqrt_()
    envelope /= envelope.mean(dim=(2, 3), keepdim=True).clamp_(min=1e-9)
    return (images * (envelope.sub_(1).mul_(per_image(strength, images)).add_(1))).clamp_(0, 1)


def noise(seed: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Return ``(B, *shape)`` float32 normal noise on the CPU, each image's from its own seed ``(B,)`` int64."""
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(each)) for each in seed.tolist()])


def _smooth(images: torch.Tensor, sigma: torch.Tensor, axis: int) -> torch.Tensor:
    """Blur along one axis, each image with its own deviation."""
    radius = round(3 * float(sigma.max()))
    if radius < 1 or images.shape[axis] == 1:
        return images
    taps = torch.arange(-radius, radius + 1, dtype=torch.float32)
    widths = sigma.to(torch.float32)[:, None]
    kernel = torch.exp(-0.5 * (taps / widths.clamp(min=1e-3)) ** 2) * (taps.abs() <= (3 * widths).round())
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).to(images)
    padding = (0, 0, radius, radius) if axis == 2 else (radius, radius, 0, 0)
    padded = F.pad(images, padding, mode="replicate")
    blurred = torch.zeros_like(images)
    for place in range(len(taps)):
        shifted = padded.narrow(axis, place, images.shape[axis])
        blurred.addcmul_(shifted, kernel[:, place].view(-1, 1, 1, 1))
    return blurred
