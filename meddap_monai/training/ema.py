"""The one moving average of weights."""

from collections.abc import Iterable

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn


@torch.no_grad()
def update_average(
    average: Iterable[torch.Tensor], values: Iterable[torch.Tensor], decay: float, step: int | None = None
) -> None:
    """Move an exponential moving average in place: ``average = decay * average + (1 - decay) * values``.

    Args:
        average: tensors that are moved.
        values: tensors of the same shapes, in the same order.
        decay: 0 to 1.
        step: number of the step, 0 is the first; a young average follows faster, by at most
            ``(1 + step) / (10 + step)`` (as TensorFlow's does). None: the same decay from the first step on.
    """
    slow = list(average)
    fast = [value.to(mean.dtype) for mean, value in zip(slow, values, strict=True)]
    pull = decay if step is None else min(decay, (1 + step) / (10 + step))
    get_ema_multi_avg_fn(pull)(slow, fast, 0)  # type: ignore[no-untyped-call]
