"""One real step of USLoRA on the full Stable Diffusion 1.x architecture (random weights, 5 GB of memory)."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adapter_material import card_of, quick
from PIL import Image

from meddap_monai.core.records import pixel_hash
from meddap_monai.diffusion.adapters import adapter as adapters
from meddap_monai.diffusion.adapters.file import save_adapter
from meddap_monai.diffusion.adapting.batches import Batches, Item
from meddap_monai.diffusion.adapting.latent_cache import Framing, LatentCache
from meddap_monai.diffusion.adapting.losses import Denoising
from meddap_monai.diffusion.adapting.methods.uslora import USLoRA
from meddap_monai.diffusion.adapting.stage import make_optimizer
from meddap_monai.diffusion.adapting.trainer import AdapterTrainer
from meddap_monai.diffusion.bases.architectures import build_autoencoder, build_text_encoder, build_unet
from meddap_monai.diffusion.bases.base import Base, load_base
from meddap_monai.diffusion.bases.conditioning import cached_prompts
from meddap_monai.diffusion.bases.noise import Objective


@pytest.fixture(scope="module")
def pipeline(tiny_base: Path) -> Any:
    from diffusers import StableDiffusionPipeline

    small: Any = load_base(tiny_base)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parts = {"vae": build_autoencoder(), "unet": build_unet("sd1"), "text_encoder": build_text_encoder()}
    full = StableDiffusionPipeline(
        **parts, tokenizer=small.tokenizer, scheduler=small.scheduler, safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    for part in parts.values():
        part.requires_grad_(False).eval()
    full.__dict__["_meddap_base"] = Base("full", None)
    return full


@pytest.mark.slow
def test_a_real_step_on_the_full_architecture(pipeline: Any, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    record = {"id": "a", "image": str(tmp_path / "a.png"), "sha256": pixel_hash(pixels)}
    moments = LatentCache(tmp_path / "cache", pipeline.vae, "vae").get(record, Framing(64, 64))
    assert moments.shape == (1, 2, 4, 8, 8)
    words = cached_prompts(pipeline, ["", "an ultrasound photo of benign tumor in breast"], tmp_path / "cache", "text")
    assert words.hidden.shape[-1] == 768

    config = quick(steps=2, batch=1).filled()
    trainable = USLoRA().prepare(pipeline, config, {})
    assert sum(parameter.numel() for parameter in trainable.parameters.values()) == 797_184
    objective = Objective(pipeline.scheduler.config)
    optimizer = make_optimizer(config, trainable.groups(config.weight_decay), torch.device("cpu"))
    batches = Batches([Item("a", moments, 1)], 1, objective, seed=0)
    AdapterTrainer(
        config,
        pipeline.unet,
        trainable,
        optimizer,
        batches,
        Denoising(objective),
        lambda: words,
        8,
        torch.device("cpu"),
    ).run()
    weights = trainable.result(trainable.copy())
    adapters.injection.remove(pipeline.unet, "train")

    save_adapter(tmp_path / "adapter", weights, card_of(pipeline))
    found = adapters.load_adapter(pipeline, tmp_path / "adapter")
    assert (found.parameters, found.sets) == (797_184, {"unet": "attention"})
    assert found.effect > 0
