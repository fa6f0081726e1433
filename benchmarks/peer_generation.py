"""Generation against diffusers' pipeline: images/s in turns, and KID of both against real images.

The peer is ``StableDiffusionPipeline(prompts)`` with the same scheduler, steps, guidance and batch, in float32, and a
PNG file per image. Ours is `ImageSampler` as the stage ``generate`` uses it, with its PNG files. The published loop
(MEDDAP) makes one image per call, PNDM with 30 steps, guidance 7.5.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from kernel_distance import compare
from PIL import Image
from tqdm import tqdm

from meddap_monai import store
from meddap_monai.core.records import read_records
from meddap_monai.diffusion.bases.base import load_base, open_base
from meddap_monai.diffusion.bases.prompts import load_prompt_table
from meddap_monai.diffusion.bases.schedulers import build_scheduler
from meddap_monai.diffusion.generation.config import GenerateConfig
from meddap_monai.diffusion.generation.marking import grey_of, synthetic_field
from meddap_monai.diffusion.generation.plan import PlanRow, batches
from meddap_monai.diffusion.generation.planning import PlanInputs, make_plan
from meddap_monai.diffusion.generation.stage import open_sampler
from meddap_monai.encoders.extractors import build_extractor
from meddap_monai.images.framing import crop_top
from meddap_monai.images.writing.write import write_synthetic_png

PEER, PUBLISHED, EQUAL = "diffusers' pipeline", "published loop", "equal settings"
CLASSES = ["benign", "malignant"]
PART, SIDE = 40, 128
MIDDLE = (0.2, 0.8)
VARIANTS: dict[str, dict[str, Any]] = {
    EQUAL: {},
    "`precision=bf16`": {"precision": "bf16"},
    "`precision=bf16 steps=10 guidance_interval=[0.2, 0.8]`": {
        "precision": "bf16", "steps": 10, "guidance_interval": MIDDLE,
    },
    "`precision=bf16 steps=8 guidance_interval=[0.2, 0.8]`": {
        "precision": "bf16", "steps": 8, "guidance_interval": MIDDLE,
    },
    "`precision=bf16 steps=7 guidance_interval=[0.2, 0.8]`": {
        "precision": "bf16", "steps": 7, "guidance_interval": MIDDLE,
    },
}  # fmt: skip
"""Our loops: the keys of ``generate`` that differ from its defaults."""

Maker = Callable[[int, int, Path | None], list[np.ndarray]]
"""(how many images, first seed, folder for PNG files or none) -> grey images (H, W) uint8."""


def plan_of(count: int, first: int, **keys: Any) -> list[PlanRow]:
    """Return rows of both classes in turn, seeds from `first` on."""
    config = GenerateConfig(counts=-(-count // len(CLASSES)), **keys)
    rows = list(make_plan(config, load_prompt_table("breast"), PlanInputs(CLASSES, {}, {}, (SIDE, SIDE))))
    half = len(rows) // len(CLASSES)
    mixed = [row for number in range(half) for row in rows[number::half]][:count]
    return [replace(row, row=number, seed=first + number) for number, row in enumerate(mixed)]


def peer_loop(base: str, batch: int, scheduler: str, steps: int, guidance: float) -> Maker:
    """Return diffusers' pipeline with some settings."""
    pipeline: Any = load_base(base)
    pipeline.scheduler = build_scheduler(scheduler, pipeline.scheduler)

    def make(count: int, first: int, folder: Path | None) -> list[np.ndarray]:
        images = []
        for rows in batches(plan_of(count, first), batch):
            made = pipeline(
                [row.prompt for row in rows],
                negative_prompt=[row.negative_prompt for row in rows],
                num_inference_steps=steps,
                guidance_scale=guidance,
                generator=[torch.Generator().manual_seed(row.seed) for row in rows],
            ).images
            for row, image in zip(rows, made, strict=True):
                if folder is not None:
                    image.save(folder / f"{row.row}.png")
                images.append(grey_of(np.asarray(image)))
        return images

    return make


def our_loop(base: str, batch: int, keys: dict[str, Any]) -> Maker:
    """Return our sampler with some keys of ``generate``."""
    sampler = open_sampler(GenerateConfig(device="cpu", **keys), base).__enter__()
    steps = {name: keys[name] for name in ("steps", "scheduler", "guidance") if name in keys}

    def make(count: int, first: int, folder: Path | None) -> list[np.ndarray]:
        images: list[np.ndarray] = []
        for rows in batches(plan_of(count, first, **steps), batch):
            made = [grey_of(image) for image in sampler.sample(rows)]
            for row, image in zip(rows, made, strict=True):
                if folder is not None:
                    write_synthetic_png(folder / f"{row.row}.png", image, synthetic_field(row, {}))
            images += made
        return images

    return make


def names() -> list[str]:
    """Return the names of all loops."""
    return [PEER, PUBLISHED, *VARIANTS]


def makers(options: argparse.Namespace) -> dict[str, Callable[[], Maker]]:
    """Return every loop by its name, opened when it is called; the peer has the settings of ``generate``'s defaults."""
    same = GenerateConfig()
    found: dict[str, Callable[[], Maker]] = {
        PEER: lambda: peer_loop(options.base, options.batch, same.schedulers[0], same.steps_, same.guidance_),
        PUBLISHED: lambda: peer_loop(options.base, 1, "pndm", 30, 7.5),
    }
    for name, keys in VARIANTS.items():
        found[name] = lambda keys=keys: our_loop(options.base, options.batch, keys)
    return found


# ---------------------------------------------------------------------------------------------------------- quality
def measure_quality(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return KID and FID of every loop to real images in features of EfficientNet-Lite0, and the KID difference."""
    extractor = build_extractor("efficientnet_lite0")
    real = extractor.extract(_stack(_real_images(options.records)))[0]
    judged = {name: maker for name, maker in makers(options).items() if name not in (PUBLISHED, EQUAL)}
    sets = {name: _images_of(name, maker, options) for name, maker in judged.items()}
    features = {name: extractor.extract(_stack(images))[0] for name, images in sets.items()}
    centre, scale = real.mean(0), real.std(0).mean()
    scaled = {name: (found - centre) / scale for name, found in features.items()}
    return compare(scaled, (real - centre) / scale, PEER)


def _images_of(name: str, open_maker: Callable[[], Maker], options: argparse.Namespace) -> list[np.ndarray]:
    """Return a loop's images; parts that the cache holds are not made again."""
    images: list[np.ndarray] = []
    make: Maker | None = None
    for start in tqdm(range(0, options.images, PART), desc=name, unit="part"):
        count = min(PART, options.images - start)
        facts = [open_base(options.base).sha256, None if name == PEER else VARIANTS[name], options.batch, start, count]
        path = options.cache / f"{store.hash_configuration(facts)[:16]}.npy"
        if not path.is_file():
            make = make or open_maker()
            with store.atomic_path(path) as temporary, temporary.open("wb") as stream:
                np.save(stream, np.stack(make(count, 1_000_000 + start, None)))
        images += list(np.load(path))
    return images


def _real_images(records: Path) -> list[np.ndarray]:
    found = []
    for record in read_records(records):
        if record["class_name"] in CLASSES:
            with Image.open(record["image"]) as image:
                found.append(np.asarray(crop_top(image.convert("L"), SIDE, SIDE)))
    return found


def _stack(images: list[np.ndarray]) -> np.ndarray:
    return np.stack(images)[:, None]
