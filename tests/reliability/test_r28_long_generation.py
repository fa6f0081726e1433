"""R28 for generation: memory and open files do not grow with the number of images, nor with the rows of a plan."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from meddap_monai.diffusion.bases.prompts import load_prompt_table
from meddap_monai.diffusion.generation import plan, planning
from meddap_monai.diffusion.generation.config import GenerateConfig
from meddap_monai.diffusion.generation.shards import ShardMaker
from meddap_monai.diffusion.generation.stage import generate
from tests.reliability.held import HERE, open_files, resident_bytes

pytestmark = pytest.mark.skipif(not HERE.exists(), reason="reads memory from /proc, which this system lacks")


@pytest.mark.parametrize("images", [240, pytest.param(10_000, marks=pytest.mark.slow)])
def test_memory_and_open_files_stay(
    images: int,
    make_records: Callable[..., Path],
    tiny_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    records = make_records({"train": 2}, size=32)
    make, seen = ShardMaker.make, []

    def watching(self, number, rows):
        made = make(self, number, rows)
        seen.append((resident_bytes(), open_files()))
        return made

    monkeypatch.setattr(ShardMaker, "make", watching)
    small = {"steps": 1, "guidance": 1.0, "height": 16, "width": 16, "sheet_columns": 2}
    config = GenerateConfig(counts={"benign": images}, shard_size=images // 20, batch=20, **small)
    generate(config, tmp_path / "out", records=records, base=tiny_base)
    settled, last = seen[len(seen) // 4], seen[-1]
    assert len(seen) == 20
    record_property("memory at the end over memory after a quarter", last[0] / settled[0])
    assert last[0] < 1.05 * settled[0]
    assert last[1] == settled[1]


@pytest.mark.slow
def test_a_million_rows_in_constant_memory(tmp_path: Path) -> None:
    seen = []

    def watched(items: Iterable, every: int) -> Iterator:
        for number, item in enumerate(items):
            if number % every == 0:
                seen.append(resident_bytes())
            yield item

    wanted = planning.PlanInputs(["benign"], {}, {}, (16, 16))
    rows = planning.make_plan(GenerateConfig(counts=1_000_000), load_prompt_table("breast"), wanted)
    assert plan.write_plan(tmp_path / "plan.csv", watched(rows, 50_000)) == 1_000_000
    for _ in watched(plan.shards(plan.read_plan(tmp_path / "plan.csv"), 64), 1_000):
        pass
    assert len(seen) == 36
    assert max(seen) - seen[1] < 8_000_000
