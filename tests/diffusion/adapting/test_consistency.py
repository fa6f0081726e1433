"""Consistency distillation against its equations: solver, boundary, guidance folded in, loss, target, path."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from adapter_material import quick
from diffusers import DDIMScheduler, LCMScheduler
from safetensors.torch import load_file

from meddap_monai.core.records import iter_records, read_records
from meddap_monai.diffusion.adapters import targets
from meddap_monai.diffusion.adapting import drawn_latents
from meddap_monai.diffusion.adapting.batches import Batch
from meddap_monai.diffusion.adapting.consistency import Consistency, boundary, ddim_step, pseudo_huber
from meddap_monai.diffusion.adapting.methods.lcm import TARGETS, LatentConsistency
from meddap_monai.diffusion.adapting.stage import adapt
from meddap_monai.diffusion.bases.noise import Objective
from meddap_monai.diffusion.bases.schedulers import build_scheduler
from meddap_monai.images.provenance import training_images

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
KINDS = pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
DISTIL: dict[str, Any] = {"method": "lcm", "rank": 2, "ema": 0.9, "method_settings": {"drawn": 1, "drawing_steps": 2}}


def latents(number: int, count: int = 3) -> torch.Tensor:
    return torch.randn(count, 4, 2, 2, generator=torch.Generator().manual_seed(number))


class Linear:
    """A network whose answer is known: ``gain * noisy + prompt``; its running mean has another gain, its base a third.

    It stands for the UNet too: the loss switches low-rank layers off, which here means the base's gain.
    """

    def __init__(self) -> None:
        self.gain, self.mean, self.base = torch.tensor(0.5, requires_grad=True), 0.3, 0.7
        self.used: Any = self.gain
        self.asked: list[tuple[Any, list[int], list[int]]] = []

    def predict(self, noisy: torch.Tensor, times: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        self.asked.append((self.used, times.tolist(), rows.tolist()))
        return self.used * noisy + 0.1 * rows[:, None, None, None]

    @contextlib.contextmanager
    def kept_values(self) -> Iterator[None]:
        with self._as(self.mean):
            yield

    @contextlib.contextmanager
    def _as(self, gain: float) -> Iterator[None]:
        before, self.used = self.used, gain
        try:
            yield
        finally:
            self.used = before


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Linear:
    """The network above; switching its layers off means its base's gain."""
    one = Linear()
    monkeypatch.setattr("meddap_monai.diffusion.adapting.consistency.switched_off", lambda unet: unet._as(unet.base))
    return one


@KINDS
def test_one_solver_step_is_that_of_ddim(kind: str) -> None:
    """With 50 steps diffusers' DDIM walks 999, 979, ... 19 and then to time 0, as the grid of distillation does."""
    scheduler = DDIMScheduler(
        **BETAS, prediction_type=kind, clip_sample=False, set_alpha_to_one=False, timestep_spacing="trailing"
    )
    scheduler.set_timesteps(50)
    loss = Consistency(Objective(scheduler.config), None, 1.0, 1e-3)
    times = scheduler.timesteps
    assert times.tolist() == loss.on_grid(times).tolist() == list(range(999, 0, -20))
    assert loss.before(times).tolist() == [*times[1:].tolist(), 0]
    noisy, answer = latents(0, 1), latents(1, 1)
    for time in (999, 499, 19):
        one = torch.tensor([time])
        found = ddim_step(loss.objective, noisy, answer, one, loss.before(one))
        assert torch.allclose(found, scheduler.step(answer, time, noisy).prev_sample, atol=2e-5)


def test_the_samplers_time_steps_lie_on_the_grid() -> None:
    scheduler = build_scheduler("lcm", DDIMScheduler(**BETAS))
    scheduler.set_timesteps(4)
    loss = Consistency(Objective(BETAS), None, 1.0, 1e-3)
    assert scheduler.timesteps.tolist() == loss.on_grid(scheduler.timesteps).tolist()
    assert loss.on_grid(torch.tensor([0, 19, 20, 999])).tolist() == [19, 19, 39, 999]


@KINDS
def test_at_time_zero_the_consistency_function_is_the_identity(network: Linear, kind: str) -> None:
    loss, noisy = Consistency(Objective(BETAS | {"prediction_type": kind}), network, 2.0, 1e-3), latents(0)
    end = loss.end(network, noisy, torch.zeros(3, dtype=torch.long), torch.tensor([1, 2, 3]))
    assert torch.equal(end, noisy)


def test_the_boundary_condition_is_that_of_the_sampler() -> None:
    scheduler = LCMScheduler()
    for time in (0, 1, 19, 999):
        skip, out = boundary(torch.tensor([time]))
        wanted = scheduler.get_scalings_for_boundary_condition_discrete(time)
        assert (skip.item(), out.item()) == pytest.approx(wanted, rel=1e-6)


@KINDS
def test_folded_guidance_is_the_explicit_combination(network: Linear, kind: str) -> None:
    """The teacher's step equals one from noise and image that were guided one by one, at the base's own weights."""
    objective = Objective(BETAS | {"prediction_type": kind})
    loss = Consistency(objective, network, 2.5, 1e-3)
    noisy, times, rows = latents(0), torch.tensor([19, 499, 999]), torch.tensor([1, 2, 3])
    before = loss.before(times)
    with network._as(network.base):
        parts = [objective.split(noisy, network.predict(noisy, times, row), times) for row in (0 * rows, rows)]
    clean, noise = (without + 2.5 * (text - without) for without, text in zip(*parts, strict=True))
    kept = objective.alpha_bar[before][:, None, None, None]
    found = loss.teach(network, noisy, times, before, rows)
    assert torch.allclose(found, kept.sqrt() * clean + (1 - kept).sqrt() * noise, atol=1e-4)
    plain = Consistency(objective, network, 1.0, 1e-3).teach(network, noisy, times, before, rows)
    with network._as(network.base):
        assert torch.allclose(
            plain, ddim_step(objective, noisy, network.predict(noisy, times, rows), times, before), atol=1e-5
        )


def batch_of(times: list[int]) -> Batch:
    count = len(times)
    rows = torch.arange(1, count + 1)
    return Batch(latents(1, count), latents(2, count), torch.tensor(times), rows, torch.ones(count), ["a"] * count)


def test_the_target_is_the_running_mean_without_gradients(network: Linear) -> None:
    """Teacher, target and student are asked in this order, each with its own weights, at its own time."""
    loss = Consistency(Objective(BETAS), network, 2.0, 1e-3)
    batch = batch_of([5, 500, 999])
    found = loss(network, batch)
    times, before = [19, 519, 999], [0, 499, 979]
    assert [(asked[0], asked[1]) for asked in network.asked] == [
        (network.base, times * 2), (network.mean, before), (network.gain, times)
    ]  # fmt: skip
    assert network.asked[0][2] == [0, 0, 0, 1, 2, 3]
    noisy, _ = loss.objective.diffuse(batch.clean, batch.noise, torch.tensor(times))
    earlier = loss.teach(network, noisy, torch.tensor(times), torch.tensor(before), batch.prompts)
    with network._as(network.mean):
        target = loss.end(network, earlier, torch.tensor(before), batch.prompts).detach()
    wanted = pseudo_huber(loss.end(network, noisy, torch.tensor(times), batch.prompts), target, 1e-3)
    assert torch.allclose(found, wanted)
    gradients = [torch.autograd.grad(value.sum(), network.gain)[0] for value in (found, wanted)]
    assert gradients[0] == pytest.approx(gradients[1].item()) and gradients[0] != 0


def test_the_loss_is_pseudo_huber_over_what_counts() -> None:
    answer, target = torch.tensor([[[[3.0, 0.0]]]]), torch.zeros(1, 1, 1, 2)
    assert pseudo_huber(answer, target, 4.0).tolist() == [0.5]  # (sqrt(9 + 16) - 4 + 0) / 2
    assert pseudo_huber(answer, target, 4.0, torch.tensor([[[[1.0, 0.0]]]])).tolist() == [1.0]
    assert pseudo_huber(answer, target, 4.0, torch.zeros(1, 1, 1, 2)).tolist() == [0.0]


def test_validation_measures_against_the_end_of_the_teachers_path(network: Linear) -> None:
    """The path equals DDIM's own loop; what is there early waits for the others."""
    scheduler = DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False)
    loss, batch = Consistency(Objective(BETAS), network, 1.0, 1e-3), batch_of([999, 50])
    times = torch.tensor([999, 59])
    noisy, _ = loss.objective.diffuse(batch.clean, batch.noise, times)
    ends = []
    for image, start, row in zip(noisy, (999, 59), (1, 2), strict=True):
        scheduler.set_timesteps(50)
        scheduler.timesteps = torch.arange(start, 0, -20)
        found = image[None]
        for time in scheduler.timesteps:
            found = scheduler.step(network.base * found + 0.1 * row, time, found).prev_sample
        ends.append(found)
    assert torch.allclose(loss.path_end(network, noisy, times, batch.prompts), torch.cat(ends), rtol=1e-3, atol=1e-3)
    found = loss.validate(network, batch)
    wanted = loss.objective.errors(loss.end(network, noisy, times, batch.prompts), torch.cat(ends))
    assert torch.allclose(found, wanted, rtol=1e-2)
    asked = len(network.asked)
    assert torch.equal(loss.validate(network, batch), found)
    assert len(network.asked) == asked + 1, "the teacher's path is walked once"


# --------------------------------------------------------------------------------------------------------- the stage
def test_the_target_sets_are_those_of_adapters() -> None:
    known = [getattr(targets, name) for name in ("ATTENTION", "FEED_FORWARD", "TRANSFORMER", "CONVOLUTIONS")]
    assert list(TARGETS) == [*known, targets.EVERYTHING]
    assert LatentConsistency().targets == targets.CONVOLUTIONS


def test_no_image_of_the_records_is_opened(tiny_base: Path, make_records: Any, tmp_path: Path) -> None:
    """The adapter saw what its base saw; with the images gone the same bytes come out."""
    records = make_records({"train": 2, "val": 1}, size=32)
    config = quick(**DISTIL, steps=2, samples_per_class=1, validation_every=0)
    with_images = adapt(config, tmp_path / "a", records=records, base=tiny_base)
    for record in read_records(records):
        Path(record["image"]).unlink()
    without = adapt(config, tmp_path / "b", records=records, base=tiny_base)
    assert (with_images / "adapter.safetensors").read_bytes() == (without / "adapter.safetensors").read_bytes()
    assert training_images(without) == {}
    card = json.loads((without / "adapter.json").read_text())
    assert (card["images"], card["drawn"], card["rank"]) == (6, 6, 2)
    assert card["sampling"] == {"scheduler": "lcm", "steps": 4, "guidance": 1.0}
    assert "6 latents drawn by the base" in (without / "card.md").read_text()


def test_with_drawn_0_the_records_images_are_learned_from(tiny_base: Path, records: Path, tmp_path: Path) -> None:
    config = quick(**DISTIL | {"method_settings": {"drawn": 0}}, steps=2, validation_every=0)
    folder = adapt(config, tmp_path / "a", records=records, base=tiny_base)
    seen = {record["sha256"] for record in iter_records(records) if record["split"] == "train"}
    assert set(training_images(folder)) == seen
    assert "drawn" not in json.loads((folder / "adapter.json").read_text())


def test_drawn_latents_do_not_depend_on_what_the_cache_holds(pipeline: Any, tmp_path: Path) -> None:
    how = SimpleNamespace(height=32, width=32)
    sentences = {"a": "an ultrasound photo of benign tumor in breast", "b": "another"}

    def drawn(folder: str, names: str, **settings: Any) -> torch.Tensor:
        given = {"sampling": LatentConsistency(drawing_steps=2).drawing[1], "count": 2, "seed": 0} | settings
        cache = drawn_latents.DrawnLatents(tmp_path / folder, pipeline, "base", sentences, **given)
        return [cache.get({"id": name}, how) for name in names][-1]

    first = drawn("one", "ba")
    assert first.shape == (2, 2, 4, 8, 8) and not first[:, 1].any() and not torch.equal(first[0], first[1])
    assert torch.equal(drawn("two", "a"), first) and torch.equal(drawn("one", "a"), first)
    assert not torch.equal(drawn("one", "b")[0], first[0])
    assert not torch.equal(drawn("one", "a", seed=1), first)


def test_distillation_comes_nearer_to_the_teacher(tiny_base: Path, records: Path, tmp_path: Path) -> None:
    config = quick(**DISTIL | {"ema": 0.0}, steps=12, batch=4, validation_every=12, learning_rate=1e-3)
    folder = adapt(config, tmp_path / "a", records=records, base=tiny_base)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / "tensorboard")).Reload().Scalars("adapt/validation_loss")
    assert found[-1].value < 0.95 * found[0].value
    assert all(value.any() for value in load_file(folder / "adapter.safetensors").values())
