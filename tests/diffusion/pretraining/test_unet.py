"""The UNet's training: classes, captions and the empty prompt, both predictions, the average that is kept."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from meddap_monai.diffusion.pretraining.job import PretrainJob
from meddap_monai.diffusion.pretraining.parts import DenoiserConfig, ViewsConfig
from meddap_monai.diffusion.pretraining.training_curves import Curve, minutes, read_curves
from meddap_monai.diffusion.pretraining.unet import Cache, DenoiserTraining, build_denoiser, build_scheduler
from tests.pretrain_material import SMALL

TOY = DenoiserConfig(channels=(16, 32), heads=2, groups=8, steps=60, batch=8, warmup=5, learning_rate=3e-3, ema=0.9)


def toy_cache() -> Cache:
    """Two classes, one all +1 and one all -1, each with its own text; the empty prompt is row 0."""
    draw = torch.Generator().manual_seed(0)
    latents = torch.cat([torch.ones(8, 4, 4, 4), -torch.ones(8, 4, 4, 4)]).half()
    names = ["plus"] * 8 + ["minus"] * 8
    captions = torch.tensor([1] * 8 + [2] * 8)
    return Cache(latents, captions, torch.randn(3, 6, 32, generator=draw), names, names, np.arange(16) % 8 >= 4)


def training(config: DenoiserConfig) -> DenoiserTraining:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = build_denoiser(config, latents=4, side=4, text_width=32)
    return DenoiserTraining(unet, build_scheduler(config), toy_cache(), config, seed=0, half=False)


def trained(prediction: str) -> tuple[DenoiserTraining, torch.Tensor]:
    """Train on the toy; return it and noise."""
    config = dataclasses.replace(TOY, prediction=prediction)
    work = training(config)
    for step in range(config.steps):
        work.advance(step)
    return work, torch.randn(8, 4, 4, 4, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def say(work: DenoiserTraining, latents: torch.Tensor, time: int, row: int) -> torch.Tensor:
    """Return what the average of the UNet predicts under the text of a row."""
    return work.average(latents, time, work.cache.embeddings[row].expand(len(latents), -1, -1)).sample


def test_velocity_pulls_noise_to_the_class_of_its_text() -> None:
    work, noise = trained("v_prediction")
    scheduler = build_scheduler(work.config)
    scheduler.set_timesteps(1000)
    for row, wanted in ((1, 1.0), (2, -1.0)):
        said = say(work, noise, 600, row)
        clean = scheduler.step(said, 600, noise).pred_original_sample
        assert abs(float(clean.mean()) - wanted) < 0.5


def test_epsilon_says_the_noise() -> None:
    work, noise = trained("epsilon")
    said = say(work, noise, 800, 1)
    assert float(torch.nn.functional.cosine_similarity(said.flatten(), noise.flatten(), dim=0)) > 0.8


@pytest.mark.parametrize(("chance", "rows"), [(1.0, {0}), (0.0, {1, 2}), (0.5, {0, 1, 2})])
def test_the_empty_prompt_takes_its_share(chance: float, rows: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[int] = set()
    loss = DenoiserTraining._loss

    def watched(self, chosen, times, noise, captions):
        seen.update(captions.tolist())
        assert chance or torch.equal(captions, self.cache.captions[chosen])
        return loss(self, chosen, times, noise, captions)

    monkeypatch.setattr(DenoiserTraining, "_loss", watched)
    work = training(dataclasses.replace(TOY, empty_prompt=chance))
    for step in range(3):
        work.advance(step)
    assert seen == rows


def test_changed_pictures_join_later_and_rare_groups_are_drawn_more_often() -> None:
    config = dataclasses.replace(TOY, steps=10, changed_from=0.5, changed_share=0.5, batch=4000, balance=0.0)
    work = training(config)
    shares = []
    for step in (4, 5):
        chosen = work._choose(step, torch.Generator().manual_seed(step)).numpy()
        shares.append(work.cache.changed[chosen].mean())
    assert shares[0] == 0 and abs(shares[1] - 0.5) < 0.05
    work.cache.groups[1:8] = ["other"] * 7
    rare = DenoiserTraining(work.unet, build_scheduler(config), work.cache, config, seed=0, half=False)
    chosen = rare._choose(0, torch.Generator().manual_seed(0))
    assert abs(float((chosen == 0).float().mean()) - 1 / 3) < 0.05


# ---------------------------------------------------------------------------------------------------------------- stage
def test_the_base_holds_the_average_not_the_last_weights(small_base: Path) -> None:
    trained = torch.load(small_base.parent / "phases" / "unet.pt", weights_only=True)["state"]
    written = load_file(small_base / "unet" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(written[name], tensor.half()) for name, tensor in trained["average"].items())
    assert any(not torch.equal(written[name], tensor.half()) for name, tensor in trained["unet"].items())


def test_the_base_s_scheduler_knows_what_the_unet_predicts(small_base: Path) -> None:
    config = json.loads((small_base / "scheduler" / "scheduler_config.json").read_text())
    assert config["prediction_type"] == SMALL.unet.prediction
    assert config["beta_end"] == SMALL.unet.beta_end


def test_tensorboard_keeps_the_curves_and_pictures_of_every_phase(small_base: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    curves = read_curves(small_base.parent / "tensorboard")
    steps = {"text": SMALL.text_encoder.steps, "autoencoder": SMALL.autoencoder.steps, "unet": SMALL.unet.steps}
    assert list(curves) == [*steps, "corners"]
    for phase, name in (("text", "class"), ("autoencoder", "l1"), ("autoencoder", "spectrum"), ("unet", "loss")):
        assert len(curves[phase][name].values) and curves[phase][name].steps[-1] == steps[phase]
    for phase, picture in (("autoencoder", "autoencoder/real above reconstructed"), ("unet", "unet/samples")):
        events = EventAccumulator(str(small_base.parent / "tensorboard" / phase))
        events.Reload()
        assert picture in events.Tags()["images"]


def test_the_card_tells_the_cost_and_shows_the_curves(small_base: Path) -> None:
    card = (small_base / "card.md").read_text()
    assert "1 process on cpu" in card and f"- unet: {SMALL.unet.steps:,} steps" in card
    with Image.open(small_base / "curves.png") as drawn:
        assert drawn.size == (round(4 * 4.2 * 80), round(3.4 * 80))


def test_event_files_that_were_thrown_away_are_no_curves(tmp_path: Path) -> None:
    assert read_curves(tmp_path / "tensorboard") == {}


def test_time_that_a_training_stood_still_is_no_cost() -> None:
    times = np.array([0.0, 60.0, 120.0, 4000.0, 4060.0])  # stopped for more than an hour
    loss = Curve(np.array([20, 40, 60, 80, 100]), np.zeros(5), times)
    assert minutes({"loss": loss}) == pytest.approx(3 * 100 / 80)
    slow = Curve(loss.steps, loss.values, np.arange(5) * 600.0)
    assert minutes({"loss": slow}) == pytest.approx(40 * 100 / 80)
    assert minutes({"loss": Curve(loss.steps[:1], loss.values[:1], times[:1])}) == 0.0


def test_every_view_is_cached_with_its_own_caption(few_records: Path, tmp_path: Path) -> None:
    job = PretrainJob(SMALL, tmp_path, few_records)
    cache, captions = job.cache(), job.views.captions
    assert len(set(captions)) > 3
    assert len(cache.latents) == len(captions) == 9 * (SMALL.views.clean + SMALL.views.changed)
    for number in (0, 4, len(captions) - 1):
        assert torch.equal(cache.embeddings[cache.captions[number]], job.embed([captions[number]])[0])
    assert torch.equal(cache.embeddings[0], job.embed([""])[0])


def test_without_captions_every_view_has_the_empty_prompt(few_records: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, views=ViewsConfig(clean=1, changed=0, captions="none"))
    cache = PretrainJob(config, tmp_path, few_records).cache()
    assert len(cache.embeddings) == 1
    assert set(cache.captions.tolist()) == {0}
