"""Classifier guidance from the empty prompt: three variants and several scales, judged by another classifier.

A latent classifier is trained on split train; the base draws without a prompt (guidance scale 1) and the classifier
alone steers it. Judge: HOG and logistic regression on real training images, as in base_quality.py.

    python benchmarks/classifier_guidance.py --records index/records.jsonl --output guidance
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from base_quality import classifier, features, real_sets, with_flips
from PIL import Image

from meddap_monai import store
from meddap_monai.diffusion.base import base_card, load_base
from meddap_monai.diffusion.guidance import VARIANTS, ClassifierGuide
from meddap_monai.diffusion.latentclassifier import default_config, load_latent_classifier, train_latent_classifier


def main() -> None:
    """Read the command line, compare, write comparison.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=Path, required=True)
    parser.add_argument("--base", default="embedded")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--per-class", type=int, default=6)
    parser.add_argument("--scales", type=float, nargs="+", default=[2.0, 10.0])
    parser.add_argument("--start", type=float, default=0.1)
    parser.add_argument("--simulated-device", default="Phantom A")
    given = parser.parse_args()
    train, held = real_sets(given.records, given.simulated_device, int(base_card(given.base)["resolution"]))
    judge = classifier().fit(features(with_flips(train["pixels"])), np.tile(train["class"], 2))
    pipeline: Any = load_base(given.base)
    found = {}
    for variant in VARIANTS:
        folder = given.output / ("noisy" if variant == "noisy" else "clean")
        train_latent_classifier(default_config(variant), folder, records=given.records, base=given.base)
        network, card = load_latent_classifier(folder, given.base)
        names = [name for name in card["classes"] if name in set(train["class"])]
        for scale in (0.0, *given.scales) if variant == "noisy" else given.scales:
            guide = ClassifierGuide(network, scale, given.start, 1.0, variant)
            labels = torch.tensor([card["classes"].index(name) for name in names for _ in range(given.per_class)])
            pixels = draw(pipeline, guide, labels)
            says = judge.predict(features(pixels))
            wanted = np.repeat(names, given.per_class)
            energy = (
                np.abs(np.diff(pixels.astype(float), axis=2)).mean()
                / np.abs(np.diff(held["pixels"].astype(float))).mean()
            )
            found[f"{variant}, scale {scale:g}"] = {
                "agreement": float((says == wanted).mean()),
                "gradient": float(energy),
            }
            rows = [np.concatenate(list(pixels[wanted == name]), axis=1) for name in names]
            with store.atomic_path(given.output / f"{variant}-{scale:g}.png") as temporary:
                Image.fromarray(np.concatenate(rows)).save(temporary, format="PNG")
            print(variant, scale, found[f"{variant}, scale {scale:g}"], flush=True)
    store.write_json(given.output / "comparison.json", found)


@torch.no_grad()
def draw(pipeline: Any, guide: ClassifierGuide, labels: torch.Tensor, steps: int = 20) -> np.ndarray:
    """Return grey pictures (N, H, W) uint8 from the empty prompt, steered by the guide alone, by DDIM."""
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    scheduler.set_timesteps(steps)
    text = pipeline.encode_prompt([""], "cpu", 1, False)[0]
    side, channels = pipeline.unet.config.sample_size, pipeline.unet.config.in_channels
    pictures = []
    for start in range(0, len(labels), 14):
        wanted = labels[start : start + 14]
        noise = [
            torch.randn(channels, side, side, generator=torch.Generator().manual_seed(start + n))
            for n in range(len(wanted))
        ]
        latents = torch.stack(noise)
        for time in scheduler.timesteps:
            output = pipeline.unet(latents, time, text.expand(len(wanted), -1, -1)).sample
            output = guide(latents=latents, timestep=time, model_output=output, scheduler=scheduler, labels=wanted)
            latents = scheduler.step(output, time, latents).prev_sample
        images = pipeline.vae.decode(latents).sample.mean(1).clamp(-1, 1)
        pictures.append(((images + 1) * 127.5).round().to(torch.uint8).numpy())
    return np.concatenate(pictures)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
