"""Adapter training: what the stage writes, refuses, keeps and frees; batches, validation and checkpoints."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest
import torch
from adapter_material import quick
from ignite.engine import Events
from safetensors.torch import load_file

from meddap_monai import store
from meddap_monai.core import resources
from meddap_monai.core.records import iter_records, read_records, write_records
from meddap_monai.diffusion.adapting import preparation
from meddap_monai.diffusion.adapting.batches import Batches, Item
from meddap_monai.diffusion.adapting.config import AdaptConfig
from meddap_monai.diffusion.adapting.stage import adapt
from meddap_monai.diffusion.adapting.trainer import AdapterTrainer
from meddap_monai.diffusion.bases.base import open_base
from meddap_monai.diffusion.bases.noise import Objective
from meddap_monai.errors import ConfigurationError, ForeignOutput, LeakedRecords, MissingPackage, RecordsError
from meddap_monai.images.provenance import train_hashes
from tests.reliability.forked import read_logs, run_pair


def curve(folder: Path, tag: str) -> dict[int, float]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    return {event.step: event.value for event in found.Scalars(tag)}


def test_the_whole_stage(tiny_base: Path, records: Path, tmp_path: Path) -> None:
    config = quick(steps=8, samples_per_class=1, sample_steps=2, pictures_every=4, log_every=2, ema=0.5, snr_gamma=5.0)
    folder = adapt(config, tmp_path / "a", records=records, base=tiny_base)
    names = {path.name for path in folder.iterdir()} - {".lock"}
    assert names == {
        "adapter.safetensors", "adapter.json", "card.md", "train_sha256.txt", "samples", "tensorboard", "stage.json",
        "cost.json", "prompts.yaml",
    }  # fmt: skip
    card = json.loads((folder / "adapter.json").read_text())
    jsonschema.validate(card, json.loads(resources.find("schemas/adapter.json").read_text()))
    assert card["classes"] == ["benign", "malignant", "normal"]
    assert card["images"] == 12
    stage = store.read_stage(folder)
    assert (stage["state"], stage["classes"], stage["counts"]["out"]) == ("done", card["classes"], 12)
    training = {record["sha256"] for record in read_records(records, split="train", full=True)}
    assert train_hashes(folder) == training
    assert set(curve(folder, "adapt/loss")) == {2, 4, 6, 8}
    assert set(curve(folder, "adapt/validation_loss")) == {0, 3, 6, 8}
    for tag in ("adapt/learning_rate", "adapt/gradient_norm", "adapt/images_per_second"):
        assert len(curve(folder, tag)) == 4
    assert "SyntheticData" in __import__("PIL.Image").Image.open(folder / "samples/benign-0.png").text
    assert "an ultrasound photo of no tumor in breast" in (folder / "card.md").read_text()


def test_a_finished_run_is_skipped_and_another_is_refused(tiny_base: Path, records: Path, tmp_path: Path) -> None:
    folder = adapt(quick(steps=2), tmp_path / "a", records=records, base=tiny_base)
    before = (folder / "adapter.safetensors").stat().st_mtime_ns
    adapt(quick(steps=2), tmp_path / "a", records=records, base=tiny_base)
    assert (folder / "adapter.safetensors").stat().st_mtime_ns == before
    with pytest.raises(ForeignOutput, match="steps was 2, now 3"):
        adapt(quick(steps=3), tmp_path / "a", records=records, base=tiny_base)
    adapt(quick(steps=3), tmp_path / "a", records=records, base=tiny_base, overwrite=True)
    assert json.loads((folder / "adapter.json").read_text())["trained_steps"] == 3


def test_the_validation_loss_is_deterministic_and_falls(tiny_base: Path, records: Path, tmp_path: Path) -> None:
    config = quick(steps=40, batch=4, learning_rate=2e-2, validation_every=20, validation_images=6, checkpoint_every=40)
    folder = adapt(config, tmp_path / "a", records=records, base=tiny_base)
    values = curve(folder, "adapt/validation_loss")
    assert values[40] < values[0]
    best = min(value for step, value in values.items() if step)
    assert json.loads((folder / "adapter.json").read_text())["validation_loss"] == pytest.approx(best)


def test_early_stopping_keeps_the_best_weights(
    tiny_base: Path, records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = iter([9.0, 3.0, 1.0, 2.0, 2.5])
    monkeypatch.setattr("meddap_monai.diffusion.adapting.stage.validation_loss", lambda *_: next(values))
    config = quick(steps=100, validation_every=1, patience=2)
    folder = adapt(config, tmp_path / "a", records=records, base=tiny_base)
    card = json.loads((folder / "adapter.json").read_text())
    assert (card["steps"], card["trained_steps"], card["validation_loss"]) == (2, 4, 1.0)
    plain = adapt(quick(steps=2, validation_every=0), tmp_path / "b", records=records, base=tiny_base)
    left, right = (load_file(path / "adapter.safetensors") for path in (folder, plain))
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_classes_and_meta_choose_the_images(tiny_base: Path, records: Path, tmp_path: Path) -> None:
    everything = list(iter_records(records))
    for record in everything:
        record["meta"] = {"cluster": record["id"][-1]}
    write_records(tmp_path / "records.jsonl", everything)
    config = quick(steps=2, classes=("benign",), only={"cluster": "1"})
    folder = adapt(config, tmp_path / "a", records=tmp_path / "records.jsonl", base=tiny_base)
    card = json.loads((folder / "adapter.json").read_text())
    assert (card["classes"], card["images"]) == (["benign"], 1)


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"classes": ("bening",)}, ConfigurationError, "did you mean 'benign'"),
        ({"only": {"cluster": "7"}}, RecordsError, "no real image in split train"),
        ({"prompts": "fetal"}, ConfigurationError, "unknown class 'benign'"),
        ({"device": "cuda"}, ConfigurationError, "no GPU here"),
        ({"method": "fulora", "clip_skip": 1}, ConfigurationError, "set it to at most 0"),
        ({"optimizer": "adamw8bit"}, MissingPackage, "install it with `pip install 'bitsandbytes>=0.45'`"),
    ],
)
def test_what_does_not_fit_is_named(tiny_base: Path, records: Path, tmp_path: Path, settings, error, text) -> None:
    if torch.cuda.is_available():
        pytest.skip("the messages are those of a machine without a GPU")
    with pytest.raises(error, match=text):
        adapt(quick(**settings), tmp_path / "a", records=records, base=tiny_base)


def test_a_base_that_saw_a_test_image_is_refused(tiny_base: Path, records: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(tiny_base, tmp_path / "base")
    leaked = read_records(records, split="test", full=True)[0]
    (tmp_path / "base/train_sha256.txt").write_text(leaked["sha256"] + "\n")
    with pytest.raises(LeakedRecords, match=leaked["id"]):
        adapt(quick(), tmp_path / "a", records=records, base=tmp_path / "base")


def test_synthetic_images_are_not_trained_on(tiny_base: Path, records: Path, tmp_path: Path) -> None:
    everything = list(iter_records(records))
    fake = everything[0] | {"id": "fake", "split": "train", "source": "synthetic", "synthetic": {"prompt": ""}}
    write_records(tmp_path / "records.jsonl", [*everything, fake])
    folder = adapt(quick(steps=1), tmp_path / "a", records=tmp_path / "records.jsonl", base=tiny_base)
    assert json.loads((folder / "adapter.json").read_text())["images"] == 12


@pytest.mark.parametrize("settings", [{}, {"method": "fulora", "rank": 2, "clip_skip": 0, "bucket_step": 16}])
def test_half_precision_trains_close_to_full(tiny_base: Path, records: Path, tmp_path: Path, settings: dict) -> None:
    common = {"steps": 2, "samples_per_class": 1, "sample_steps": 2, **settings}
    full = adapt(quick(**common), tmp_path / "a", records=records, base=tiny_base)
    half = adapt(quick(**common, precision="bf16"), tmp_path / "b", records=records, base=tiny_base)
    losses = [json.loads((path / "adapter.json").read_text())["validation_loss"] for path in (full, half)]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert losses[0] != losses[1]


def test_half_precision_on_a_cpu_keeps_frozen_weights_in_it_and_gives_equal_bytes_after_a_kill(
    tiny_base: Path, records: Path, tmp_path: Path
) -> None:
    config = quick(steps=4, checkpoint_every=2, precision="bf16", samples_per_class=0).filled()
    everything = read_records(records, full=True)
    prepared = preparation.prepare(config, tmp_path, everything, open_base(tiny_base), store.InterruptFlag())
    kinds = {(parameter.requires_grad, parameter.dtype) for parameter in prepared.pipeline.unet.parameters()}
    assert kinds == {(False, torch.bfloat16), (True, torch.float32)}

    class Killed:
        def attach(self, engine: Any) -> None:
            engine.add_event_handler(Events.ITERATION_COMPLETED(once=3), self)

        def __call__(self) -> None:
            raise ZeroDivisionError

    whole = adapt(config, tmp_path / "a", records=records, base=tiny_base)
    with pytest.raises(ZeroDivisionError):
        adapt(config, tmp_path / "b", records=records, base=tiny_base, handlers=[Killed()])
    resumed = adapt(config, tmp_path / "b", records=records, base=tiny_base)
    assert store.sha256_file(whole / "adapter.safetensors") == store.sha256_file(resumed / "adapter.safetensors")


def test_drawing_samples_says_nothing_of_types(
    tiny_base: Path, records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("diffusers.models.modeling_utils.logger.warning", said.append)
    adapt(quick(steps=1, samples_per_class=1, sample_steps=1), tmp_path / "a", records=records, base=tiny_base)
    assert said == []


def test_parts_that_are_not_needed_are_freed(tiny_base: Path, records: Path, tmp_path: Path) -> None:
    everything = read_records(records, full=True)
    for settings, text, vae in (
        ({}, False, False),
        ({"samples_per_class": 1}, False, True),
        ({"method": "textual_inversion"}, True, False),
    ):
        config = quick(**settings).filled()
        prepared = preparation.prepare(config, tmp_path, everything, open_base(tiny_base), store.InterruptFlag())
        assert (prepared.pipeline.text_encoder is not None, prepared.pipeline.vae is not None) == (text, vae)
        learning = {id(parameter) for parameter in prepared.trainable.parameters.values()}
        assert all(not p.requires_grad or id(p) in learning for p in prepared.pipeline.unet.parameters())


@pytest.mark.parametrize(
    "settings",
    [{"accumulate": 4}, {"gradient_checkpointing": True}, pytest.param({"compile": True}, marks=pytest.mark.slow)],
)
def test_saving_memory_or_time_does_not_change_the_result(
    tiny_base: Path, records: Path, tmp_path: Path, settings
) -> None:
    common = {"steps": 3, "batch": 4, "validation_every": 0}
    left = adapt(quick(**common), tmp_path / "a", records=records, base=tiny_base)
    right = adapt(quick(**common, **settings), tmp_path / "b", records=records, base=tiny_base)
    left, right = (load_file(path / "adapter.safetensors") for path in (left, right))
    assert all(torch.allclose(left[name], right[name], atol=2e-5) for name in left)


def test_r17_out_of_memory_halves_and_finishes(
    tiny_base: Path, records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = AdapterTrainer.predict

    def small_memory(self, noisy, times, rows):
        if len(noisy) > 1:
            raise torch.OutOfMemoryError("injected")
        return whole(self, noisy, times, rows)

    config = quick(steps=2, batch=4, validation_every=0)
    plain = adapt(config, tmp_path / "a", records=records, base=tiny_base)
    monkeypatch.setattr(AdapterTrainer, "predict", small_memory)
    folder = adapt(config, tmp_path / "b", records=records, base=tiny_base)
    assert json.loads((folder / "adapter.json").read_text())["micro_batch"] == 1
    left, right = (load_file(path / "adapter.safetensors") for path in (plain, folder))
    assert all(torch.allclose(left[name], right[name], atol=2e-5) for name in left)


def test_two_processes_reach_the_adapter_of_one(tiny_base: Path, records: Path, tmp_path: Path) -> None:
    config = quick(steps=4, batch=4, learning_rate=1e-4)
    one = adapt(config, tmp_path / "one", records=records, base=tiny_base)
    codes = run_pair(lambda: adapt(config, tmp_path / "two", records=records, base=tiny_base), tmp_path)
    assert codes == [0, 0], read_logs(tmp_path)
    left, right = (load_file(path / "adapter.safetensors") for path in (one, tmp_path / "two"))
    assert all(torch.allclose(left[name], right[name], atol=1e-5) for name in left)
    cards = [json.loads((path / "adapter.json").read_text()) for path in (one, tmp_path / "two")]
    assert cards[0]["validation_loss"] == pytest.approx(cards[1]["validation_loss"], abs=1e-6)


# ------------------------------------------------------------------------------------------------------------ batches
def items(count: int, sizes: tuple = ((4, 4),)) -> list[Item]:
    draw = torch.Generator().manual_seed(0)
    return [
        Item(f"i{number}", torch.randn(2, 2, 4, *sizes[number % len(sizes)], generator=draw), 1 + number % 3)
        for number in range(count)
    ]


OBJECTIVE = Objective({"num_train_timesteps": 1000, "prediction_type": "epsilon"})


def test_an_epoch_shows_every_image_once() -> None:
    plan = Batches(items(12), 4, OBJECTIVE, seed=0)
    assert plan.per_epoch == 3
    for epoch in range(2):
        seen = [name for step in range(3) for name in plan.step(3 * epoch + step).ids]
        assert sorted(seen) == sorted(f"i{number}" for number in range(12))
    assert plan.step(0).ids != plan.step(3).ids


def test_batches_are_of_one_bucket() -> None:
    plan = Batches(items(7, sizes=((4, 4), (2, 6))), 2, OBJECTIVE, seed=0)
    shapes = {tuple(plan.step(number).clean.shape) for number in range(plan.per_epoch)}
    assert shapes == {(2, 4, 4, 4), (2, 4, 2, 6)}


def test_a_step_depends_on_seed_and_number_only() -> None:
    left, right = Batches(items(5), 2, OBJECTIVE, seed=1), Batches(items(5), 2, OBJECTIVE, seed=1)
    for number in (7, 0, 3):
        left.step(number)
    assert torch.equal(left.step(4).noise, right.step(4).noise)
    assert torch.equal(left.step(4).clean, right.step(4).clean)
    assert not torch.equal(left.step(4).noise, Batches(items(5), 2, OBJECTIVE, seed=2).step(4).noise)


def test_processes_share_a_step() -> None:
    whole = Batches(items(8), 4, OBJECTIVE, seed=0).step(1)
    parts = [Batches(items(8), 4, OBJECTIVE, seed=0, rank=rank, world=2).step(1) for rank in range(2)]
    assert torch.equal(torch.cat([part.noise for part in parts]), whole.noise)
    assert sum((part.ids for part in parts), []) == whole.ids


def test_caption_dropout_and_prior_images() -> None:
    dropped = Batches(items(6), 6, OBJECTIVE, seed=0, caption_dropout=1.0).step(0)
    assert dropped.prompts.tolist() == [0] * 6
    prior = [Item("p", torch.zeros(1, 2, 4, 4, 4), 9, prior=True)]
    batch = Batches(items(4), 2, OBJECTIVE, seed=0, prior=(prior, 0.5)).step(0)
    assert batch.ids[1::2] == ["p", "p"]
    assert batch.factors.tolist() == [1.0, 0.5, 1.0, 0.5]
    assert batch.prompts.tolist()[1::2] == [9, 9]


# ---------------------------------------------------------------------------------------------------- embedded base
@pytest.mark.parametrize("settings", [{"batch": 2}, {"method": "fulora", "rank": 2}])
def test_the_embedded_base_is_trained_with_the_defaults(make_records, tmp_path: Path, settings: dict) -> None:
    records = make_records({"train": 1, "val": 1}, size=96)
    config = quick(steps=2, validation_every=2, **settings)
    folder = adapt(config, tmp_path / "a", records=records, base="embedded")
    card = json.loads((folder / "adapter.json").read_text())
    assert (card["base"], card["resolution"]) == ("embedded", 128)
    inherited = set((resources.find("data/base") / "train_sha256.txt").read_text().split())
    assert inherited < set((folder / "train_sha256.txt").read_text().split())


def test_an_overflow_in_any_process_skips_the_step_in_all() -> None:
    """fp16 with several processes: what another one adds while gradients are shared is seen by this one's scaler."""
    weight = torch.nn.Parameter(torch.ones(2))
    trainer = AdapterTrainer.__new__(AdapterTrainer)
    trainer.config, trainer.ema = AdaptConfig(), {}
    trainer.trainable = SimpleNamespace(parameters={"weight": weight})
    trainer.ranks = SimpleNamespace(average=lambda gradients: gradients[0].fill_(float("inf")))
    trainer.optimizer = torch.optim.SGD([weight], lr=0.1)
    trainer.fp16 = torch.amp.GradScaler("cpu")
    trainer.fp16.scale(weight.sum()).backward()
    scale = trainer.fp16.get_scale()
    trainer._update()
    assert weight.tolist() == [1.0, 1.0]
    assert trainer.fp16.get_scale() == scale / 2
