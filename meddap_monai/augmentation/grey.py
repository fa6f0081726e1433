"""Changes of grey levels that a scanner's knobs make.

Images are ``(B, C, H, W)`` float in 0..1, log-compressed, the probe at the top; every function returns new ones in 0..1
and leaves black background black. Parameters hold one value per image, ``(B,)``. Where several changes follow one
another, `where` is the `presence` before the first: what an earlier one has pressed to black is tissue still.
"""

import torch


def per_image(values: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Return ``(B,)`` values as ``(B, 1, 1, 1)``, of the type and on the device of the images."""
    return values.to(images).view(-1, 1, 1, 1)


def presence(images: torch.Tensor) -> torch.Tensor:
    """Return 0 for black and 1 from 4 % of white on, so that what is added does not light up the background."""
    return (images * 25).clamp_(0, 1)


def gain(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Multiply the grey levels."""
    return (images * per_image(factor, images)).clamp_(0, 1)


def offset(images: torch.Tensor, level: torch.Tensor, where: torch.Tensor | None = None) -> torch.Tensor:
    """Add a share of white; on log-compressed levels that is what the overall gain in decibels does."""
    return _add(images, per_image(level, images), where)


def gamma(images: torch.Tensor, exponent: torch.Tensor) -> torch.Tensor:
    """Raise the grey levels to a power, as another grey map does."""
    return images.clamp(0, 1).pow_(per_image(exponent, images))


def dynamic_range(images: torch.Tensor, ratio: torch.Tensor, where: torch.Tensor | None = None) -> torch.Tensor:
    """Show another span of decibels between black and white; white stays.

    Args:
        images: see the module.
        ratio: decibels shown before over decibels shown after: above 1 the dark echoes vanish.
        where: see the module.
    """
    return _add(images, (1 - images) * (1 - per_image(ratio, images)), where)


def time_gain(images: torch.Tensor, levels: torch.Tensor, where: torch.Tensor | None = None) -> torch.Tensor:
    """Add a curve over depth, ``(B, H)`` in shares of white: residual attenuation, or a wrong time gain.

    On log-compressed grey levels a gain in decibels is a sum.
    """
    return _add(images, levels.to(images)[:, None, :, None], where)


def _add(images: torch.Tensor, levels: torch.Tensor, where: torch.Tensor | None) -> torch.Tensor:
    return (images + levels * (presence(images) if where is None else where)).clamp_(0, 1)
