"""R15: two trainings of one adapter folder - exactly one works, the other says who does; the dead hold nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from adapter_material import quick
from ignite.engine import Events

from meddap_monai import store
from meddap_monai.diffusion.adapting.stage import adapt
from tests.reliability.writers import outlive, race


class Gate:
    """A handler that waits before the first step."""

    def __init__(self, wait: Callable[[], None]) -> None:
        self.wait = wait

    def attach(self, engine: Any) -> None:
        engine.add_event_handler(Events.STARTED, self.wait)


@pytest.fixture(scope="module")
def run(make_records: Callable[..., Path], tiny_base: Path) -> Callable[..., Path]:
    records = make_records({"train": 2, "val": 1}, size=32)
    return lambda folder, *waits: adapt(
        quick(steps=2), folder, records=records, base=tiny_base, handlers=[Gate(wait) for wait in waits]
    )


@pytest.fixture(scope="module")
def quiet(run, tmp_path_factory: pytest.TempPathFactory) -> str:
    return store.sha256_file(run(tmp_path_factory.mktemp("quiet") / "a") / "adapter.safetensors")


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("times", [2, pytest.param(50, marks=pytest.mark.slow)])
def test_r15_of_two_writers_one_works_and_the_other_says_who(times: int, run, quiet: str, tmp_path: Path) -> None:
    for number in range(times):
        assert store.sha256_file(race(run, tmp_path / str(number)) / "adapter.safetensors") == quiet


def test_r15_a_dead_holder_is_taken_over(run, quiet: str, tmp_path: Path) -> None:
    assert store.sha256_file(run(outlive(run, tmp_path / "a")) / "adapter.safetensors") == quiet
