"""Classifier guidance from the empty prompt: three variants and several scales, judged by another classifier.

The real images are halved by patient. A latent classifier learns one half and alone steers the base, which draws from
the empty prompt. The judge, HOG and logistic regression, learns the other half, so it shares neither images nor
features with the guide; its agreement with the first half's real images is the ceiling. Beside agreement stand
diversity within a class, KID to the judge's half (HOG), and the base steered by its prompts instead.

    python benchmarks/classifier_guidance.py --records index/records.jsonl --output guidance

A second call goes on where the first one stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler
from judging import components, features, fit, read_set, write_sheet
from PIL import Image

from meddap_monai import store
from meddap_monai.core.records import Record, class_names, read_records, split_by_group, write_records
from meddap_monai.core.seeds import generator
from meddap_monai.diffusion.bases.base import load_base, open_base
from meddap_monai.diffusion.bases.prompts import load_prompt_table
from meddap_monai.diffusion.generation.classifier_guidance import VARIANTS, ClassifierGuide
from meddap_monai.diffusion.generation.latent_classifier import (
    default_config,
    load_latent_classifier,
    train_latent_classifier,
)
from meddap_monai.evaluation.generative import kernel_distance
from meddap_monai.statistics.shares import wilson

_BATCH = 14


def main() -> None:
    """Read the command line, compare, print and write comparison.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=Path, required=True)
    parser.add_argument("--base", default="embedded")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--per-class", type=int, default=6)
    parser.add_argument("--scales", type=float, nargs="+", default=[10.0, 30.0])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--start", type=float, default=0.1)
    parser.add_argument("--simulated-device", default="Phantom A", help="meta.device of simulated images, left out")
    given = parser.parse_args()
    pipeline: Any = load_base(given.base)
    card = open_base(given.base).card
    guiding, judging = halves(given)
    judge = Judge(read_set(guiding, card["resolution"]), read_set(judging, card["resolution"]))
    names = judge.names
    wanted = np.repeat(names, given.per_class)
    tables = [load_prompt_table(name) for name in card["prompts"]]
    prompts = [next(table for table in tables if name in table.classes).prompt(name) for name in wanted]
    settings = {key: value for key, value in vars(given).items() if key not in ("records", "output", "scales")}
    found = earlier(given.output / "comparison.json", settings | {"base": open_base(given.base).sha256})
    found["found"]["real, the guide's half"] = judge.real

    def compare(label: str, **settings: Any) -> None:
        if label in found["found"]:
            return
        begun = time.monotonic()
        pixels = draw(pipeline, len(wanted), given.steps, **settings)
        seconds = (time.monotonic() - begun) / len(wanted)
        found["found"][label] = judge.says(pixels, wanted) | {"seconds per image": seconds}
        name = label.replace(", scale ", "-").replace(", ", "-").replace(" ", "_")
        write_sheet(given.output / f"{name}.png", (pixels[wanted == kind] for kind in names))
        store.write_json(given.output / "comparison.json", found)
        print(label, {key: np.round(value, 3).tolist() for key, value in found["found"][label].items()}, flush=True)

    compare("not guided")
    guides = {variant: guide_of(variant, given) for variant in VARIANTS}
    labels = torch.tensor([class_names(given.output / "records.jsonl").index(name) for name in wanted])
    for scale in given.scales:
        for variant, guide in guides.items():
            compare(f"{variant}, scale {scale:g}", guide=guide(scale), labels=labels)
    compare("prompt, guidance 2.5", prompts=prompts, guidance=2.5)


def earlier(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Return what an earlier call with the same settings found, or an empty document."""
    document: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    same = {key: value for key, value in document.items() if key != "found"} == settings
    return document if same else settings | {"found": {}}


def halves(given: argparse.Namespace) -> tuple[list[Record], list[Record]]:
    """Return the real images for the guide and for the judge; the guide's stand in ``records.jsonl`` too."""
    real = [
        record
        for record in read_records(given.records, source="real", full=True)
        if (record.get("meta") or {}).get("device") != given.simulated_device
    ]
    parts: dict[str, list[Record]] = {"train": [], "val": []}
    for record in split_by_group(real, {"train": 0.5, "val": 0.5}, seed=0):
        parts[record["split"]].append(record)
    with store.open_stage(given.output, "index", {"half": 0}, {"records": given.records}) as stage:
        write_records(given.output / "records.jsonl", parts["train"])
        counts = {"in": len(real), "out": len(parts["train"]), "rejected": 0}
        stage.finish(counts, classes=class_names(given.records))
    return parts["train"], parts["val"]


class Judge:
    """An independent classifier of the wanted classes, and a reference for diversity and KID.

    Args:
        test: real images for the ceiling.
        train: real images to learn from; as many of each class are the reference of KID.
    """

    def __init__(self, test: dict[str, np.ndarray], train: dict[str, np.ndarray]) -> None:
        self.names = sorted(str(name) for name in set(train["class"]))
        self.model = fit(train)
        raw = features(train["pixels"])
        self.mean, self.basis = components(raw)
        count = min(int((train["class"] == name).sum()) for name in self.names)
        chosen = np.concatenate([np.flatnonzero(train["class"] == name)[:count] for name in self.names])
        self.reference = (raw[chosen] - self.mean) @ self.basis
        few = np.concatenate([np.flatnonzero(test["class"] == name)[:count] for name in self.names])
        self.real = self.says(test["pixels"], test["class"])
        del self.real["interval"]  # its classes differ in size, so hits are not what the mean over classes counts
        self.real["kid"] = kernel_distance((features(test["pixels"][few]) - self.mean) @ self.basis, self.reference)

    def says(self, pixels: np.ndarray, wanted: np.ndarray) -> dict[str, Any]:
        """Return the agreement (mean over classes of one size, 95 % Wilson interval, per class), diversity and KID."""
        described = features(pixels)
        right = self.model.predict(described) == wanted
        per_class = {name: float(right[wanted == name].mean()) for name in self.names}
        alike = [thumbnails(pixels[wanted == name]) for name in self.names]
        apart = [1 - (one @ one.T)[np.triu_indices(len(one), 1)].mean() for one in alike]
        return {
            "agreement": float(np.mean(list(per_class.values()))),
            "interval": list(wilson(int(right.sum()), len(right))),
            "per class": list(per_class.values()),
            "diversity": float(np.mean(apart)),
            "kid": kernel_distance((described - self.mean) @ self.basis, self.reference),
        }


def thumbnails(pixels: np.ndarray) -> np.ndarray:
    """Return unit-length 32 px thumbnails without their mean, (N, 1024)."""
    small = np.stack(
        [np.asarray(Image.fromarray(p).resize((32, 32), Image.Resampling.BOX), np.float64) for p in pixels]
    )
    flat = small.reshape(len(small), -1)
    flat -= flat.mean(1, keepdims=True)
    return flat / np.linalg.norm(flat, axis=1, keepdims=True).clip(1e-9)


def guide_of(variant: str, given: argparse.Namespace) -> Any:
    """Train what a variant needs on the guide's half and return the guide of a scale."""
    config = default_config(variant)
    folder = given.output / f"classifier_{config.times}"
    train_latent_classifier(config, folder, records=given.output / "records.jsonl", base=given.base)
    network, _ = load_latent_classifier(folder, given.base)
    return lambda scale: ClassifierGuide(network, scale, given.start, 1.0, variant)


@torch.no_grad()
def draw(
    pipeline: Any,
    count: int,
    steps: int,
    guide: ClassifierGuide | None = None,
    labels: torch.Tensor | None = None,
    prompts: list[str] | None = None,
    guidance: float = 1.0,
) -> np.ndarray:
    """Return grey pictures (count, side, side) uint8 by DDIM; picture n starts from the same noise in every call.

    Args:
        pipeline: of the base.
        count: pictures.
        steps: of DDIM.
        guide: steers towards `labels`.
        labels: (count,) wanted classes.
        prompts: one per picture; the empty prompt where there are none.
        guidance: classifier-free guidance scale, for `prompts`.
    """
    scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    scheduler.set_timesteps(steps)
    side, channels = pipeline.unet.config.sample_size, pipeline.unet.config.in_channels
    pictures = []
    for start in range(0, count, _BATCH):
        part = range(start, min(start + _BATCH, count))
        latents = torch.stack([torch.randn(channels, side, side, generator=generator(0, "draw", n)) for n in part])
        words = [prompts[n] if prompts else "" for n in part]
        text, empty = pipeline.encode_prompt(words, "cpu", 1, guidance > 1, [""] * len(part))
        for time_step in scheduler.timesteps:
            output = pipeline.unet(latents, time_step, text).sample
            if guidance > 1:
                free = pipeline.unet(latents, time_step, empty).sample
                output = free + guidance * (output - free)
            if guide is not None and labels is not None:
                output = guide(latents, time_step, output, scheduler, labels[start : part.stop])
            latents = scheduler.step(output, time_step, latents).prev_sample
        images = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample.mean(1).clamp(-1, 1)
        pictures.append(((images + 1) * 127.5).round().to(torch.uint8).numpy())
    return np.concatenate(pictures)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
