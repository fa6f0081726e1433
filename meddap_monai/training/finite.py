"""A loss that is no number ends a training at once, and says where to look."""

from collections.abc import Iterable

import torch

from meddap_monai.core.distributed import SINGLE_PROCESS, Ranks
from meddap_monai.errors import NonFiniteLoss


def check_finite(
    loss: torch.Tensor, where: str, step: int, rate: float, ids: Iterable[str], ranks: Ranks = SINGLE_PROCESS
) -> torch.Tensor:
    """Return `loss` if it is finite in every process.

    Args:
        loss: of any shape.
        where: what messages begin with, such as "adapt".
        step: number of the step, 1 is the first.
        rate: learning rate.
        ids: of the images in the step.
        ranks: processes that divide the step.

    Raises:
        NonFiniteLoss: names the step, the learning rate and the first images.
    """
    if not ranks.any(not bool(torch.isfinite(loss).all())):
        return loss
    shown = list(ids)
    value = loss.detach().float().mean().item()
    raise NonFiniteLoss(
        f"{where}: the loss is {value} at step {step}, expected a finite number (learning rate {rate:.3g}, images "
        f"{', '.join(shown[:8])}{' ...' if len(shown) > 8 else ''}). The last checkpoint is finite: lower the learning "
        "rate, use precision bf16 or fp32, or look at these images; then train into another folder or overwrite"
    )
