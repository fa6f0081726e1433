"""Images per second on the full Stable Diffusion 1.x architecture: the published loop against ours, over batch sizes.

The published loop is diffusers' pipeline in float16, one image per call, PNDM with 30 steps, guidance 7.5. Ours is
`ImageSampler` with guidance, for each sampler, number of steps and batch. Weights are random, which speed does not
depend on; writing files is left out on both sides. Work is PyTorch's own count of floating-point operations; the peak
is what a large matrix product reaches on the same device in the same run.

    python benchmarks/generation_full_size.py --output full_size.json
    python benchmarks/generation_full_size.py --small --device cpu --sides 32 --batches 1 2   # the same code, small
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from diffusers import StableDiffusionPipeline
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from meddap_monai import store
from meddap_monai.core.devices import is_out_of_memory
from meddap_monai.diffusion.bases.architectures import build_autoencoder, build_text_encoder, build_unet
from meddap_monai.diffusion.bases.base import load_base
from meddap_monai.diffusion.bases.prompts import load_prompt_table
from meddap_monai.diffusion.bases.schedulers import build_scheduler
from meddap_monai.diffusion.generation.config import GenerateConfig
from meddap_monai.diffusion.generation.plan import PlanRow
from meddap_monai.diffusion.generation.planning import PlanInputs, make_plan
from meddap_monai.diffusion.generation.sampler import ImageSampler, LoopSettings
from meddap_monai.diffusion.generation.shards import device_name
from tools.tiny_base import build_tiny_base

LOOPS = (("pndm", 30), ("dpmsolver++", 20), ("dpmsolver++", 15))
PROMPT = "an ultrasound photo of benign tumor in breast"


def main(arguments: list[str] | None = None) -> None:
    options = _options(arguments)
    device = torch.device(options.device)
    peak = matrix_peak(device)
    rows = []
    for side in tqdm(options.sides, desc="sides", unit="side"):
        pipeline = build_pipeline(options.small, torch.float16 if device.type == "cuda" else torch.float32, device)
        work = counted_work(pipeline, side)
        rows.append(measure(options, device, "published", ("pndm", 30), 1, side, work, published(pipeline, side)))
        pipeline.to(dtype=torch.bfloat16)
        sampler = ImageSampler(pipeline, LoopSettings(compile=options.compile))
        for loop in LOOPS:
            for batch in options.batches:
                row = measure(options, device, "ours", loop, batch, side, work, ours(sampler, loop, batch, side))
                rows.append(row)
                if row["images_per_second"] is None:
                    break
    for row in rows:
        reference = next(item for item in rows if item["loop"] == "published" and item["side"] == row["side"])
        speed, first = row["images_per_second"], reference["images_per_second"]
        row["times_published"] = speed / first if speed and first else None
        row["share_of_peak"] = speed * row["teraflop"] / peak if speed else None
    machine = {"device": device_name(device), "peak_teraflop_per_second": peak, "compile": options.compile}
    machine |= {"network": "small" if options.small else "Stable Diffusion 1.x", "versions": store.versions()}
    store.write_json(options.output, {"machine": machine, "rows": rows})
    print(machine, table(rows), sep="\n")


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--sides", type=int, nargs="+", default=[224, 512], help="pixels, multiples of 8")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16, 64], help="ends where memory runs out")
    parser.add_argument("--seconds", type=float, default=10.0, help="per measurement, at least one batch")
    parser.add_argument("--compile", action="store_true", help="compile our UNet")
    parser.add_argument("--small", action="store_true", help="a tiny network, to see the benchmark run on any machine")
    parser.add_argument("--output", type=Path, default=Path("generation_full_size.json"))
    return parser.parse_args(arguments)


def build_pipeline(small: bool, dtype: torch.dtype, device: torch.device) -> Any:
    """Return a Stable Diffusion pipeline with random weights."""
    with tempfile.TemporaryDirectory() as folder:
        tiny: Any = load_base(build_tiny_base(Path(folder) / "tiny"))
    if small:
        return tiny.to(device, dtype)
    with device:
        parts = {"vae": build_autoencoder(), "unet": build_unet("sd1"), "text_encoder": build_text_encoder()}
    pipeline: Any = StableDiffusionPipeline(
        **{name: part.requires_grad_(False).eval() for name, part in parts.items()},
        tokenizer=tiny.tokenizer,
        scheduler=tiny.scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device, dtype)


def counted_work(pipeline: Any, side: int) -> dict[str, float]:
    """Return teraFLOP of one UNet call and of one decoding for one image of `side` pixels."""
    latent = side // pipeline.vae_scale_factor
    with torch.device("meta"):
        unet, vae = (type(part).from_config(part.config).eval() for part in (pipeline.unet, pipeline.vae))
        noise = torch.zeros(1, unet.config.in_channels, latent, latent)
        words = torch.zeros(1, 77, unet.config.cross_attention_dim)
        with torch.no_grad(), FlopCounterMode(display=False) as of_unet:
            unet(noise, torch.zeros(1), encoder_hidden_states=words)
        with torch.no_grad(), FlopCounterMode(display=False) as of_decoder:
            vae.decode(noise)
    return {"unet": of_unet.get_total_flops() / 1e12, "decode": of_decoder.get_total_flops() / 1e12}


def matrix_peak(device: torch.device) -> float:
    """Return teraFLOP per second of a large bfloat16 matrix product."""
    side = 8192 if device.type == "cuda" else 1024
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    timed(lambda: left @ right, 0.0, device)
    seconds, count = timed(lambda: left @ right, 1.0, device)
    return 2 * side**3 * count / seconds / 1e12


def published(pipeline: Any, side: int) -> Callable[[], Any]:
    pipeline.scheduler = build_scheduler("pndm", pipeline.scheduler)
    return lambda: pipeline(PROMPT, height=side, width=side, num_inference_steps=30, guidance_scale=7.5)


def ours(sampler: ImageSampler, loop: tuple[str, int], batch: int, side: int) -> Callable[[], Any]:
    config = GenerateConfig(counts=batch, scheduler=loop[0], steps=loop[1], height=side, width=side)
    wanted = PlanInputs(["benign"], {}, {}, (side, side))
    rows: list[PlanRow] = list(make_plan(config, load_prompt_table("breast"), wanted))
    return lambda: sampler.sample(rows)


def measure(
    options: argparse.Namespace,
    device: torch.device,
    name: str,
    loop: tuple[str, int],
    batch: int,
    side: int,
    work: dict[str, float],
    make: Callable[[], Any],
) -> dict[str, Any]:
    """Return one row of the table; the speed is None where memory ran out."""
    scheduler, steps = loop
    calls = 2 * (steps + (scheduler == "pndm"))  # both guidance halves; PNDM needs one call more than it has steps
    row = {"side": side, "loop": name, "scheduler": scheduler, "steps": steps, "batch": batch}
    row |= {"teraflop": calls * work["unet"] + work["decode"], "images_per_second": None, "gigabytes": None}
    try:
        make()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        seconds, count = timed(make, options.seconds, device)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return row
    row["images_per_second"] = batch * count / seconds
    if device.type == "cuda":
        row["gigabytes"] = torch.cuda.max_memory_allocated(device) / 1e9
    return row


def timed(make: Callable[[], Any], seconds: float, device: torch.device) -> tuple[float, int]:
    """Repeat `make` for about so many seconds; return the seconds it took and how often it ran."""
    count, begun = 0, time.perf_counter()
    while count == 0 or time.perf_counter() - begun < seconds:
        make()
        count += 1
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return time.perf_counter() - begun, count


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["| px | loop | steps | batch | images/s | times published | share of the peak | GB |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        cells = [row["side"], f"{row['loop']}, {row['scheduler']}", row["steps"], row["batch"]]
        shown = {"images_per_second": ".2f", "times_published": ".2f", "share_of_peak": ".1%", "gigabytes": ".1f"}
        cells += ["-" if row[key] is None else format(row[key], kind) for key, kind in shown.items()]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
