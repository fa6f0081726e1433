"""Adapter training, images per second: the published loop against this package, in turns within one run.

The published loop (MEDDAP, and diffusers' own example) at batch 1: open and crop the image, encode it with the
autoencoder, tokenise and encode the prompt, one step of AdamW on the low-rank layers. This package: the same layers,
the same network, cached latents and prompts, batched, through the engine that ``adapt`` uses. Work is counted by
torch's FLOP counter in one step of each loop, memory is the device's peak. ``--base sd1`` builds the full Stable
Diffusion 1.x architecture with random weights (5 GB on disk for the moment; speed does not depend on the values).

    python benchmarks/adapter_training.py --base embedded --clock cpu
    python benchmarks/adapter_training.py --base sd1 --device cuda --precision bf16 --pixels 512 --batch 1 4 8 16
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import processor_name
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from meddap_monai import store
from meddap_monai.core.devices import choose_device
from meddap_monai.core.records import pixel_hash, read_records, write_records
from meddap_monai.diffusion.adapting import preparation
from meddap_monai.diffusion.adapting.config import AdaptConfig
from meddap_monai.diffusion.adapting.latent_cache import Framing, views
from meddap_monai.diffusion.adapting.methods.uslora import USLoRA
from meddap_monai.diffusion.adapting.stage import make_optimizer
from meddap_monai.diffusion.adapting.trainer import AdapterTrainer
from meddap_monai.diffusion.bases.architectures import build_autoencoder, build_text_encoder, build_unet
from meddap_monai.diffusion.bases.base import load_base, open_base
from meddap_monai.diffusion.bases.conditioning import encode_prompts
from meddap_monai.diffusion.bases.noise import Objective
from meddap_monai.diffusion.bases.prompt_choice import table_for
from meddap_monai.phantom.simulation import simulate_image
from tools.tiny_base import build_tiny_base

CLASSES = ("benign", "malignant", "normal")
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def build_full_size(folder: Path) -> Path:
    """Write a Stable Diffusion 1.x folder of full size with random weights; the small vocabulary takes no work away."""
    from diffusers import StableDiffusionPipeline

    small: Any = load_base(build_tiny_base(folder / "small"))
    parts = {"unet": build_unet("sd1"), "vae": build_autoencoder(), "text_encoder": build_text_encoder()}
    full = StableDiffusionPipeline(**small.components | parts, requires_safety_checker=False)
    full.save_pretrained(folder / "sd1")
    return folder / "sd1"


def simulated_records(folder: Path, per_class: int, side: int) -> Path:
    """Write simulated ultrasound pictures, larger than the network's as real ones are, as PNG with records."""
    rows = []
    for label, name in enumerate(CLASSES):
        for number in range(per_class):
            pixels = np.asarray(Image.fromarray(simulate_image(name, seed=number, scanner="own")).resize((side, side)))
            path = folder / "images" / f"{name}{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
            rows.append(
                {
                    "id": path.stem, "image": str(path), "label": label, "class_name": name, "patient": path.stem,
                    "split": "train", "source": "real", "sha256": pixel_hash(pixels),
                }
            )  # fmt: skip
    write_records(folder / "records.jsonl", rows)
    return folder / "records.jsonl"


class PublishedLoop:
    """One image per step; autoencoder and text encoder run every time."""

    def __init__(self, config: AdaptConfig, base: str, records: list, device: torch.device) -> None:
        self.config, self.records, self.device = config, records, device
        self.prompts = {name: table_for(config.prompts, CLASSES).prompt(name, config.adjective) for name in CLASSES}
        dtype = TYPES[config.precision] if device.type != "cpu" else None
        self.pipeline: Any = load_base(base, dtype=dtype, device=device)
        self.trainable = USLoRA().prepare(self.pipeline, config, {})
        self.optimizer = make_optimizer(config, self.trainable.groups(config.weight_decay), device)
        self.objective = Objective(self.pipeline.scheduler.config).to(device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
        (self.height, self.width), _ = preparation.picture_size(self.pipeline, config, open_base(base))
        self.draw = torch.Generator().manual_seed(0)
        self.count = 0

    def step(self) -> int:
        """Train one step and return its number of images."""
        record = self.records[self.count % len(self.records)]
        self.count += 1
        picture = views(record, Framing(self.height, self.width))
        if torch.rand((), generator=self.draw) < 0.5:
            picture = picture.flip(-1)
        with self.cast():
            with torch.no_grad():
                vae = self.pipeline.vae
                output = vae.encode(picture.to(self.device, vae.dtype))
                latents = output.latents if hasattr(output, "latents") else output.latent_dist.sample()
                latents = latents * vae.config.scaling_factor
                words = encode_prompts(self.pipeline, [self.prompts[record["class_name"]]])
            noise = torch.randn_like(latents)
            times = torch.randint(self.objective.steps, (1,), generator=self.draw).to(self.device)
            noisy, target = self.objective.diffuse(latents, noise, times)
            arguments = words.arguments(noisy, self.pipeline.vae_scale_factor)
            answer = self.pipeline.unet(noisy, times, return_dict=False, **arguments)[0]
        self.scaler.scale(self.objective.errors(answer, target).mean()).backward()
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(list(self.trainable.parameters.values()), 1.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return 1

    def cast(self) -> contextlib.AbstractContextManager:
        """Return the mixed-precision context of the run."""
        if self.config.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, TYPES[self.config.precision])


class OurLoop:
    """The engine of ``adapt`` on cached latents."""

    def __init__(self, config: AdaptConfig, base: str, records: list, folder: Path) -> None:
        started = time.perf_counter()
        flag = store.InterruptFlag()
        self.prepared = preparation.prepare(config.filled(), folder, records, open_base(base), flag)
        self.encoding = time.perf_counter() - started
        prepared = self.prepared
        optimizer = make_optimizer(config, prepared.trainable.groups(config.weight_decay), prepared.device)
        self.trainer = AdapterTrainer(
            prepared.config, prepared.unet, prepared.trainable, optimizer, prepared.batches, prepared.loss,
            prepared.prompts, prepared.factor, prepared.device,
        )  # fmt: skip
        self.number, self.batch = 0, config.batch

    def step(self) -> int:
        """Train one step and return its number of images."""
        self.trainer.step(self.number)
        self.number += 1
        return self.batch


def images_per_second(loop: Any, seconds: float, device: torch.device, clock: Any = time.perf_counter) -> float:
    """Run whole steps for about `seconds` of `clock`, at least one."""
    images, started = 0, clock()
    while not images or clock() - started < seconds:
        images += loop.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
    return images / (clock() - started)


def open_loop(make: Callable[[], Any], device: torch.device) -> tuple[Any, dict[str, Any]]:
    """Make a loop, run its first step, and return it with that step's work and the memory that the loop takes."""
    gpu = device.type == "cuda"
    before = torch.cuda.memory_allocated() if gpu else 0
    loop = make()
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    with FlopCounterMode(display=False) as counter:
        images = loop.step()
    facts: dict[str, Any] = {"tflop_per_image": round(counter.get_total_flops() / images / 1e12, 6)}
    if gpu:
        facts["memory_gb"] = round((torch.cuda.max_memory_allocated() - before) / 1e9, 2)
    return loop, facts


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="embedded", help="'embedded', 'tiny', 'sd1' or a Stable Diffusion folder")
    parser.add_argument("--batch", type=int, nargs="*", default=[1, 4, 8, 16])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0, help="per loop and round")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pixels", type=int, help="side of the pictures that are trained on (default: the base's)")
    parser.add_argument("--side", type=int, default=512, help="pixels of the images on disk")
    parser.add_argument("--precision", choices=TYPES, default="fp32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="compile the network of our loops")
    parser.add_argument("--peak", type=float, default=790.0, help="TFLOP/s that the device reaches, for the share")
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall", help="cpu: seconds of this process, on a busy machine"
    )
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    device = choose_device(options.device, "--device")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        built = {"tiny": lambda to: build_tiny_base(to, resolution=64), "sd1": build_full_size}
        base = str(built[options.base](folder / "base") if options.base in built else options.base)
        records = read_records(simulated_records(folder, 8, options.side), full=True)
        config = AdaptConfig(
            device=options.device, precision=options.precision, resolution=options.pixels, samples_per_class=0
        )
        makers: dict[str, Callable[[], Any]] = {
            "published, batch 1": lambda: PublishedLoop(config, base, records, device)
        }
        for batch in options.batch:
            settings = dataclasses.replace(config, batch=batch, compile=options.compile)
            makers[f"ours, batch {batch}"] = partial(OurLoop, settings, base, records, folder / f"b{batch}")
        opened = {key: open_loop(make, device) for key, make in makers.items()}
        for loop, _ in opened.values():
            images_per_second(loop, options.seconds / 4, device, clock)
        speeds: dict[str, list[float]] = {key: [] for key in opened}
        for _ in range(options.rounds):
            for key, (loop, _) in opened.items():
                speeds[key].append(images_per_second(loop, options.seconds, device, clock))
        print(json.dumps(summary(options, opened, speeds, device), indent=2))


def summary(
    options: Any, opened: dict[str, tuple[Any, dict[str, Any]]], speeds: dict[str, list[float]], device: torch.device
) -> dict[str, Any]:
    """Return machine, work, speeds and ratios; a ratio is taken within a round, its range is over the rounds."""
    reference = next(iter(speeds.values()))
    loop = next(iter(opened.values()))[0]
    rows = {}
    for key, values in speeds.items():
        ratios = [value / other for value, other in zip(values, reference, strict=True)]
        rows[key] = opened[key][1] | {
            "images_per_second": round(statistics.median(values), 3),
            "ratio": round(statistics.median(ratios), 2),
            "ratio_range": [round(min(ratios), 2), round(max(ratios), 2)],
        }
        if device.type == "cuda":
            share = statistics.median(values) * opened[key][1]["tflop_per_image"] / options.peak
            rows[key]["share_of_peak"] = round(share, 3)
    ours = {key: other for key, (other, _) in opened.items() if isinstance(other, OurLoop)}
    return {
        "machine": {"processor": processor_name(), "threads": torch.get_num_threads()},
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "versions": store.versions(),
        "work": {
            "base": options.base,
            "unet_parameters": sum(p.numel() for n, p in loop.pipeline.unet.named_parameters() if ".lora_" not in n),
            "adapter_parameters": sum(p.numel() for p in loop.trainable.parameters.values()),
            "pixels": [loop.height, loop.width],
            "precision": options.precision,
            "compile": options.compile,
            "image_side_on_disk": options.side,
            "rounds": options.rounds,
            "seconds": options.seconds,
            "clock": options.clock,
        },
        "seconds_to_load_and_encode_24_images": {key: round(other.encoding, 2) for key, other in ours.items()},
        "speeds": rows,
    }


if __name__ == "__main__":
    main()
