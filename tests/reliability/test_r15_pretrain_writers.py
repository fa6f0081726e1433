"""R15: two pre-trainings of one folder - exactly one works, the other says who does; the dead hold nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from test_r11_pretrain_kill import CONFIG, hashes

from meddap_monai.diffusion.pretraining.job import PretrainJob
from meddap_monai.diffusion.pretraining.stage import pretrain
from tests.reliability.writers import before, outlive, race


@pytest.fixture(scope="module")
def run(make_records: Callable[..., Path]) -> Callable[..., Path]:
    records = make_records({"train": 2, "val": 1}, size=32)

    def work(folder: Path, *waits: Callable[[], None]) -> Path:
        for wait in waits:
            before(PretrainJob, "train", wait)
        return pretrain(CONFIG, folder, records=records).parent

    return work


@pytest.fixture(scope="module")
def quiet(run, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Hashes of the base that one undisturbed process writes."""
    return hashes(run(tmp_path_factory.mktemp("quiet") / "p"))


@pytest.mark.parametrize("times", [1, pytest.param(50, marks=pytest.mark.slow)])
def test_r15_of_two_writers_one_works_and_the_other_says_who(times: int, run, quiet: list[str], tmp_path: Path) -> None:
    for number in range(times):
        assert hashes(race(run, tmp_path / str(number))) == quiet


def test_r15_a_dead_holder_is_taken_over(run, quiet: list[str], tmp_path: Path) -> None:
    assert hashes(run(outlive(run, tmp_path / "p"))) == quiet
