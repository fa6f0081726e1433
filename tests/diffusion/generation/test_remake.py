"""An image is made again by re-running its shard."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from meddap_monai.diffusion.generation.config import GenerateConfig
from meddap_monai.diffusion.generation.remake import remake_shard
from meddap_monai.diffusion.generation.stage import generate
from meddap_monai.errors import ForeignOutput, StageError


@pytest.fixture(scope="module")
def run(make_records: Callable[..., Path], tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple:
    records = make_records({"train": 2, "test": 1}, size=32)
    config = GenerateConfig(counts=2, steps=2, shard_size=4, batch=3, sheet_columns=2, mode="image")
    generate(config, folder := tmp_path_factory.mktemp("remake") / "out", records=records, base=tiny_base)
    return folder, {"records": records, "base": tiny_base}


@pytest.mark.parametrize("shard", [0, 1])
def test_remade_shard_is_equal(shard: int, run: tuple, tmp_path: Path) -> None:
    folder, inputs = run
    differences = remake_shard(folder, shard, tmp_path / "again", **inputs)
    assert [(item.equal, item.levels) for item in differences] == [(True, 0)] * (4, 2)[shard]


def test_a_changed_image_shows(run: tuple, tmp_path: Path) -> None:
    folder, inputs = run
    path = sorted((folder / "shards" / "000001").glob("*.png"))[0]
    before = path.read_bytes()
    with Image.open(path) as image:
        changed = ImageChops.add(image.convert("L"), Image.new("L", image.size, 9))
    changed.save(path)
    differences = remake_shard(folder, 1, tmp_path / "again", **inputs)
    path.write_bytes(before)
    assert (differences[0].equal, differences[0].levels, differences[1].equal) == (False, 9, True)


def test_other_inputs_are_refused(run: tuple, make_records: Callable[..., Path], tmp_path: Path) -> None:
    folder, inputs = run
    other = make_records({"train": 3}, size=32)
    with pytest.raises(ForeignOutput, match="was made with another records"):
        remake_shard(folder, 0, tmp_path / "again", **inputs | {"records": other})


def test_unknown_shard_is_named(run: tuple, tmp_path: Path) -> None:
    folder, inputs = run
    with pytest.raises(StageError, match="has no shard 7"):
        remake_shard(folder, 7, tmp_path / "again", **inputs)
