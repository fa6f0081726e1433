"""What the way of the sound lays over a picture: shadows and haze.

Images are ``(B, C, H, W)`` float in 0..1, the probe at the top.
"""

import torch

from meddap_monai.augmentation.grey import per_image, presence
from meddap_monai.augmentation.texture import blur, noise


def shadows(
    images: torch.Tensor,
    centre: torch.Tensor,
    width: torch.Tensor,
    depth: torch.Tensor,
    loss: torch.Tensor,
    tilt: torch.Tensor,
) -> torch.Tensor:
    """Darken bands below what absorbs or reflects sound.

    Args:
        images: see the module.
        centre: ``(B, K)`` place across, 0 to 1, of each of K shadows.
        width: ``(B, K)`` share of the image width.
        depth: ``(B, K)`` where it begins, 0 (probe) to 1.
        loss: ``(B, K)`` share of the brightness that is lost in its centre; 0 is no shadow.
        tilt: ``(B, K)`` change of the centre over the whole depth.
    """
    rows, columns = images.shape[-2:]
    down = torch.linspace(0, 1, rows).to(images).view(1, 1, rows, 1)
    across = torch.linspace(0, 1, columns).to(images).view(1, 1, 1, columns)
    centre, width, depth, loss, tilt = (each.to(images)[..., None, None] for each in (centre, width, depth, loss, tilt))
    away = (across - centre - tilt * (down - depth)).mul_(2 / width).square_().square_()
    lost = away.neg_().exp_().mul_(loss * torch.sigmoid((down - depth) / 0.02))
    return images * (1 - lost).prod(dim=1, keepdim=True)


def haze(images: torch.Tensor, strength: torch.Tensor, reach: torch.Tensor, seed: torch.Tensor) -> torch.Tensor:
    """Lay a smooth, uneven veil over the image that fades with depth; black background stays black.

    Args:
        images: see the module.
        strength: ``(B,)`` share of the way to white at the probe.
        reach: ``(B,)`` depth, as a share of the height, over which it falls to 1/e.
        seed: ``(B,)`` int64 of the unevenness.
    """
    rows, columns = images.shape[-2:]
    sizes = torch.ones(len(images)) * rows / 12, torch.ones(len(images)) * columns / 6
    uneven = blur(noise(seed, (1, rows, columns)).to(images), *sizes)
    uneven = 1 + 0.3 * uneven / uneven.std(dim=(1, 2, 3), keepdim=True).clamp(min=1e-9)
    fade = torch.exp(-torch.linspace(0, 1, rows).to(images).view(1, 1, rows, 1) / per_image(reach, images))
    veil = (per_image(strength, images) * fade * uneven).clamp_(0, 1)
    return images + (1 - images) * veil * presence(images)
