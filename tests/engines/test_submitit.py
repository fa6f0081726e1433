"""Array tasks by submitit, on this machine: one per unit, tried again when they are lost."""

from pathlib import Path

import pytest

import meddap_monai
from meddap_monai.engines.config import EngineConfig
from meddap_monai.engines.engine import use_engine
from meddap_monai.engines.on_slurm import UnitRun
from meddap_monai.engines.task import head_of
from meddap_monai.errors import ConfigurationError, StageError
from meddap_monai.images.indexing import worker_pool
from meddap_monai.images.indexing.config import IndexConfig
from meddap_monai.images.indexing.stage import index
from meddap_monai.phantom.simulation import write_phantom_study

submitit = pytest.importorskip("submitit", reason="submitit is not installed: pip install '.[slurm]'")
ROOT = Path(meddap_monai.__file__).parents[1]
TASK = "tests.engines.adding:open_numbers"
SLURM = EngineConfig(name="submitit", cluster="local", workers=2)


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Jobs find the tests' tasks, and are kept in a folder of the test."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("trouble", ["busy", pytest.param("crash", marks=pytest.mark.slow)])  # it waits for the file
def test_units_are_worked_on_once_and_lost_ones_come_again(trouble: str, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    with use_engine(SLURM) as engine:
        found = dict(engine.map(TASK, iter([1, trouble, 2]), {"add": 5, "once": str(marks)}))
    assert [found[place]["sum"] for place in range(3)] == [6, 5, 7]
    assert (tmp_path / ".submitit").stat().st_mode & 0o777 == 0o700, "what pickle reads is the owner's alone"


def test_a_failing_unit_ends_the_work() -> None:
    with use_engine(SLURM) as engine, pytest.raises(StageError, match="ValueError: this unit cannot be worked on"):
        list(engine.map(TASK, ["fail"], {"add": 0}))


def test_a_task_whose_time_is_over_is_requeued_with_its_unit() -> None:
    head = head_of(TASK, {"add": 1}, 1)
    requeued = UnitRun().checkpoint(head, "41")
    assert isinstance(requeued, submitit.helpers.DelayedSubmission)
    assert requeued.function(*requeued.args) == UnitRun()(head, "41") and '"sum": 42' in UnitRun()(head, "41")


def test_what_slurm_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The parameters of an array, as submitit takes them where there is a scheduler."""
    (tmp_path / "srun").write_text("#!/bin/sh\n")
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    config = EngineConfig(name="submitit", cpus=4, gpus=2, memory=8000, minutes=90, slurm={"slurm_partition": "gpu"})
    with use_engine(config) as engine:
        asked = engine._executor(gpus=True)._executor.parameters  # type: ignore[attr-defined]
    wanted = {"cpus_per_task": 4, "gpus_per_node": 2, "mem": "8GB", "time": 90, "partition": "gpu"}
    assert {name: asked[name] for name in wanted} == wanted and asked["array_parallelism"] == 100


@pytest.mark.parametrize(
    ("slurm", "text"),
    [({}, "engine#cluster is slurm, which is not here"), ({"partitions": "gpu"}, "engine#slurm: .*partitions")],
)
def test_what_is_not_there_or_not_known_is_named(
    slurm: dict[str, str], text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    config = EngineConfig(name="submitit", cluster="local" if slurm else "slurm", slurm=slurm)
    with use_engine(config) as engine, pytest.raises(ConfigurationError, match=text):
        list(engine.map(TASK, [1], {"add": 0}))


@pytest.mark.slow
def test_an_index_has_the_bytes_of_one_process(key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_pool, "TOGETHER", 5)
    write_phantom_study(tmp_path / "in", patients_per_class=1, images_per_patient=2, seed=3)
    config = IndexConfig(source=tmp_path / "in", key_file=key, split="train")
    one = index(config, tmp_path / "one").read_bytes()
    with use_engine(SLURM):
        assert index(config, tmp_path / "two").read_bytes() == one
