"""Adapter training, images per second: the published loop against this package, in turns within one run.

The published loop (MEDDAP, and diffusers' own example) at batch 1: open and crop the image, encode it with the
autoencoder, tokenise and encode the prompt, one step of AdamW on the low-rank layers. This package: the same layers,
the same network, cached latents and prompts, batched, through the engine that ``adapt`` uses.

    python benchmarks/adapter_training.py --base embedded --rounds 5 --seconds 10
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from meddap_monai import store
from meddap_monai.diffusion import preparation
from meddap_monai.diffusion.adapt_config import AdaptConfig
from meddap_monai.diffusion.base import load_base
from meddap_monai.diffusion.conditioning import encode_prompts
from meddap_monai.diffusion.engine import AdapterTrainer
from meddap_monai.diffusion.latent_cache import Framing, views
from meddap_monai.diffusion.methods import uslora
from meddap_monai.diffusion.objective import Objective
from meddap_monai.diffusion.tiny import build_tiny_base
from meddap_monai.diffusion.train import make_optimizer
from meddap_monai.phantom import simulate_image
from meddap_monai.records import pixel_hash, read_records, write_records

CLASSES = ("benign", "malignant", "normal")


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

    def __init__(self, config: AdaptConfig, base: str, records: list, prompts: dict[str, str], device: Any) -> None:
        self.config, self.records, self.prompts, self.device = config, records, prompts, device
        self.pipeline: Any = load_base(base, device=device)
        self.trainable = uslora.prepare(self.pipeline, config)
        self.optimizer = make_optimizer(config, self.trainable.groups(config.weight_decay), device)
        self.objective = Objective(self.pipeline.scheduler.config).to(device)
        (self.height, self.width), _ = preparation.picture_size(self.pipeline, config, base)
        self.draw = torch.Generator().manual_seed(0)
        self.count = 0

    def step(self) -> int:
        """Train one step and return its number of images."""
        record = self.records[self.count % len(self.records)]
        self.count += 1
        picture = views(record, Framing(self.height, self.width))
        if torch.rand((), generator=self.draw) < 0.5:
            picture = picture.flip(-1)
        with torch.no_grad():
            vae = self.pipeline.vae
            output = vae.encode(picture.to(self.device))
            latents = output.latents if hasattr(output, "latents") else output.latent_dist.sample()
            latents = latents * vae.config.scaling_factor
            words = encode_prompts(self.pipeline, [self.prompts[record["class_name"]]])
        noise = torch.randn_like(latents)
        times = torch.randint(self.objective.steps, (1,), generator=self.draw).to(self.device)
        noisy, target = self.objective.diffuse(latents, noise, times)
        answer = self.pipeline.unet(noisy, times, encoder_hidden_states=words.hidden, return_dict=False)[0]
        self.objective.errors(answer, target).mean().backward()
        torch.nn.utils.clip_grad_norm_(list(self.trainable.parameters.values()), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return 1


class OurLoop:
    """The engine of ``adapt`` on cached latents."""

    def __init__(self, config: AdaptConfig, base: str, records: list, folder: Path) -> None:
        started = time.perf_counter()
        flag = store.InterruptFlag()
        self.prepared = preparation.prepare(config.filled(), folder, records, base, flag)
        self.encoding = time.perf_counter() - started
        prepared = self.prepared
        optimizer = make_optimizer(config, prepared.trainable.groups(config.weight_decay), prepared.device)
        self.trainer = AdapterTrainer(
            prepared.config, prepared.unet, prepared.trainable, optimizer, prepared.batches, prepared.objective,
            prepared.prompts, prepared.factor, prepared.device,
        )  # fmt: skip
        self.batches = iter(prepared.batches)
        self.batch = config.batch

    def step(self) -> int:
        """Train one step and return its number of images."""
        self.trainer.state.iteration += 1
        self.trainer._iteration(self.trainer, next(self.batches))
        return self.batch


def images_per_second(loop: Any, seconds: float, device: torch.device, clock: Any = time.perf_counter) -> float:
    """Run whole steps for about `seconds` of `clock`."""
    images, started = 0, clock()
    while clock() - started < seconds:
        images += loop.step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return images / (clock() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="embedded", help="'embedded', 'tiny' or a Stable Diffusion folder")
    parser.add_argument("--batch", type=int, nargs="*", default=[1, 4, 8])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0, help="per loop and round")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--side", type=int, default=512, help="pixels of the images on disk")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall", help="cpu: seconds of this process, on a busy machine"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = str(build_tiny_base(folder / "tiny", resolution=64)) if options.base == "tiny" else options.base
        records = read_records(simulated_records(folder, 8, options.side), full=True)
        config = AdaptConfig(device=options.device, precision=options.precision, samples_per_class=0)
        ours = {}
        for batch in options.batch:
            settings = AdaptConfig(**{**vars(config), "batch": batch})
            ours[f"ours, batch {batch}"] = OurLoop(settings, base, records, folder / f"b{batch}")
        first = next(iter(ours.values())).prepared
        device = first.device
        published = PublishedLoop(config.filled(), base, records, first.class_prompts, device)
        loops = {"published, batch 1": published, **ours}
        for loop in loops.values():
            images_per_second(loop, options.seconds / 4, device, clock)
        speeds: dict[str, list[float]] = {key: [] for key in loops}
        for _ in range(options.rounds):
            for key, loop in loops.items():
                speeds[key].append(images_per_second(loop, options.seconds, device, clock))
        print(json.dumps(summary(options, first, speeds, ours), indent=2))


def summary(options: Any, prepared: Any, speeds: dict[str, list[float]], ours: dict[str, OurLoop]) -> dict[str, Any]:
    """Return machine, work, speeds and ratios; a ratio is taken within a round, its range is over the rounds."""
    reference = next(iter(speeds.values()))
    network = prepared.pipeline.unet
    rows = {}
    for key, values in speeds.items():
        ratios = [value / other for value, other in zip(values, reference, strict=True)]
        rows[key] = {
            "images_per_second": round(statistics.median(values), 2),
            "ratio": round(statistics.median(ratios), 2),
            "ratio_range": [round(min(ratios), 2), round(max(ratios), 2)],
        }
    return {
        "machine": {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads()},
        "device": torch.cuda.get_device_name() if prepared.device.type == "cuda" else "cpu",
        "versions": store.versions(),
        "work": {
            "base": options.base,
            "unet_parameters": sum(p.numel() for n, p in network.named_parameters() if ".lora_" not in n),
            "adapter_parameters": sum(p.numel() for p in prepared.trainable.parameters.values()),
            "pixels": list(prepared.size),
            "precision": options.precision,
            "image_side_on_disk": options.side,
            "rounds": options.rounds,
            "seconds": options.seconds,
            "clock": options.clock,
        },
        "seconds_to_load_and_encode_24_images": {key: round(loop.encoding, 2) for key, loop in ours.items()},
        "speeds": rows,
    }


if __name__ == "__main__":
    main()
