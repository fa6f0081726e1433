"""What several tests of pre-training read: records, and the base that one quiet process makes of them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.pretrain_material import SMALL


@pytest.fixture(scope="session")
def few_records(make_records: Callable[..., Path]) -> Path:
    return make_records({"train": 3, "val": 1}, size=32)


@pytest.fixture(scope="session")
def small_base(few_records: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from meddap_monai.diffusion.pretraining.stage import pretrain

    return pretrain(SMALL, tmp_path_factory.mktemp("pretrain") / "out", records=few_records)
