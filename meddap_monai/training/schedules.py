"""Learning rates as functions of the step alone, so that there is nothing to resume."""

import math

import torch

SCHEDULES = ("constant", "cosine", "one_cycle")
RISE = 0.3
"""Share of one cycle in which the rate rises."""
FLOOR = 0.05
"""Where pre-training's cosine ends: a twentieth of the peak."""


def schedule(name: str, step: int, steps: int, warmup: int = 0, floor: float = 0.0) -> float:
    """Return the factor on the peak learning rate, 0 to 1: linear warm-up, then constant or half a cosine.

    ``one_cycle`` rises from a 25th by half a cosine over the first 30 % of the steps and then falls to the floor (Smith
    and Topin 2019, with the shape of PyTorch's OneCycleLR).

    Args:
        name: one of `SCHEDULES`.
        step: number of the step, 0 is the first.
        steps: of the whole training.
        warmup: steps of linear warm-up; the last one reaches the peak.
        floor: where the cosine ends.
    """
    if step < warmup:
        return (step + 1) / warmup
    if name == "constant":
        return 1.0
    done = min(1.0, (step - warmup) / max(1, steps - warmup))
    if name == "one_cycle":
        if done < RISE:
            return 1.0 - (1.0 - 1 / 25) * 0.5 * (1.0 + math.cos(math.pi * done / RISE))
        done = (done - RISE) / (1 - RISE)
    return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * done))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every parameter group; a group's ``factor`` multiplies it."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("factor", 1.0)
