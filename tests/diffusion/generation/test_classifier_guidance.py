"""Classifier guidance: the published formula in every prediction type, on every scheduler, beside adapters."""

from pathlib import Path

import pytest
import torch
from torch import nn

from meddap_monai.core.records import read_records
from meddap_monai.diffusion.bases.base import load_base
from meddap_monai.diffusion.generation.classifier_guidance import (
    VARIANTS,
    ClassifierGuide,
    from_epsilon,
    open_guide,
    to_epsilon,
)
from meddap_monai.diffusion.generation.config import LatentClassifierConfig
from meddap_monai.diffusion.generation.latent_classifier import load_latent_classifier, train_latent_classifier
from meddap_monai.errors import BadBase, ConfigurationError, LeakedRecords, NonFiniteLoss
from meddap_monai.images.provenance import train_hashes
from tools.tiny_base import build_tiny_base

QUICK = LatentClassifierConfig(channels=(16, 16), heads=2, steps=30, batch=8, learning_rate=3e-3)


class Brightness(nn.Module):
    """Two classes; the log-odds are the mean of the latent, so the gradient is known in closed form."""

    def forward(self, latents: torch.Tensor, _times: torch.Tensor) -> torch.Tensor:
        mean = latents.mean((1, 2, 3))
        return torch.stack([-mean, mean], dim=1)


def scheduler(prediction: str = "epsilon"):
    from diffusers import DDIMScheduler

    return DDIMScheduler(beta_schedule="scaled_linear", prediction_type=prediction, clip_sample=False)


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return torch.randn(2, 4, 8, 8, generator=draw), torch.randn(2, 4, 8, 8, generator=draw), torch.tensor([0, 1])


def test_the_published_formula() -> None:
    latents, eps, labels = inputs()
    noise = scheduler()
    found = ClassifierGuide(Brightness(), scale=3.0)(latents, torch.tensor(500), eps, noise, labels)
    point = latents.clone().requires_grad_(True)
    logs = Brightness()(point, labels).log_softmax(1)[torch.arange(2), labels].sum()
    gradient = torch.autograd.grad(logs, point)[0]
    expected = eps - 3.0 * (1 - noise.alphas_cumprod[500]) ** 0.5 * gradient
    assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_there_and_back(kind: str) -> None:
    latents, output, _ = inputs()
    eps = to_epsilon(output, latents, 0.6, 0.8, kind)
    assert torch.allclose(from_epsilon(eps, latents, 0.6, 0.8, kind), output, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
def test_every_prediction_type_is_guided_alike(kind: str, variant: str) -> None:
    latents, eps, labels = inputs()
    guide = ClassifierGuide(Brightness(), scale=5.0, variant=variant)
    keep = float(scheduler().alphas_cumprod[300]) ** 0.5
    blur = (1 - keep**2) ** 0.5
    wanted = guide(latents, 300, eps, scheduler(), labels)
    output = from_epsilon(eps, latents, keep, blur, kind)
    found = to_epsilon(guide(latents, 300, output, scheduler(kind), labels), latents, keep, blur, kind)
    assert torch.allclose(found, wanted, atol=1e-4)


@pytest.mark.parametrize(
    ("scale", "start", "end", "time", "guided"),
    [(0.0, 0, 1, 500, False), (5.0, 0, 1, 500, True), (5.0, 0.6, 1, 500, False), (5.0, 0, 0.4, 500, False)],
)
def test_scale_start_and_end(scale: float, start: float, end: float, time: int, guided: bool) -> None:
    latents, eps, labels = inputs()
    found = ClassifierGuide(Brightness(), scale, start, end)(latents, time, eps, scheduler(), labels)
    assert torch.equal(found, eps) is not guided


@pytest.mark.parametrize("name", ["DDIM", "PNDM", "UniPCMultistep", "DPMSolverMultistep", "EulerDiscrete"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_any_scheduler_is_steered_both_ways(tiny_base: Path, name: str, prediction: str) -> None:
    import diffusers

    pipeline = load_base(tiny_base)
    config = {**pipeline.scheduler.config, "prediction_type": prediction}
    means = []
    for label in (0, 1):
        noise = getattr(diffusers, f"{name}Scheduler").from_config(config)
        noise.set_timesteps(6)
        guide = ClassifierGuide(Brightness(), scale=40.0, start=0.2, labels=torch.tensor([label]))
        latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)) * noise.init_noise_sigma
        text = torch.zeros(1, 24, 32)
        for time in noise.timesteps:
            scaled = noise.scale_model_input(latents, time)
            with torch.no_grad():
                output = pipeline.unet(scaled, time, text).sample
            latents = noise.step(guide(scaled, time, output, noise), time, latents).prev_sample
        assert torch.isfinite(latents).all()
        means.append(float(latents.mean()))
    assert means[1] > means[0] + 0.05


def test_no_labels_is_an_error() -> None:
    latents, eps, _ = inputs()
    with pytest.raises(ConfigurationError, match="no labels were given"):
        ClassifierGuide(Brightness())(latents, 10, eps, scheduler())


# ------------------------------------------------------------------------------------------------------------- training
@pytest.mark.parametrize("times", ["noisy", "clean"])
def test_training_learns_repeats_itself_and_is_skipped(
    tiny_base: Path, records: Path, tmp_path: Path, times: str
) -> None:
    import dataclasses

    config = dataclasses.replace(QUICK, times=times, steps=60)
    folder = train_latent_classifier(config, tmp_path / "a", records=records, base=tiny_base)
    written = (folder / "classifier.safetensors").stat().st_mtime_ns
    again = train_latent_classifier(config, tmp_path / "b", records=records, base=tiny_base)
    assert (folder / "classifier.safetensors").read_bytes() == (again / "classifier.safetensors").read_bytes()
    train_latent_classifier(config, tmp_path / "a", records=records, base=tiny_base)
    assert (folder / "classifier.safetensors").stat().st_mtime_ns == written
    model, card = load_latent_classifier(folder, tiny_base)
    assert card["classes"] == ["benign", "malignant", "normal"]
    assert not any(p.requires_grad for p in model.parameters())
    hashes = train_hashes(folder)
    assert {r["sha256"] for r in read_records(records, full=True) if r["split"] == "train"} <= hashes


def test_another_base_is_refused(tiny_base: Path, records: Path, tmp_path: Path) -> None:
    folder = train_latent_classifier(QUICK, tmp_path / "a", records=records, base=tiny_base)
    with pytest.raises(BadBase, match="trained for another base"):
        load_latent_classifier(folder, build_tiny_base(tmp_path / "other", seed=3))


def test_a_base_that_saw_validation_images_is_refused(records: Path, tmp_path: Path) -> None:
    base = build_tiny_base(tmp_path / "base")
    seen = next(r for r in read_records(records, full=True) if r["split"] == "val")
    (base / "train_sha256.txt").write_text(seen["sha256"] + "\n")
    with pytest.raises(LeakedRecords, match="1 validation, test or unseen image"):
        train_latent_classifier(QUICK, tmp_path / "a", records=records, base=base)


def test_a_loss_that_is_not_finite_stops(
    tiny_base: Path, records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meddap_monai.diffusion.generation.latent_classifier.schedule", lambda *_: 1e38)
    with pytest.raises(NonFiniteLoss, match=r"latent classifier: the loss is nan at step \d+"):
        train_latent_classifier(QUICK, tmp_path / "a", records=records, base=tiny_base)
    assert not (tmp_path / "a" / "classifier.json").exists()


def test_generation_opens_a_guide_by_its_settings(tiny_base: Path, records: Path, tmp_path: Path) -> None:
    from meddap_monai.diffusion.generation.config import ClassifierGuidance

    folder = train_latent_classifier(QUICK, tmp_path / "a", records=records, base=tiny_base)
    guide = open_guide(ClassifierGuidance(classifier=folder, scale=2.0, start=0.1), tiny_base)
    assert (guide.scale, guide.start, guide.variant) == (2.0, 0.1, "noisy")
    with pytest.raises(ConfigurationError, match="none is given, expected a trained folder"):
        open_guide(ClassifierGuidance(), tiny_base)
