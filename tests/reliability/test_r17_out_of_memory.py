"""R17 and R14 for generation: memory or disk runs out, and the run ends well or says what is needed."""

import errno
import os
from pathlib import Path

import pytest
import torch

from meddap_monai import store
from meddap_monai.core.records import iter_records
from meddap_monai.diffusion.generation.config import GenerateConfig
from meddap_monai.diffusion.generation.remake import remake_shard
from meddap_monai.diffusion.generation.sampler import ImageSampler
from meddap_monai.diffusion.generation.stage import generate
from meddap_monai.errors import DiskFull

CONFIG = GenerateConfig(counts=3, steps=2, shard_size=8, batch=8, sheet_columns=2)


@pytest.mark.parametrize(
    ("fits", "used", "kind"),
    [
        (8, 8, RuntimeError),
        (4, 4, torch.OutOfMemoryError),
        (3, 2, RuntimeError),
        (1, 1, MemoryError),
    ],
)
def test_the_batch_is_halved_until_it_fits(
    fits: int, used: int, kind: type[Exception], records: Path, tiny_base: Path, tmp_path: Path, monkeypatch
) -> None:
    predict = ImageSampler._predict

    def short_of_memory(self, inputs, *rest):
        if len(inputs) > fits:
            raise kind("[enforce fail] DefaultCPUAllocator: can't allocate memory: out of memory")
        return predict(self, inputs, *rest)

    monkeypatch.setattr(ImageSampler, "_predict", short_of_memory)
    path = generate(CONFIG, tmp_path / "out", records=records, base=tiny_base)
    found = list(iter_records(path))
    assert len(found) == 9
    assert {record["synthetic"]["batch"] for record in found} == {used}
    assert {record["synthetic"]["sliced"] for record in found} == {used < 8}
    assert store.read_stage(path.parent)["batch"] == used
    monkeypatch.undo()
    for shard in (0, 1):
        again = remake_shard(path.parent, shard, tmp_path / "again", records=records, base=tiny_base)
        assert all(item.equal and item.levels == 0 for item in again)


def test_not_even_one_image_fits(records: Path, tiny_base: Path, tmp_path: Path, monkeypatch) -> None:
    def never(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(ImageSampler, "_predict", never)
    with pytest.raises(torch.OutOfMemoryError):
        generate(CONFIG, tmp_path / "out", records=records, base=tiny_base)
    assert not list((tmp_path / "out" / "shards").iterdir())


def test_other_errors_are_not_taken_for_memory(records: Path, tiny_base: Path, tmp_path: Path, monkeypatch) -> None:
    calls = []

    def broken(*_):
        calls.append(1)
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(ImageSampler, "_predict", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        generate(CONFIG, tmp_path / "out", records=records, base=tiny_base)
    assert len(calls) == 1


@pytest.mark.parametrize("after", [0, 4])
def test_full_disk_keeps_finished_shards_and_the_run_goes_on(
    after: int, records: Path, tiny_base: Path, tmp_path: Path, monkeypatch
) -> None:
    config = GenerateConfig(**{**vars(CONFIG), "shard_size": 2, "batch": 2})
    replace, written = os.replace, []

    def full(source, target) -> None:
        if Path(target).suffix == ".png" and len(written) >= after:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.extend([target] if Path(target).suffix == ".png" else [])
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    output = tmp_path / "out"
    with pytest.raises(DiskFull, match=r"\.png: the disk is full: [\d,]+ bytes needed, [\d,]+ bytes free"):
        generate(config, output, records=records, base=tiny_base)
    assert len(list(output.glob("shards/[0-9]*"))) == after // 2
    assert not list(output.glob("shards/.*")) and not (output / "generated.jsonl").exists()
    monkeypatch.undo()
    resumed = list(iter_records(generate(config, output, records=records, base=tiny_base)))
    quiet = list(iter_records(generate(config, tmp_path / "quiet", records=records, base=tiny_base)))
    assert [record["sha256"] for record in resumed] == [record["sha256"] for record in quiet]
