"""Pre-training: the linear encoder is exact, words stay apart, a small run opens in diffusers and repeats itself."""

import dataclasses
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from meddap_monai import store
from meddap_monai.core.configuration import build
from meddap_monai.core.records import read_records
from meddap_monai.diffusion.bases.base import load_base
from meddap_monai.diffusion.bases.prompts import load_prompt_table
from meddap_monai.diffusion.pretraining.appearance import LOOKS, apply_look
from meddap_monai.diffusion.pretraining.autoencoder import build_autoencoder, fit_patch_pca
from meddap_monai.diffusion.pretraining.autoencoder_training import AutoencoderTraining, reconstruction_losses
from meddap_monai.diffusion.pretraining.config import PretrainConfig, RefinementConfig
from meddap_monai.diffusion.pretraining.corner_repair import SIZE, CornerTraining
from meddap_monai.diffusion.pretraining.job import PretrainJob
from meddap_monai.diffusion.pretraining.parts import AutoencoderConfig, DenoiserConfig, TextEncoderConfig, ViewsConfig
from meddap_monai.diffusion.pretraining.stage import pretrain
from meddap_monai.diffusion.pretraining.text_encoder import TextEncoderTraining, build_text_encoder
from meddap_monai.diffusion.pretraining.tokenizer import vocabulary_words
from meddap_monai.diffusion.pretraining.unet import build_denoiser
from meddap_monai.diffusion.pretraining.views import cut_views
from meddap_monai.errors import (
    ConfigurationError,
    ForeignOutput,
    Interrupted,
    NonFiniteLoss,
    RecordsError,
    StageError,
)
from meddap_monai.images.framing import crop_top
from meddap_monai.images.provenance import train_hashes
from meddap_monai.phantom.simulation import simulate_image
from tests.pretrain_material import SMALL, weights


# --------------------------------------------------------------------------------------------------------- autoencoder
@pytest.mark.parametrize(
    "config",
    [
        AutoencoderConfig(),
        AutoencoderConfig(channels=(8, 16, 16), latents=4, groups=4),
        AutoencoderConfig(channels=(8, 8), latents=2, groups=2),
    ],
)
def test_the_encoder_is_the_patch_pca_exactly(config: AutoencoderConfig) -> None:
    pixels = np.stack([simulate_image("benign", seed, size=(64, 64)) for seed in range(24)])
    pca = fit_patch_pca(pixels, config)
    vae = build_autoencoder(config, 64, pca)
    images = torch.from_numpy(pixels[:2]).float().div(127.5).sub(1)[:, None]
    with torch.no_grad():
        found = vae.encode(images.expand(-1, 3, -1, -1)).latent_dist
    assert torch.allclose(found.mode(), pca.encode(images), atol=2e-2)
    assert found.std.max() < 1e-5
    assert abs(float(pca.encode(torch.from_numpy(pixels).float().div(127.5).sub(1)[:, None])[:, 0].std()) - 1) < 0.05


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"channels": [4, 16, 16, 32]}, "two equal last widths"),
        ({"channels": [2, 64, 64]}, "autoencoder#channels#0 is 2, expected at least 4"),
        ({"latents": 60}, "too narrow for 60 latents"),
        ({"encoder": "vq"}, "autoencoder#encoder: unknown value 'vq'; expected one of learned, patch_pca"),
    ],
)
def test_impossible_autoencoders(values: dict, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        build(AutoencoderConfig, values, "autoencoder")


def test_blurring_costs_gradient_and_spectrum() -> None:
    images = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    blurred = torch.nn.functional.avg_pool2d(images, 3, 1, 1)
    same, worse = reconstruction_losses(images, images), reconstruction_losses(blurred, images)
    assert all(float(value) == 0 for value in same.values())
    assert all(float(value) > 0.1 for value in worse.values())


def test_the_corner_is_repaired_and_the_rest_left_alone() -> None:
    config = AutoencoderConfig(channels=(8, 16, 16), latents=4, groups=4, corner_steps=60)
    pixels = np.stack([simulate_image("benign", seed, size=(32, 32)) for seed in range(16)])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = build_autoencoder(config, 32, fit_patch_pca(pixels, config))
    images = torch.from_numpy(pixels).float().div(127.5).sub(1)[:, None].expand(-1, 3, -1, -1)
    with torch.no_grad():
        latents = vae.encode(images).latent_dist.mode()
        before = vae.decode(latents).sample
    work = CornerTraining(vae, pixels, [str(n) for n in range(16)], config, seed=0)
    for step in range(config.corner_steps):
        work.advance(step)
    with torch.no_grad():
        after = vae.decode(latents).sample
    corner = (slice(None), slice(None), slice(SIZE), slice(SIZE))
    assert (after - images)[corner].abs().mean() < (before - images)[corner].abs().mean()
    assert (after - before)[..., SIZE:, SIZE:].abs().mean() < 0.1


# ---------------------------------------------------------------------------------------------------------------- words
def test_the_text_encoder_keeps_classes_apart(tmp_path: Path) -> None:
    table = load_prompt_table("breast")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokenizer, encoder = build_text_encoder(tmp_path, vocabulary_words([table]), width=32, layers=1, heads=2)
    config = TextEncoderConfig(width=32, layers=1, steps=150, learning_rate=5e-3)
    work = TextEncoderTraining(tokenizer, encoder, [table], config, seed=0)
    first = work.advance(0)
    for step in range(1, config.steps):
        last = work.advance(step)
    assert last["class"] < 0.2 < first["class"]
    assert last["adjective"] < first["adjective"] / 2


@pytest.mark.parametrize(
    ("adjective", "mean", "spread"),
    [("bright", 1, 0), ("dark", -1, 0), ("high-contrast", 0, 1), ("low-contrast", 0, -1), ("high-gain", 1, 0)],
)
def test_looks_do_what_they_say(adjective: str, mean: int, spread: int) -> None:
    image = simulate_image("benign", 3).astype(np.float32) / 255
    changed = apply_look(image, adjective)
    if mean:
        assert (changed.mean() - image.mean()) * mean > 0.05
    if spread:
        assert (changed.std() - image.std()) * spread > 0.03


@pytest.mark.parametrize("adjective", sorted(LOOKS))
def test_looks_keep_shape_and_range(adjective: str) -> None:
    image = simulate_image("malignant", 1).astype(np.float32) / 255
    changed = apply_look(image, adjective)
    assert changed.shape == image.shape
    assert 0 <= changed.min() <= changed.max() <= 1


def test_views_are_captioned_and_repeat_themselves(few_records: Path) -> None:
    rows = [r for r in read_records(few_records, full=True) if r["split"] == "train"]
    config = ViewsConfig(clean=2, changed=2, device_template={"simulated": 1})
    table = load_prompt_table("breast")
    one, two = (cut_views(rows, [table], 32, config, seed=5) for _ in range(2))
    assert np.array_equal(one.pixels, two.pixels)
    assert one.captions == two.captions
    assert one.captions[0].startswith("a simulated ultrasound photo of")
    assert one.changed.sum() > 0
    plain = cut_views(rows, [table], 32, dataclasses.replace(config, captions="none"), seed=5)
    assert set(plain.captions) == {""}


def test_a_class_without_one_caption_is_named(few_records: Path) -> None:
    rows = read_records(few_records, split="train", full=True)
    breast, chest = load_prompt_table("breast"), load_prompt_table("chest")
    with pytest.raises(
        ConfigurationError, match="none of the tables breast: .* has the class 'Benign'.*captions: none"
    ):
        cut_views([rows[0] | {"class_name": "Benign"}], [breast], 32, ViewsConfig(), 0)
    with pytest.raises(ConfigurationError, match="2 of the tables .* has the class 'normal'"):
        cut_views([rows[0] | {"class_name": "normal"}], [breast, chest], 32, ViewsConfig(), 0)
    free = cut_views([rows[0] | {"class_name": "x"}], [breast], 32, ViewsConfig(clean=1, changed=1, captions="none"), 0)
    assert free.captions == ["", ""]
    bare = dataclasses.replace(breast, adjectives={"none": ""})
    name = rows[0]["class_name"]
    assert cut_views(rows[:1], [bare], 32, ViewsConfig(clean=1, changed=1), 0).captions == [bare.prompt(name)] * 2


def test_a_sentence_that_would_be_cut_is_named(tmp_path: Path) -> None:
    table = load_prompt_table("breast")
    long = dataclasses.replace(table, templates=("a " * 25 + "{class}",))
    tokenizer, encoder = build_text_encoder(tmp_path, vocabulary_words([table]), 32, 1, 2)
    with pytest.raises(ConfigurationError, match=r"the sentence '.*a a a .*' has \d+ tokens, expected at most 24"):
        TextEncoderTraining(tokenizer, encoder, [long], TextEncoderConfig(width=32, layers=1), 0)


@pytest.mark.parametrize(("size", "corner"), [((40, 60), (0, 0)), ((60, 40), (10, 0))])
def test_the_plain_crop_is_the_top_square(size: tuple[int, int], corner: tuple[int, int]) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, size[::-1], dtype=np.uint8))
    left, top = corner
    assert np.array_equal(crop_top(image, 40, 40), np.asarray(image.crop((left, top, left + 40, top + 40))))


# ----------------------------------------------------------------------------------------------------------------- UNet
def test_published_size_of_histodiffusion() -> None:
    """HistoDiffusion's widths on 64 x 64 x 3 latents; docs/base.md says what differs from the published code."""
    unet = DenoiserConfig(
        channels=(192, 384, 384, 768, 768),
        attention=(False, True, True, True, True),
        layers=2,
        heads=8,
        groups=32,
        pooled_text=False,
        prediction="epsilon",
    )
    with torch.device("meta"):
        network = build_denoiser(unet, 3, 64, 128)
        shape = {"channels": (128, 256, 512), "latents": 3, "layers": 2, "groups": 32, "attention": True}
        vae = build_autoencoder(AutoencoderConfig(encoder="learned", **shape), 256, None)
    assert vae.config.latent_channels == 3
    assert 2 ** (len(vae.config.block_out_channels) - 1) == 4
    count = sum(p.numel() for p in network.parameters())
    assert count == 398_206_851
    assert sum(p.numel() for p in vae.parameters()) == 55_312_009


# ---------------------------------------------------------------------------------------------------------------- stage
def test_the_result_opens_in_diffusers(small_base: Path) -> None:
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(small_base)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("an ultrasound photo of no tumor in breast", num_inference_steps=2).images[0]
    assert image.size == (32, 32)
    for name in ("base.json", "card.md", "train_sha256.txt", "samples.png", "reconstructions.png"):
        assert (small_base / name).is_file()
    assert store.read_stage(small_base.parent)["state"] == "done"


def test_hashes_are_those_of_the_training_images(small_base: Path, few_records: Path) -> None:
    rows = read_records(few_records, full=True)
    hashes = train_hashes(small_base)
    assert {r["sha256"] for r in rows if r["split"] == "train"} <= hashes
    assert not hashes & {r["sha256"] for r in rows if r["split"] == "val"}


def test_r26_twice_gives_the_same_bytes(small_base: Path, few_records: Path, tmp_path: Path) -> None:
    assert weights(pretrain(SMALL, tmp_path / "out", records=few_records)) == weights(small_base)


@pytest.mark.parametrize("phase", ["text", "autoencoder", "corners", "unet"])
def test_r27_interrupted_in_any_phase_then_resumed(
    phase: str, small_base: Path, few_records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = PretrainJob._run

    def signalled(self, name, steps, work, *others):
        if name == phase:
            step = work.advance

            def advance(number: int) -> dict[str, float]:
                if number == 3:
                    os.kill(os.getpid(), signal.SIGTERM)
                return step(number)

            work.advance = advance
        return whole(self, name, steps, work, *others)

    monkeypatch.setattr(PretrainJob, "_run", signalled)
    with pytest.raises(Interrupted, match=f"{phase} stopped at step 4"):
        pretrain(SMALL, tmp_path / "out", records=few_records)
    monkeypatch.setattr(PretrainJob, "_run", whole)
    assert weights(pretrain(SMALL, tmp_path / "out", records=few_records)) == weights(small_base)


def test_other_records_are_another_run(small_base: Path, simulated_records: Path) -> None:
    with pytest.raises(ForeignOutput, match="another run of pretrain: inputs records"):
        pretrain(SMALL, small_base.parent, records=simulated_records)


SPOILT = dataclasses.replace(SMALL, unet=dataclasses.replace(SMALL.unet, warmup=1, steps=20))


@pytest.fixture
def absurd_rate(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The UNet's learning rate is 1e38, which no configuration may ask for."""
    monkeypatch.setattr("meddap_monai.diffusion.pretraining.unet.schedule", lambda *_: 1e38 / SMALL.unet.learning_rate)
    return monkeypatch


@pytest.mark.usefixtures("absurd_rate")
def test_r18_a_loss_that_is_not_finite_names_step_rate_and_samples(few_records: Path, tmp_path: Path) -> None:
    named = r"pretrain#unet: the loss is nan at step \d+.*learning rate .*images train-"
    with pytest.raises(NonFiniteLoss, match=named):
        pretrain(SPOILT, tmp_path / "out", records=few_records)


def test_r18_weights_that_are_not_finite_are_never_saved(
    few_records: Path, tmp_path: Path, absurd_rate: pytest.MonkeyPatch
) -> None:
    """The step before the loss is seen to be wrong spoils them; a checkpoint of it could never go on."""
    config = dataclasses.replace(SPOILT, checkpoint_every=1)
    with pytest.raises(NonFiniteLoss, match="unet.pt: .*unet.* no longer finite at step 1; .*another output folder"):
        pretrain(config, tmp_path / "out", records=few_records)
    assert not (tmp_path / "out" / "phases" / "unet.pt").exists()
    absurd_rate.undo()
    better = dataclasses.replace(config, unet=dataclasses.replace(config.unet, learning_rate=1e-3))
    with pytest.raises(ForeignOutput, match="configuration unet#learning_rate was 0.0005, now 0.001"):
        pretrain(better, tmp_path / "out", records=few_records)
    pretrain(better, tmp_path / "out", records=few_records, overwrite=True)


@pytest.mark.usefixtures("absurd_rate")
def test_a_damaged_checkpoint_is_named(few_records: Path, tmp_path: Path) -> None:
    with pytest.raises(NonFiniteLoss):
        pretrain(SPOILT, tmp_path / "out", records=few_records)
    (tmp_path / "out" / "phases" / "text.pt").write_bytes(b"garbage")
    with pytest.raises(StageError, match=r"text\.pt: not a checkpoint of this training .UnpicklingError.; delete it"):
        pretrain(SPOILT, tmp_path / "out", records=few_records)


def test_a_gpu_that_is_not_there_is_named_first(few_records: Path, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(ConfigurationError, match="pretrain#device: 'cuda', but there is no GPU"):
        pretrain(dataclasses.replace(SMALL, device="cuda"), tmp_path / "out", records=few_records)


def test_the_patch_pca_follows_its_pictures_to_their_device() -> None:
    """The meta device stands for a GPU: it refuses tensors of the CPU alike."""
    config = AutoencoderConfig(channels=(8, 16, 16), latents=4, groups=4, crop=32)
    pixels = np.stack([simulate_image("benign", seed, size=(32, 32)) for seed in range(4)])
    work = AutoencoderTraining(
        build_autoencoder(config, 32, None), fit_patch_pca(pixels, config), pixels, list("abcd"), config, 0, "meta"
    )
    assert work._encode(torch.zeros(2, 1, 32, 32, device="meta")).shape == (2, 4, 8, 8)


def test_unconditional_with_a_learned_encoder(few_records: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(
        SMALL,
        views=ViewsConfig(clean=1, changed=0, captions="none"),
        autoencoder=dataclasses.replace(SMALL.autoencoder, encoder="learned", channels=(8, 8, 16), steps=2),
        text_encoder=dataclasses.replace(SMALL.text_encoder, steps=0),
        unet=dataclasses.replace(SMALL.unet, steps=2, empty_prompt=1.0, prediction="epsilon", loss="l1"),
    )
    assert (pretrain(config, tmp_path / "out", records=few_records) / "model_index.json").is_file()


def test_no_training_images(make_records, tmp_path: Path) -> None:
    with pytest.raises(RecordsError, match="no real record in split 'train'"):
        pretrain(SMALL, tmp_path / "out", records=make_records({"val": 1}, size=32))


def test_crops_and_latents_must_fit_the_patches() -> None:
    with pytest.raises(ConfigurationError, match=r"pretrain#autoencoder#crop is 60, expected a multiple of 8"):
        AutoencoderConfig(crop=60)
    with pytest.raises(ConfigurationError, match=r"pretrain#refinement#crop is 12, expected a multiple of 8"):
        PretrainConfig(refinement=RefinementConfig(crop=12))
    with pytest.raises(ConfigurationError, match=r"pretrain#autoencoder#latents is 5, expected at most 4"):
        AutoencoderConfig(channels=(32, 32), latents=5, groups=4)


def test_resolution_must_halve() -> None:
    with pytest.raises(ConfigurationError, match="resolution is 100, expected a multiple of 16"):
        PretrainConfig(resolution=100)


def test_weights_are_saved_in_parts_where_asked(few_records: Path, tmp_path: Path) -> None:
    short = dataclasses.replace(
        SMALL,
        part_mb=1,
        autoencoder=dataclasses.replace(SMALL.autoencoder, steps=0, corner_steps=0),
        unet=dataclasses.replace(SMALL.unet, channels=(32, 64), steps=1),
    )
    base = pretrain(short, tmp_path / "out", records=few_records)
    parts = list((base / "unet").glob("*.safetensors"))
    assert len(parts) > 1 and all(part.stat().st_size < 1_000_000 for part in base.rglob("*.safetensors"))
    whole = torch.load(tmp_path / "out" / "phases" / "unet.pt", weights_only=True)["state"]["average"]
    opened = load_base(base).unet.state_dict()
    assert all(torch.equal(opened[name], tensor.half().float()) for name, tensor in whole.items())
