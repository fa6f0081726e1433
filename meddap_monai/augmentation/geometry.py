"""Where the pixels of an image come from: turn, size, mirror, shift and the field of view, in one resampling."""

import torch
import torch.nn.functional as F  # noqa: N812 - the name torch gives it everywhere


def move(
    images: torch.Tensor, angle: torch.Tensor, size: torch.Tensor, shift: torch.Tensor, half_angle: torch.Tensor
) -> torch.Tensor:
    """Bend the field of view, then scale, turn and shift the result; black comes in from outside.

    Args:
        images: ``(B, C, H, W)`` float.
        angle: ``(B,)`` clockwise, in radians.
        size: ``(B, 2)`` factors of width and height, above 1 magnifies, a negative width mirrors.
        shift: ``(B, 2)`` to the right and down, as a share of width and height.
        half_angle: ``(B,)`` radians; see `bend`.
    """
    angle, size, shift, half_angle = (values.to(images) for values in (angle, size, shift, half_angle))
    lines = affine(angle, size, shift, images.shape[-1] / images.shape[-2])
    grid = F.affine_grid(lines, list(images.shape), align_corners=False)
    return F.grid_sample(images, bend(grid, half_angle), mode="bilinear", padding_mode="zeros", align_corners=False)


def affine(angle: torch.Tensor, size: torch.Tensor, shift: torch.Tensor, ratio: float = 1.0) -> torch.Tensor:
    """Return ``(B, 2, 3)``: from places in the result to places in the image, both in -1..1.

    Args:
        angle: see `move`.
        size: see `move`.
        shift: see `move`.
        ratio: width over height of the image, so that a turn keeps shapes.
    """
    cosine, sine = torch.cos(angle), torch.sin(angle)
    turn = torch.stack([torch.stack([cosine, sine / ratio], 1), torch.stack([-sine * ratio, cosine], 1)], 1)
    turn = turn / size[:, :, None]
    return torch.cat([turn, -2 * turn @ shift[:, :, None]], dim=2)


def bend(grid: torch.Tensor, half_angle: torch.Tensor) -> torch.Tensor:
    """Map places in a convex field of view to places in the rectangle of a linear one.

    Lines of the rectangle become rays of a fan, its rows arcs around one apex above the image. The width at half depth
    and the column in the middle stay where they are; the radius of the arc at half depth is 1 / `half_angle`.

    Args:
        grid: ``(B, H, W, 2)`` places x, y in -1..1.
        half_angle: ``(B,)`` radians from the middle to the edge of the fan, 0 (linear) to 0.9.
    """
    bent = half_angle.view(-1, 1, 1)
    angle = bent.clamp(1e-3, 0.9)
    across, along = grid[..., 0] * angle, 1 + grid[..., 1] * angle
    rays = torch.stack([torch.atan2(across, along) / angle, (torch.hypot(across, along) - 1) / angle], dim=3)
    return torch.where((bent > 1e-3)[..., None], rays, grid)
