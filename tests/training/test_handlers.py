"""Every handler on a plain Ignite engine of somebody else, as its docstring shows it."""

import os
import signal
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine
from monai.handlers import StatsHandler
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from meddap_monai import store
from meddap_monai.errors import Interrupted, NonFiniteLoss
from meddap_monai.training.checkpoint import load_checkpoint
from meddap_monai.training.finite import check_finite
from meddap_monai.training.handlers import (
    Checkpoints,
    Curves,
    Pictures,
    ProgressBar,
    Validation,
)
from meddap_monai.training.step_trainer import StepTrainer, TrainingRun, train, within_memory


class Walk:
    """A weight that walks by one each step; its measure is best at four."""

    def __init__(self) -> None:
        self.network = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.network.weight)

    @property
    def state(self) -> dict:
        return {"network": self.network}

    def advance(self, step: int) -> dict[str, float]:
        with torch.no_grad():
            self.network.weight += 1
        return {"loss": 10.0 - step, "bad": float("nan")}


def plain_engine(walk: Walk) -> Engine:
    return Engine(lambda engine, _: walk.advance(engine.state.iteration - 1))


def points(folder: Path) -> dict[str, list[int]]:
    found = EventAccumulator(str(folder))
    found.Reload()
    return {tag: [point.step for point in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_handlers_serve_any_engine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    walk = Walk()
    engine = plain_engine(walk)
    drawn: list[int] = []
    with Curves(tmp_path / "tensorboard", "walk", every=2, images=4) as curves:
        validation = Validation(
            lambda _: {"score": -abs(walk.network.weight.item() - 4)},
            lambda values: (values["score"],),
            walk.network.state_dict,
            every=2,
            patience=2,
            curves=curves,
        )
        for handler in (
            ProgressBar("walk"),
            validation,
            curves,
            Pictures(lambda _, step: drawn.append(step), curves, every=3),
            Checkpoints(tmp_path / "checkpoint.pt", walk.state | {"validation": validation}, every=5),
        ):
            handler.attach(engine)
        engine.run(range(10), max_epochs=1)
    assert engine.state.iteration == 8  # two validations after step four were no better
    assert (validation.best_step, validation.stopped, validation.best["weight"].item()) == (4, True, 4.0)
    assert drawn == [3, 6]
    assert "walk" in capsys.readouterr().err
    found = points(tmp_path / "tensorboard")
    assert found["walk/loss"] == [2, 4, 6, 8]
    assert found["walk/validation_score"] == [2, 4, 6, 8]
    assert "walk/images_per_second" in found and "walk/bad" not in found
    other, again = Walk(), Validation(validation.measure, validation.score, nn.Linear(1, 1).state_dict, every=2)
    assert load_checkpoint(tmp_path / "checkpoint.pt", other.state | {"validation": again}) == 8
    assert (other.network.weight.item(), again.best_step, again.stopped) == (8.0, 4, True)


@pytest.mark.parametrize("scores", [[float("nan")] * 3, [-float("inf")] * 3])
def test_a_score_that_is_no_number_is_never_best(scores: list[float]) -> None:
    values = iter(scores)
    validation = Validation(lambda _: {"score": next(values)}, lambda found: (found["score"],), dict, every=1)
    engine = plain_engine(Walk())
    validation.attach(engine)
    engine.run(range(3), max_epochs=1)
    assert (validation.best, validation.best_step, validation.stale) == ({}, -1, 3)


def test_a_signal_ends_the_run_with_a_checkpoint_and_the_next_one_goes_on(tmp_path: Path) -> None:
    class Signalled(Walk):
        def advance(self, step: int) -> dict[str, float]:
            if step == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().advance(step)

    def run(flag: store.InterruptFlag) -> TrainingRun:
        return TrainingRun("walk", 6, tmp_path / "checkpoint.pt", flag, checkpoint_every=100)

    with pytest.raises(Interrupted, match="walk stopped at step 4 of 6, checkpoint "), store.InterruptFlag() as flag:
        train(Signalled(), run(flag))
    walk = Walk()
    with store.InterruptFlag() as flag:
        train(walk, run(flag))
    assert walk.network.weight.item() == 6.0


def test_steps_are_counted_across_a_resume() -> None:
    seen: list[int] = []
    trainer = StepTrainer(lambda step: seen.append(step) or {"loss": 0.0}, 5, "cpu")
    trainer.go_on(3)
    assert seen == [3, 4]
    trainer.go_on(5)
    trainer.go_on(1, over=True)
    assert seen == [3, 4]


def test_handlers_of_monai_attach(capsys: pytest.CaptureFixture) -> None:
    trainer = StepTrainer(lambda step: {"loss": 0.5 + step}, 2, "cpu")
    StatsHandler(output_transform=lambda output: output["loss"], tag_name="walked", name="walk").attach(trainer)
    trainer.go_on(0)
    said = capsys.readouterr().out
    assert "Iter: 1/2 -- walked: 0.5000" in said and "Iter: 2/2 -- walked: 1.5000" in said


def test_within_memory_halves_down_to_one_and_tells() -> None:
    told: list[int] = []

    def work(size: int) -> int:
        if size > 1:
            raise torch.OutOfMemoryError("injected")
        return size

    assert within_memory(work, 6, told.append) == 1
    assert told == [3, 1]
    with pytest.raises(RuntimeError, match="other"):
        within_memory(lambda _: (_ for _ in ()).throw(RuntimeError("other")), 6, told.append)


def test_a_loss_that_is_not_finite_is_named() -> None:
    loss = torch.tensor(1.0)
    assert check_finite(loss, "here", 1, 0.1, ["a"]) is loss
    with pytest.raises(NonFiniteLoss, match=r"here: the loss is nan at step 2, .*learning rate 0.1, images a, b\)"):
        check_finite(torch.tensor(float("nan")), "here", 2, 0.1, ["a", "b"])
