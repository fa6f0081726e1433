"""Learning rates and the moving average, by their formulas."""

import pytest
import torch

from meddap_monai.training.ema import update_average
from meddap_monai.training.schedules import schedule, set_rate


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("constant", 0, 10), 1.0),
        (("constant", 0, 10, 4), 0.25),
        (("constant", 3, 10, 4), 1.0),
        (("one_cycle", 0, 20), 0.04),
        (("one_cycle", 3, 20), 0.52),
        (("one_cycle", 6, 20), 1.0),
        (("one_cycle", 13, 20), 0.5),
        (("one_cycle", 20, 20), 0.0),
        (("cosine", 0, 10), 1.0),
        (("cosine", 5, 10), 0.5),
        (("cosine", 10, 10), 0.0),
        (("cosine", 99, 10), 0.0),
        (("cosine", 5, 10, 0, 0.05), 0.525),
        (("cosine", 6, 10, 2), 0.5),
    ],
)
def test_schedule(arguments: tuple, expected: float) -> None:
    assert schedule(*arguments) == pytest.approx(expected)


def test_a_group_multiplies_the_rate() -> None:
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": weights[:1]}, {"params": weights[1:], "factor": 2.0}], lr=0.0)
    set_rate(optimizer, 0.1)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.2]


@pytest.mark.parametrize(("step", "expected"), [(None, 0.1), (0, 0.9), (10**6, 0.1)])
def test_a_young_average_follows_faster(step: int | None, expected: float) -> None:
    average = [torch.zeros(2), torch.zeros(1)]
    update_average(average, [torch.ones(2), torch.ones(1, dtype=torch.float64)], 0.9, step)
    assert torch.allclose(average[0], torch.full((2,), expected))
    assert average[1].dtype == torch.float32
