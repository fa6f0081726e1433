"""R13: a killed selection, clustering or mix gives byte-equal records when it is run again."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from meddap_monai import store
from meddap_monai.core.records import read_records
from meddap_monai.selection.clustering.config import ClusterConfig
from meddap_monai.selection.clustering.stage import cluster
from meddap_monai.selection.filtering.config import SelectConfig
from meddap_monai.selection.filtering.filter_config import FilterConfig
from meddap_monai.selection.filtering.rules import RuleConfig
from meddap_monai.selection.filtering.stage import select
from meddap_monai.selection.mixing.config import MixConfig
from meddap_monai.selection.mixing.stage import mix
from tests.reliability.forked import finish, kill_when, start
from tests.selection.synthetic import CLASSES, write_generated

SMALL = FilterConfig(encoder="resnet10_tiny", mode="scratch", resolution=32, folds=3, steps=10, batch=12)
SELECT = SelectConfig(filter=SMALL, pictures=True, rules=RuleConfig(use=("conformal", "knn"), alpha=0.0, guard=0.0))


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pairs = [(name, name) for name in CLASSES for _ in range(5)]
    return write_generated(tmp_path_factory.mktemp("generated") / "out", pairs)


def outcome(folder: Path) -> dict[str, bytes]:
    """Return every file whose bytes must be equal; event files and cost.json hold times."""
    kept = {
        "kept.jsonl",
        "scored.jsonl",
        "dropped.csv",
        "selection.json",
        "chosen.jsonl",
        "clusters.json",
        "hybrid.jsonl",
    }
    files = {path for path in folder.rglob("*") if path.is_file() and ".lock" not in path.name}
    wanted = {path for path in files if path.name in kept or path.suffix in {".safetensors", ".npy"}}
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(wanted)}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, simulated_records: Path, generated: Path) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("undisturbed") / "out"
    select(SELECT, folder, records=simulated_records, generated=generated)
    return outcome(folder)


@pytest.mark.parametrize(
    "sight",
    [
        "filter/fold_1.safetensors",
        "scored.jsonl",
        pytest.param("filter/fold_0.safetensors", marks=pytest.mark.slow),
        pytest.param("features/real.npy", marks=pytest.mark.slow),
        pytest.param("figures", marks=pytest.mark.slow),
    ],
)
def test_select_killed_at(
    tmp_path: Path, simulated_records: Path, generated: Path, undisturbed: dict[str, bytes], sight: str
) -> None:
    folder = tmp_path / "out"

    def work() -> Path:
        return select(SELECT, folder, records=simulated_records, generated=generated)

    process = start(work, tmp_path / "log")
    killed = kill_when(process, (folder / sight).exists)
    code = finish(process)
    assert code == (-9 if killed else 0), (tmp_path / "log").read_text() if (tmp_path / "log").exists() else code
    assert finish(start(work, tmp_path / "log")) == 0
    assert outcome(folder) == undisturbed
    assert store.read_stage(folder)["state"] == "done"


def test_a_finished_fold_is_not_trained_again(tmp_path: Path, simulated_records: Path, generated: Path) -> None:
    folder = tmp_path / "out"
    process = start(lambda: select(SELECT, folder, records=simulated_records, generated=generated), tmp_path / "log")
    assert kill_when(process, (folder / "filter" / "fold_1.safetensors").exists)
    finish(process)
    before = (folder / "filter" / "fold_0.safetensors").stat().st_mtime_ns
    select(SELECT, folder, records=simulated_records, generated=generated)
    assert (folder / "filter" / "fold_0.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize("seconds", [0.2, pytest.param(1.0, marks=pytest.mark.slow)])
def test_cluster_killed_after(tmp_path: Path, simulated_records: Path, seconds: float) -> None:
    config = ClusterConfig(k=2, nearest=3, features="filter", filter=SMALL)
    folders = [tmp_path / "killed", tmp_path / "whole"]
    process = start(lambda: cluster(config, folders[0], records=simulated_records), tmp_path / "log")
    begun = time.monotonic()
    kill_when(process, lambda: time.monotonic() - begun > seconds)
    finish(process)
    for folder in folders:
        cluster(config, folder, records=simulated_records)
    assert outcome(folders[0]) == outcome(folders[1]) and len(outcome(folders[0])) >= 6


def test_a_temporary_file_of_a_killed_writer_is_no_foreign_output(
    tmp_path: Path, simulated_records: Path, generated: Path
) -> None:
    (tmp_path / f".{'0a' * 16}.stage.json").write_text('{"stage": "mi')
    hybrid = mix(MixConfig(ratio=0.25), tmp_path, records=simulated_records, kept=generated)
    assert len(read_records(hybrid)) == 72 + 9


def test_mix_killed(tmp_path: Path, simulated_records: Path, generated: Path) -> None:
    folders = [tmp_path / "killed", tmp_path / "whole"]

    def work(folder: Path) -> Path:
        return mix(MixConfig(ratio=0.25), folder, records=simulated_records, kept=generated)

    process = start(lambda: work(folders[0]), tmp_path / "log")
    kill_when(process, (folders[0] / "stage.json").exists)
    finish(process)
    results = [work(folder) for folder in folders]
    assert len(read_records(results[0])) == 72 + 9
    assert outcome(folders[0]) == outcome(folders[1])


def test_disk_full_while_writing_records_keeps_the_old_ones(
    tmp_path: Path,
    simulated_records: Path,
    generated: Path,
    monkeypatch: pytest.MonkeyPatch,
    undisturbed: dict[str, bytes],
) -> None:
    import errno
    import os

    from meddap_monai.errors import DiskFull

    folder, real_replace = tmp_path / "out", os.replace
    full: Callable[[str], bool] = lambda name: name.endswith("scored.jsonl")  # noqa: E731

    def replace(source: str, target: str) -> None:
        if full(str(target)):
            raise OSError(errno.ENOSPC, "no space left")
        real_replace(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(DiskFull, match=r"scored\.jsonl: the disk is full"):
        select(SELECT, folder, records=simulated_records, generated=generated)
    assert not (folder / "scored.jsonl").exists() and not (folder / "kept.jsonl").exists()
    monkeypatch.undo()
    select(SELECT, folder, records=simulated_records, generated=generated)
    assert outcome(folder) == undisturbed
