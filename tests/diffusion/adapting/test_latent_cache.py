from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from meddap_monai.core.records import pixel_hash
from meddap_monai.diffusion.adapting.latent_cache import Framing, LatentCache, bucket_size, views
from meddap_monai.diffusion.bases.conditioning import cached_prompts, encode_prompts
from meddap_monai.errors import UnreadableImage
from meddap_monai.images.reading.recorded import CHECK_PIXELS


@pytest.fixture
def record(tmp_path: Path) -> dict:
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return {"id": "a", "image": str(tmp_path / "a.png"), "sha256": pixel_hash(pixels)}


@pytest.mark.parametrize(
    ("size", "resolution", "step", "expected"),
    [
        ((512, 512), 512, 64, (512, 512)),
        ((480, 640), 512, 64, (384, 576)),
        ((1080, 1920), 512, 64, (384, 640)),
        ((300, 400), 512, 64, (256, 384)),
        ((30, 200), 512, 64, (64, 192)),
    ],
)
def test_buckets_keep_the_area_and_never_enlarge(size: tuple, resolution: int, step: int, expected: tuple) -> None:
    assert bucket_size(*size, resolution, step) == expected


@pytest.mark.parametrize(
    ("framing", "count"),
    [(Framing(32, 32), 1), (Framing(32, 32, flip=True), 2), (Framing(16, 24, crops=3, flip=True), 6)],
)
def test_views(record: dict, framing: Framing, count: int) -> None:
    pictures = views(record, framing)
    assert framing.views == count
    assert pictures.shape == (count, 3, framing.height, framing.width)
    assert pictures.min() >= -1 and pictures.max() <= 1
    if framing.flip:
        assert torch.equal(pictures[framing.crops :], pictures[: framing.crops].flip(-1))


def test_fits(record: dict) -> None:
    crop, stretch, pad = (views(record, Framing(32, 32, fit))[0, 0] for fit in ("crop", "stretch", "pad"))
    assert (pad[:4] == -1).all() and (pad[-4:] == -1).all() and (pad[4:-4] > -1).any()
    assert not torch.equal(crop, stretch)


def test_an_image_is_encoded_once_and_exactly(pipeline, record: dict, tmp_path: Path) -> None:
    framing = Framing(32, 32, flip=True)
    cache = LatentCache(tmp_path / "cache", pipeline.vae, "vae")
    first, second = cache.get(record, framing), cache.get(record, framing)
    assert cache.encoded == 1
    assert torch.equal(first, second)
    assert first.shape == (2, 2, 4, 8, 8)
    with torch.no_grad():
        found = pipeline.vae.encode(views(record, framing)).latent_dist
    assert torch.allclose(first[:, 0], found.mean * pipeline.vae.config.scaling_factor, atol=1e-6)
    assert torch.allclose(first[:, 1], found.std * pipeline.vae.config.scaling_factor, atol=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        lambda record, framing, name: (record | {"sha256": "1" * 64}, framing, name),
        lambda record, framing, name: (record, Framing(32, 32, "pad", True), name),
        lambda record, framing, name: (record, framing, "other"),
    ],
)
def test_what_decides_the_content_decides_the_name(
    pipeline, record: dict, tmp_path: Path, change, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CHECK_PIXELS, "0")  # the first change is one of the record alone
    framing = Framing(32, 32, flip=True)
    LatentCache(tmp_path, pipeline.vae, "vae").get(record, framing)
    record, framing, name = change(record, framing, "vae")
    other = LatentCache(tmp_path, pipeline.vae, name)
    other.get(record, framing)
    assert other.encoded == 1


def test_a_damaged_entry_is_made_again(pipeline, record: dict, tmp_path: Path) -> None:
    cache = LatentCache(tmp_path / "cache", pipeline.vae, "vae")
    first = cache.get(record, Framing(32, 32))
    entry = next((tmp_path / "cache").rglob("*.safetensors"))
    entry.write_bytes(entry.read_bytes()[:40])
    assert torch.equal(cache.get(record, Framing(32, 32)), first)
    assert cache.encoded == 2


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage, match="nowhere.png"):
        views({"id": "a", "image": str(tmp_path / "nowhere.png"), "sha256": "0" * 64}, Framing(32, 32))


def test_prompts_are_encoded_once_and_exactly(pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["", "an ultrasound photo of benign tumor in breast"]
    found = cached_prompts(pipeline, words, tmp_path, "encoder")
    with torch.no_grad():
        assert torch.allclose(found.hidden, encode_prompts(pipeline, words).hidden, atol=1e-6)
    monkeypatch.setattr(pipeline, "encode_prompt", None)
    assert torch.equal(cached_prompts(pipeline, words, tmp_path, "encoder").hidden, found.hidden)
