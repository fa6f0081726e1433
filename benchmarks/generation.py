"""Images per second of our sampling against the published loop, side by side, with KID and FID beside each speed.

The published loop (MEDDAP): one image per call of diffusers' pipeline, PNDM with 30 steps, guidance 7.5, the adapter's
layers applied beside the base's, a PNG file per image. Ours: `ImageSampler` as the stage ``generate`` uses it, adapters
fused, PNG files written too. Rounds alternate between the two, so that a busy machine slows both.

    python benchmarks/generation.py --images 1000 --output generation.json

Quality is judged against real images (``--records``; without it against simulated ones), see `generation_quality`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from generation_quality import compare, latent_features
from judging import features as hog_features
from machine import processor_name
from PIL import Image
from tqdm import tqdm

from meddap_monai import store
from meddap_monai.core.records import read_records
from meddap_monai.diffusion.adapters.adapter import load_adapter
from meddap_monai.diffusion.bases.base import load_base, open_base
from meddap_monai.diffusion.bases.prompts import load_prompt_table
from meddap_monai.diffusion.bases.schedulers import build_scheduler
from meddap_monai.diffusion.generation.config import GenerateConfig
from meddap_monai.diffusion.generation.marking import grey_of, synthetic_field
from meddap_monai.diffusion.generation.plan import PlanRow, batches
from meddap_monai.diffusion.generation.planning import PlanInputs, make_plan
from meddap_monai.diffusion.generation.stage import open_sampler
from meddap_monai.images.framing import crop_top
from meddap_monai.images.writing.write import write_synthetic_png
from meddap_monai.phantom.simulation import simulate_image

VARIANTS: dict[str, dict[str, Any]] = {
    "ours, float32": {},
    "ours, float32, guidance in 0 to 0.8": {"guidance_interval": (0.0, 0.8)},
    "ours, float32, 10 steps": {"steps": 10},
    "ours, bfloat16": {"precision": "bf16"},
    "ours, bfloat16, 10 steps, guidance in 0 to 0.8": {
        "precision": "bf16",
        "steps": 10,
        "guidance_interval": (0.0, 0.8),
    },
    "ours, float32, compiled": {"compile": True},
    "ours, bfloat16, compiled": {"compile": True, "precision": "bf16"},
}
PUBLISHED = "published loop"
PART = 16


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    classes = options.classes.split(",")
    makers = {PUBLISHED: published_loop(options, classes)}
    makers |= {name: our_loop(options, classes, keys) for name, keys in VARIANTS.items()}
    speeds = measure_speed(makers, options, clock) if options.rounds else {}
    quality = measure_quality(makers, options, classes) if options.images else {}
    document = {"machine": machine(options), "speed": speeds, "quality": quality}
    store.write_json(options.output, document)
    print(table(document))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="embedded")
    parser.add_argument("--adapter", help="adapter folder, loaded by both")
    parser.add_argument("--records", type=Path, help="records of real images; without it simulated images")
    parser.add_argument("--classes", default="benign,malignant")
    parser.add_argument("--prompts", default="breast")
    parser.add_argument("--images", type=int, default=0, help="images per loop for KID and FID, 1,000 or more; 0: none")
    parser.add_argument("--rounds", type=int, default=5, help="of the speed; 0: none")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--guidance", type=float, default=GenerateConfig().guidance_, help="of our loop")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=("cpu", "wall"), default="wall")
    parser.add_argument("--only", default="", help="only these of our variants, separated by ;")
    parser.add_argument(
        "--cache", type=Path, help="folder that keeps the images for KID, to go on after an interruption"
    )
    parser.add_argument("--output", type=Path, default=Path("generation.json"))
    options = parser.parse_args()
    for name in list(VARIANTS):
        if options.only and name not in options.only.split(";"):
            del VARIANTS[name]
    return options


# ------------------------------------------------------------------------------------------------------------ loops
Maker = Callable[[int, int, Path | None], list[np.ndarray]]
"""(how many images, first seed, folder for PNG files or none) -> grey images (H, W) uint8."""


def plan_of(options: argparse.Namespace, classes: list[str], count: int, first: int, **keys: Any) -> list[PlanRow]:
    config = GenerateConfig(counts=-(-count // len(classes)), guidance=options.guidance, **keys)
    side = load_side(options.base)
    rows = list(make_plan(config, load_prompt_table(options.prompts), PlanInputs(classes, {}, {}, (side, side))))
    by_turns = [rows[start :: len(rows) // len(classes)] for start in range(len(rows) // len(classes))]
    mixed = [row for turn in by_turns for row in turn][:count]
    return [replace(row, row=number, seed=first + number) for number, row in enumerate(mixed)]


def load_side(base: str, known: dict[str, int] = {}) -> int:  # noqa: B006 (a cache)
    if base not in known:
        pipeline: Any = load_base(base)
        known[base] = pipeline.unet.config.sample_size * pipeline.vae_scale_factor
    return known[base]


def published_loop(options: argparse.Namespace, classes: list[str]) -> Maker:
    pipeline: Any = load_base(options.base)
    if options.adapter:
        load_adapter(pipeline, options.adapter)
    pipeline.scheduler = build_scheduler("pndm", pipeline.scheduler)

    def make(count: int, first: int, folder: Path | None) -> list[np.ndarray]:
        images = []
        for row in plan_of(options, classes, count, first):
            draw = torch.Generator().manual_seed(row.seed)
            image = pipeline(row.prompt, num_inference_steps=30, guidance_scale=7.5, generator=draw).images[0]
            if folder is not None:
                image.save(folder / f"{row.row}.png")
            images.append(grey_of(np.asarray(image)))
        return images

    return make


def our_loop(options: argparse.Namespace, classes: list[str], keys: dict[str, Any]) -> Maker:
    adapters = [options.adapter] if options.adapter else []
    config = GenerateConfig(device="cpu", guidance=options.guidance, **keys)
    sampler = open_sampler(config, options.base, adapters).__enter__()
    steps = {"steps": keys["steps"]} if "steps" in keys else {}

    def make(count: int, first: int, folder: Path | None) -> list[np.ndarray]:
        images: list[np.ndarray] = []
        for rows in batches(plan_of(options, classes, count, first, **steps), options.batch):
            made = [grey_of(image) for image in sampler.sample(rows)]
            for row, image in zip(rows, made, strict=True):
                if folder is not None:
                    write_synthetic_png(folder / f"{row.row}.png", image, synthetic_field(row, {}))
            images += made
        return images

    return make


# ------------------------------------------------------------------------------------------------------------ speed
def measure_speed(
    makers: dict[str, Maker], options: argparse.Namespace, clock: Callable[[], float]
) -> dict[str, dict[str, Any]]:
    """Return per loop its images/s and its ratio to the published loop, round by round."""
    counts = {name: 4 if name == PUBLISHED else 2 * options.batch for name in makers}
    rates: dict[str, list[float]] = {name: [] for name in makers}
    with tempfile.TemporaryDirectory() as folder:
        for name, make in makers.items():
            make(1 if name == PUBLISHED else options.batch, 0, Path(folder))  # a whole batch, its shape is compiled
        for number in tqdm(range(options.rounds), desc="speed", unit="round"):
            for name, make in makers.items():
                begun = clock()
                make(counts[name], 1000 * number, Path(folder))
                rates[name].append(counts[name] / (clock() - begun))
    found = {}
    for name, values in rates.items():
        ratios = [ours / theirs for ours, theirs in zip(values, rates[PUBLISHED], strict=True)]
        found[name] = {
            "images_per_second": statistics.median(values),
            "ratio": statistics.median(ratios),
            "ratio_low": min(ratios),
            "ratio_high": max(ratios),
        }
    return found


# ---------------------------------------------------------------------------------------------------------- quality
def measure_quality(makers: dict[str, Maker], options: argparse.Namespace, classes: list[str]) -> dict[str, Any]:
    """Return FID and KID of every loop in both extractors, and the interval of the KID difference."""
    real = reference_images(options, classes)
    vae = load_base(options.base).vae  # type: ignore[attr-defined]
    extractors: dict[str, Callable[[list[np.ndarray]], np.ndarray]] = {
        "hog": hog_features,
        "autoencoder": lambda images: latent_features(images, vae),
    }
    sets = make_sets(makers, options)
    found: dict[str, Any] = {"real_images": len(real), "images": options.images}
    for name, extract in extractors.items():
        reference = extract(real)
        scale = reference.std(0).mean()
        centre = reference.mean(0)
        features = {loop: (extract(images) - centre) / scale for loop, images in sets.items()}
        found[name] = compare(features, (reference - centre) / scale, PUBLISHED)
    return found


def make_sets(makers: dict[str, Maker], options: argparse.Namespace) -> dict[str, list[np.ndarray]]:
    """Make every loop's images for KID, in turns of `PART`, each part kept in the cache where there is one."""
    sets: dict[str, list[np.ndarray]] = {name: [] for name in makers}
    with tqdm(total=options.images * len(makers), desc="quality", unit="image") as bar:
        for start in range(0, options.images, PART):
            count = min(PART, options.images - start)
            for name, make in makers.items():
                sets[name] += list(cached_part(name, make, options, start, count))
                bar.update(count)
    return sets


def cached_part(name: str, make: Maker, options: argparse.Namespace, start: int, count: int) -> np.ndarray:
    if options.cache is None:
        return np.stack(make(count, 1_000_000 + start, None))
    ours = None if name == PUBLISHED else [options.guidance, options.batch]
    settings = [name, open_base(options.base).sha256, options.adapter, ours, start, count]
    path = options.cache / f"{store.hash_configuration(settings)[:16]}.npy"
    if not path.is_file():
        part = np.stack(make(count, 1_000_000 + start, None))
        with store.atomic_path(path) as temporary, temporary.open("wb") as stream:
            np.save(stream, part)
    return np.load(path)


def reference_images(options: argparse.Namespace, classes: list[str]) -> list[np.ndarray]:
    side = load_side(options.base)
    if options.records is None:
        names = [classes[number % len(classes)] for number in range(800)]
        found = [Image.fromarray(simulate_image(name, seed=number)) for number, name in enumerate(names)]
    else:
        found = []
        for record in read_records(options.records):
            if record["class_name"] in classes:
                with Image.open(record["image"]) as image:
                    found.append(image.convert("L"))
    return [np.asarray(crop_top(image, side, side)) for image in found]


# ----------------------------------------------------------------------------------------------------------- report
def machine(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "processor": processor_name(),
        "threads": options.threads,
        "clock": options.clock,
        "rounds": options.rounds,
        "batch": options.batch,
        "base": str(options.base) if options.base == "embedded" else Path(options.base).name,
        "adapter": bool(options.adapter),
        "guidance": options.guidance,
        "reference": "simulated" if options.records is None else "real records",
        "versions": store.versions(),
    }


def table(document: dict[str, Any]) -> str:
    lines = ["| loop | images/s | ratio (lowest to highest round) | KID, FID (HOG) | KID, FID (autoencoder) |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for name in document["speed"] or document["quality"]["hog"]:
        cells = [name, "-", "-"]
        if speed := document["speed"].get(name):
            cells[1] = f"{speed['images_per_second']:.2f}"
            cells[2] = f"{speed['ratio']:.2f} ({speed['ratio_low']:.2f} to {speed['ratio_high']:.2f})"
        for extractor in ("hog", "autoencoder"):
            row = document["quality"].get(extractor, {}).get(name)
            if row is None:
                cells.append("-")
                continue
            low, high = row["kid_difference_low"], row["kid_difference_high"]
            against = "" if name == PUBLISHED else f" (difference {low:+.4f} to {high:+.4f})"
            cells.append(f"{row['kid']:.4f}{against}, {row['fid']:.1f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([json.dumps(document["machine"], indent=2), *lines])


if __name__ == "__main__":
    main()
