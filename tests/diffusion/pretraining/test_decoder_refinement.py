"""The decoder's last phase: sharper on what the UNet draws, resumable, and nothing else of the base moves."""

import dataclasses
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from meddap_monai.core.records import read_records, write_records
from meddap_monai.diffusion.bases.base import load_base, open_base
from meddap_monai.diffusion.pretraining import decoder_refinement
from meddap_monai.diffusion.pretraining.autoencoder import build_autoencoder, fit_patch_pca
from meddap_monai.diffusion.pretraining.autoencoder_training import gradient_energy
from meddap_monai.diffusion.pretraining.config import RefinementConfig
from meddap_monai.diffusion.pretraining.decoder_refinement import RefinementTraining, cell_power, choose_views
from meddap_monai.diffusion.pretraining.parts import AutoencoderConfig
from meddap_monai.diffusion.pretraining.stage import pretrain
from meddap_monai.diffusion.pretraining.views import Views
from meddap_monai.errors import ConfigurationError, Interrupted
from meddap_monai.phantom.simulation import simulate_image
from tests.pretrain_material import SMALL, weights
from tests.reliability.forked import read_logs, run_pair
from tools.corpus import sharpen

SHORT = dataclasses.replace(
    SMALL,
    autoencoder=dataclasses.replace(SMALL.autoencoder, steps=2, corner_steps=2),
    text_encoder=dataclasses.replace(SMALL.text_encoder, steps=2),
    unet=dataclasses.replace(SMALL.unet, steps=2),
    refinement=RefinementConfig(steps=5, drawn=3, sampling_steps=2, batch=2, crop=16),
    pictures_every=3,
)


@pytest.fixture(scope="module")
def polished(few_records: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrain(SHORT, tmp_path_factory.mktemp("refinement") / "out", records=few_records)


def test_smooth_latents_come_out_sharper() -> None:
    config = AutoencoderConfig(channels=(8, 16, 16), latents=4, groups=4)
    pixels = np.stack([simulate_image("benign", seed, size=(32, 32)) for seed in range(24)])
    pca = fit_patch_pca(pixels, config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = build_autoencoder(config, 32, pca)
    encoder = {name: value.clone() for name, value in vae.encoder.state_dict().items()}
    images = torch.from_numpy(pixels).float().div(127.5).sub(1)[:, None]
    latents = pca.encode(images)
    drawn = torch.nn.functional.avg_pool2d(latents, 3, 1, 1)
    views = Views(pixels, ["a"] * 24, ["a"] * 24, ["benign"] * 24, [str(n) for n in range(24)], np.zeros(24, bool))
    refinement = RefinementConfig(
        steps=80, drawn=24, batch=4, crop=32, batch_drawn=4, energy=0.3, ema=0.9, learning_rate=2e-3
    )
    settings = dataclasses.replace(SHORT, refinement=refinement)
    work = RefinementTraining(vae, views, latents.half(), drawn.half(), np.arange(24), settings)

    def lack() -> float:
        with torch.no_grad():
            made = vae.decoder(drawn).mean(1, keepdim=True)
        return abs(float(np.log(gradient_energy(made) / gradient_energy(images))))

    before = lack()
    for step in range(refinement.steps):
        losses = work.advance(step)
    work.finish()
    assert lack() < before / 2
    assert np.isfinite(list(losses.values())).all()
    assert all(torch.equal(value, encoder[name]) for name, value in vae.encoder.state_dict().items())


def test_power_in_cells_is_that_of_the_picture() -> None:
    fine = torch.zeros(1, 1, 32, 32)
    fine[..., ::2] = 1.0
    power = cell_power(fine)[0]
    assert power.shape == (16, 8)
    assert int(power.sum(0).argmax()) == 7, "an alternating column is the highest horizontal frequency"


def test_every_group_is_drawn_equally_often() -> None:
    groups = ["a"] * 90 + ["b"] * 10
    rows = choose_views(groups, 40, seed=3)
    assert [groups[row] for row in rows].count("b") == 20
    assert np.array_equal(rows, choose_views(groups, 40, seed=3))


def test_r27_interrupted_while_polishing_then_resumed(
    polished: Path, few_records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = RefinementTraining.advance

    def signalled(self: RefinementTraining, step: int) -> dict[str, float]:
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return whole(self, step)

    monkeypatch.setattr(RefinementTraining, "advance", signalled)
    with pytest.raises(Interrupted, match="refinement stopped at step 3"):
        pretrain(SHORT, tmp_path / "out", records=few_records)
    monkeypatch.setattr(RefinementTraining, "advance", whole)
    assert weights(pretrain(SHORT, tmp_path / "out", records=few_records)) == weights(polished)


def test_r27_interrupted_while_drawing(few_records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes minutes at full size: a signal is heard after the batch that it came in."""
    config = dataclasses.replace(SHORT, refinement=dataclasses.replace(SHORT.refinement, drawn=20))
    whole, numbers = decoder_refinement.generator, []

    def signalled(seed: int, *names: object) -> torch.Generator:
        if names[0] == "pretrain/polish/draw":
            numbers.append(names[1])
            if len(numbers) == 1:
                os.kill(os.getpid(), signal.SIGTERM)
        return whole(seed, *names)

    monkeypatch.setattr(decoder_refinement, "generator", signalled)
    with pytest.raises(Interrupted, match="between two phases"):
        pretrain(config, tmp_path / "out", records=few_records)
    assert numbers == list(range(8)), "one batch"
    assert (pretrain(config, tmp_path / "out", records=few_records) / "model_index.json").is_file()


def test_two_processes_come_through_it(few_records: Path, tmp_path: Path) -> None:
    """The first process draws and trains, the second waits and loads."""
    codes = run_pair(lambda: pretrain(SHORT, tmp_path / "out", records=few_records), tmp_path)
    assert codes == [0, 0], read_logs(tmp_path)
    assert (tmp_path / "out" / "base" / "model_index.json").is_file()


def test_a_base_is_sharpened_and_keeps_the_rest(polished: Path, few_records: Path, tmp_path: Path) -> None:
    made = sharpen(SHORT, polished, tmp_path / "out", records=few_records)
    old, new = weights(polished), weights(made)
    assert {name for name in old if old[name] != new[name]} == {"vae"}
    before, after = (load_base(folder).vae.encoder.state_dict() for folder in (polished, made))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert (made / "train_sha256.txt").read_text() == (polished / "train_sha256.txt").read_text()


def test_sharpening_keeps_what_the_base_says_of_itself(few_records: Path, tmp_path: Path) -> None:
    """Fewer images and other settings than the base was trained with: its noise schedule and what it saw stay."""
    epsilon = dataclasses.replace(SHORT, unet=dataclasses.replace(SHORT.unet, prediction="epsilon"))
    base = pretrain(epsilon, tmp_path / "first", records=few_records)
    few = tmp_path / "few" / "records.jsonl"
    write_records(few, [row for row in read_records(few_records, full=True) if row["split"] == "train"][:3])
    made = sharpen(SHORT, base, tmp_path / "out", records=few)
    for name in ("scheduler/scheduler_config.json", "train_sha256.txt"):
        assert (made / name).read_bytes() == (base / name).read_bytes()
    before, after = open_base(base).card, open_base(made).card
    assert after["prediction_type"] == "epsilon" and after["images"] == before["images"] > 3
    assert after["steps"] == before["steps"] | {"refinement": 10, "corners": 4}
    assert after["sharpened_from"] == before["sha256"] != after["sha256"]
    assert f"Trained on {before['images']} images as base" in (made / "card.md").read_text()
    other = dataclasses.replace(SHORT, prompts=("breast", "chest"))
    with pytest.raises(
        ConfigurationError, match=r"its prompts: \['breast'\], the configuration's: \['breast', 'chest'\]"
    ):
        sharpen(other, base, tmp_path / "other", records=few_records)


def test_without_steps_the_decoder_stays(polished: Path, few_records: Path, tmp_path: Path) -> None:
    quiet = dataclasses.replace(
        SHORT,
        refinement=RefinementConfig(steps=0),
        autoencoder=dataclasses.replace(SHORT.autoencoder, corner_steps=0),
    )
    assert weights(sharpen(quiet, polished, tmp_path / "out", records=few_records)) == weights(polished)
    assert not (tmp_path / "out" / "phases" / "drawn.safetensors").exists()
