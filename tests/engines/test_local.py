"""The engine of one machine, the bookkeeping of all engines, and what a configuration may ask for."""

import importlib
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import meddap_monai
from meddap_monai.cli.main import main
from meddap_monai.engines.backlog import Backlog
from meddap_monai.engines.config import EngineConfig
from meddap_monai.engines.engine import current_engine, use_engine
from meddap_monai.errors import BadBase, ConfigurationError, Interrupted, MissingPackage, StageError

ROOT = Path(meddap_monai.__file__).parents[1]
TASK = "tests.engines.adding:open_numbers"
TWO = EngineConfig(workers=2)
DONE = '{"outcome": 1}'


@pytest.fixture(autouse=True)
def checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers find the tests' tasks."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_outcomes_do_not_depend_on_the_number_of_workers(workers: int) -> None:
    with use_engine(EngineConfig(workers=workers)) as engine:
        found = dict(engine.map(TASK, iter(range(7)), {"add": 10}))
    assert {place: one["sum"] for place, one in found.items()} == {place: place + 10 for place in range(7)}


def test_a_worker_stays_and_has_its_threads() -> None:
    with use_engine(replace(TWO, cpus=3)) as engine:
        found = [one for _, one in engine.map(TASK, range(6), {"add": 0})]
    assert {one["threads"] for one in found} == {"3"} and sum(one["asked"] == 1 for one in found) <= 2


def test_a_unit_that_loses_its_worker_comes_again(tmp_path: Path) -> None:
    with use_engine(TWO) as engine:
        found = dict(engine.map(TASK, [1, "crash", "busy", 2], {"add": 5, "once": str(tmp_path)}))
    assert [found[place]["sum"] for place in range(4)] == [6, 5, 5, 7]


def test_a_unit_that_loses_every_worker_ends_the_work_by_its_number() -> None:
    text = r"unit 1 of the work lost 3 workers, the last one crashed on it \(exit status 7\).*engine#attempts"
    with use_engine(TWO) as engine, pytest.raises(StageError, match=text):
        list(engine.map(TASK, [1, "crash"], {"add": 0}))


@pytest.mark.parametrize(
    ("item", "error", "text"), [("bad", BadBase, "^no base$"), ("fail", StageError, "ValueError: this unit cannot be")]
)
def test_what_a_unit_raises_keeps_its_name(item: str, error: type[Exception], text: str) -> None:
    with use_engine(TWO) as engine, pytest.raises(error, match=text) as caught:
        list(engine.map(TASK, [1, item], {"add": 0}))
    assert bool(getattr(caught.value, "__notes__", [])) == (item == "fail"), "the trace of what nobody expected"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_signal_stops_between_units(workers: int) -> None:
    done: list[int] = []

    def check() -> None:
        if done:
            raise Interrupted("stopped")

    with use_engine(EngineConfig(workers=workers)) as engine, pytest.raises(Interrupted):
        for place, _ in engine.map(TASK, range(100), {"add": 0}, check=check):
            done.append(place)
    assert 0 < len(done) < 5


def test_items_are_taken_as_workers_are_free() -> None:
    taken = []
    items = (taken.append(number) or number for number in range(1000))
    with use_engine(TWO) as engine:
        next(engine.map(TASK, items, {"add": 0}))
    assert len(taken) <= 4


@pytest.mark.parametrize(("name", "package"), [("ray", "ray"), ("submitit", "submitit")])
def test_an_engine_without_its_package_says_what_to_install(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackage, match=rf"engine#name is {name}, which is not installed; pip install .*"):
        ENGINE = EngineConfig(name=name)
        with use_engine(ENGINE):
            pass
    (tmp_path / "in").mkdir()
    words = ["index", f"source={tmp_path / 'in'}", f"engine#name={name}", "--output", str(tmp_path / "out")]
    assert main(words) == 2 and "which is not installed; pip install" in capsys.readouterr().err


def test_an_engine_beside_torchrun_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigurationError, match="torchrun has started 2 processes"), use_engine(TWO):
        pass
    with use_engine(EngineConfig()) as engine:
        assert engine.in_process


def test_the_default_keeps_the_engine_in_use() -> None:
    with use_engine(TWO) as outer, use_engine(EngineConfig()) as inner:
        assert inner is outer is current_engine()
    assert current_engine().in_process


@pytest.mark.parametrize(
    ("keys", "text"),
    [({"name": "slurm"}, "engine#name"), ({"workers": -1}, "engine#workers"), ({"gpus": 0}, "engine#gpus")],
)
def test_a_wrong_key_is_named(keys: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        EngineConfig(**keys)  # type: ignore[arg-type]


def test_every_task_is_there_under_its_name() -> None:
    for module, name in (
        ("meddap_monai.diffusion.generation.shards", "TASK"),
        ("meddap_monai.images.indexing.worker_pool", "_FILE"),
        ("meddap_monai.images.indexing.worker_pool", "_FILES"),
        ("meddap_monai.classifier.many", "TASK"),
        ("meddap_monai.classifier.inference", "TASK"),
        ("meddap_monai.selection.filtering.spread", "_FEATURES"),
        ("meddap_monai.selection.filtering.spread", "_FOLDS"),
        ("meddap_monai.study.seed", "TASK"),
    ):
        place, _, function = getattr(importlib.import_module(module), name).partition(":")
        assert callable(getattr(importlib.import_module(place), function))


# ------------------------------------------------------------------------------------------------- bookkeeping
def test_it_is_done_when_nothing_is_to_come() -> None:
    backlog = Backlog(iter("ab"))
    first = backlog.take()
    assert first is not None and list(backlog.settle(first, DONE)) == [(0, 1)]
    assert not backlog.done, "one is to come, though none is at work"
    second = backlog.take()
    assert second is not None and second.item == '"b"' and list(backlog.settle(second, DONE)) and backlog.done
    assert Backlog([]).done


def test_a_slow_unit_is_handed_out_once_more_and_counts_once() -> None:
    now = [0.0]
    backlog = Backlog(["a", "b", "c"], twice=True, clock=lambda: now[0])
    first, second, third = backlog.take(), backlog.take(), backlog.take()
    assert first and second and third and backlog.take() is None
    now[0] = 1.0
    backlog.finish(second)
    assert backlog.take() is None, "not slow yet"
    now[0] = 3.1
    again = backlog.take()
    assert again is first and backlog.take() is third and backlog.take() is None
    assert (
        list(backlog.settle(again, '{"outcome": 1}')) == [(0, 1)]
        and list(backlog.settle(first, '{"outcome": 1}')) == []
    )
    backlog.lose(third, "went")
    assert not backlog.done, "the other one still works on it"
    assert list(backlog.settle(third, DONE)) == [(2, 1)] and backlog.done
