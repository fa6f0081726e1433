"""Speed, share of the measured peak, and memory: ours against the published loop and against the careful peer."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.append(str(Path(__file__).resolve().parents[1]))

import adapter_training

from benchmarks.gpu_check import peer
from benchmarks.gpu_check.networks import build, counted_work
from meddap_monai.core.devices import is_out_of_memory
from meddap_monai.core.records import read_records
from meddap_monai.diffusion.adapting import preparation
from meddap_monai.diffusion.adapting.config import AdaptConfig
from meddap_monai.diffusion.bases.prompts import load_prompt_table
from meddap_monai.diffusion.generation.config import GenerateConfig
from meddap_monai.diffusion.generation.planning import PlanInputs, make_plan
from meddap_monai.diffusion.generation.sampler import ImageSampler, LoopSettings
from meddap_monai.diffusion.generation.shards import device_name
from tools.tiny_base import build_tiny_base

if TYPE_CHECKING:
    from benchmarks.gpu_check.run import Job

PROMPT = "an ultrasound photo of benign tumor in breast"
PUBLISHED, OURS = ("pndm", 30), ("dpmsolver++", 15)
Row = dict[str, Any]


# ------------------------------------------------------------------------------------------------------------ device
def describe_device(job: Job) -> Row:
    """Return what the device is and what it reaches: large matrix products and a copy."""
    device = torch.device(job.device)
    side, gpu = (8192 if device.type == "cuda" else 256), device.type == "cuda"
    found: Row = {"name": device_name(device), "gpus": torch.cuda.device_count() if gpu else 0}
    for name, dtype in {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}.items():
        left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        timed(lambda left=left, right=right: left @ right, 0.0, device)
        seconds, count = timed(lambda left=left, right=right: left @ right, min(1.0, job.seconds), device)
        found[f"{name}_tflops"] = 2 * side**3 * count / seconds / 1e12
    block = torch.empty(2**30 if gpu else 2**20, dtype=torch.uint8, device=device)
    seconds, count = timed(block.clone, min(0.5, job.seconds), device)
    found["copy_terabytes_per_second"] = 2 * block.numel() * count / seconds / 1e12
    if gpu:
        told = torch.cuda.get_device_properties(device)
        found |= {"memory_gb": told.total_memory / 1e9, "capability": f"{told.major}.{told.minor}"}
        found |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
        found["tf32"] = {"matmul": torch.backends.cuda.matmul.allow_tf32, "cudnn": torch.backends.cudnn.allow_tf32}
    return found


def timed(make: Callable[[], Any], seconds: float, device: torch.device) -> tuple[float, int]:
    """Repeat `make` for about so many seconds; return the seconds it took and how often it ran."""
    _finish(device)
    count, begun = 0, time.perf_counter()
    while count == 0 or time.perf_counter() - begun < seconds:
        make()
        count += 1
        _finish(device)
    return time.perf_counter() - begun, count


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# ---------------------------------------------------------------------------------------------------------- measuring
def measure(job: Job, row: Row, make: Callable[[], Any], count: bool = False) -> Row:
    """Return a row with speed and memory of a loop; the speed is None where memory ran out.

    Args:
        job: device and seconds.
        row: what is measured; with `count` it gets the counted work of an image.
        make: builds the loop, a call that makes images and returns their number.
        count: count the work of the loop's first call.
    """
    device, loop = torch.device(job.device), None
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    try:
        loop = make()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        if count:
            with FlopCounterMode(display=False) as counter:
                images = loop()
            row["teraflop"] = counter.get_total_flops() / images / 1e12
        begun = time.perf_counter()
        images = loop()
        _finish(device)
        row["first_seconds"] = time.perf_counter() - begun
        seconds, times = timed(loop, job.seconds, device)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return row | {"images_per_second": None, "gigabytes": None}
    row["images_per_second"] = images * times / seconds
    row["gigabytes"] = torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None
    return row


def compared(rows: list[Row], peak: float) -> Row:
    """Return the rows with each one's speed as a multiple of the published loop and of the peer at the same batch."""
    first = next((row["images_per_second"] for row in rows if row["loop"] == "published"), None)
    peers = {row["batch"]: row["images_per_second"] for row in rows if row["loop"] == "peer"}
    for row in rows:
        speed, other = row["images_per_second"], peers.get(row["batch"])
        row["times_published"] = speed / first if speed and first else None
        row["times_peer"] = speed / other if speed and other else None
        row["teraflops"] = speed * row["teraflop"] if speed and row.get("teraflop") else None
        row["share_of_peak"] = row["teraflops"] / peak if row["teraflops"] and peak else None
    return {"rows": rows}


# ---------------------------------------------------------------------------------------------------------- training
def training(job: Job, network: str, side: int, batches: tuple[int, ...], compiled: bool = False) -> Row:
    """Measure adapter training (USLoRA) on a network at a side in pixels."""
    side, batches = (32, (1, 2)) if job.toy else (side, batches)
    gpu = job.device != "cpu"
    base = build_tiny_base(job.folder / "tiny")  # gives prompts and card; the network itself is handed in below
    records = read_records(adapter_training.simulated_records(job.folder, 2, 64 if job.toy else 512), full=True)
    rows: list[Row] = []
    for loop, batch, options in _trainings(batches, compiled, side):
        precision = ("fp16" if loop == "published" else "bf16") if gpu else "fp32"
        if network == "embedded":  # whose linear encoder is for float32
            precision = "fp16" if gpu else "fp32"
        given = AdaptConfig(
            device=job.device, precision=precision, resolution=side, samples_per_class=0, batch=batch, **options
        )
        make = partial(_loop, job, loop, network, given, base, records)
        row = {"loop": loop, "batch": batch, "side": side, "precision": precision, **options}
        rows.append(measure(job, row, make, count=not options.get("compile")))
    for row in rows:
        same = [other["teraflop"] for other in rows if other.get("teraflop") and other["loop"] == "ours"]
        row.setdefault("teraflop", same[0] if same else None)
    return {"network": network, "toy": job.toy} | compared(rows, job.peak)


def _trainings(batches: tuple[int, ...], compiled: bool, side: int) -> Iterator[tuple[str, int, Row]]:
    if not compiled:
        yield "published", 1, {}
    for batch in batches:
        if not compiled:
            yield "peer", batch, {}
        yield "ours", batch, {}
        if compiled:
            yield "ours", batch, {"compile": True}
    if not compiled and side >= 512:
        yield "ours", 1, {"gradient_checkpointing": True}


def _loop(job: Job, loop: str, network: str, config: AdaptConfig, base: Path, records: list[Any]) -> Callable[[], int]:
    """Build a training loop on a network that is made in memory in place of the base on disk."""
    dtype = adapter_training.TYPES[config.precision]
    pipeline = build(network, dtype, job.device, job.toy)
    if loop == "peer":
        half = dtype if dtype != torch.float32 else None
        return peer.PeerTraining(pipeline, config.batch, int(config.resolution or 0), [PROMPT], half).step
    with patch.object(preparation, "load_base", return_value=pipeline):
        if loop == "ours":
            folder = job.folder / f"ours-{config.batch}-{time.monotonic_ns()}"
            return adapter_training.OurLoop(config, str(base), records, folder).step
    with patch.object(adapter_training, "load_base", return_value=pipeline):
        return adapter_training.PublishedLoop(config, str(base), records, torch.device(job.device)).step


# -------------------------------------------------------------------------------------------------------- generation
def generation(job: Job, network: str, side: int, batches: tuple[int, ...], compiled: bool = False) -> Row:
    """Measure generation on a network at a side in pixels."""
    side, batches = (32, (1, 2)) if job.toy else (side, batches)
    gpu, rows = job.device != "cpu", []
    half, published = (torch.bfloat16, torch.float16) if gpu else (torch.float32, torch.float32)
    work: dict[str, float] = {}

    def row(loop: str, batch: int, chain: tuple[str, int], dtype: torch.dtype) -> Row:
        calls = 2 * (chain[1] + (chain[0] == "pndm"))  # both guidance halves; PNDM makes one call more than steps
        found = {"loop": loop, "batch": batch, "side": side, "scheduler": chain[0], "steps": chain[1]}
        found |= {"precision": str(dtype).removeprefix("torch."), "teraflop": calls * work["unet"] + work["decode"]}
        return found | ({"compile": True} if compiled else {})

    pipeline = build(network, published, job.device, job.toy)
    work |= counted_work(pipeline, side)
    if not compiled:
        make = partial(peer.draw, pipeline, PUBLISHED, 7.5, 1, side, PROMPT)
        rows.append(measure(job, row("published", 1, PUBLISHED, published), make))
    pipeline.to(dtype=half)
    for batch in batches:
        if not compiled:
            make = partial(peer.draw, pipeline, OURS, 2.5, batch, side, PROMPT)
            rows.append(measure(job, row("peer", batch, OURS, half), make))
        rows.append(measure(job, row("ours", batch, OURS, half), partial(_draw, pipeline, batch, side, compiled)))
    return {"network": network, "toy": job.toy, "work": work} | compared(rows, job.peak)


def _draw(pipeline: Any, batch: int, side: int, compiled: bool) -> Callable[[], int]:
    """Return a call that makes a batch with our sampler."""
    config = GenerateConfig(counts=batch, scheduler=OURS[0], steps=OURS[1], height=side, width=side)
    wanted = PlanInputs(["benign"], {}, {}, (side, side))
    rows = list(make_plan(config, load_prompt_table("breast"), wanted))
    sampler = ImageSampler(pipeline, LoopSettings(compile=compiled))
    return lambda: len(sampler.sample(rows))


PARTS: dict[str, tuple[float, Callable[[Job], Row]]] = {
    "train_embedded_128": (30.0, partial(training, network="embedded", side=128, batches=(1, 8, 64))),
    "generate_embedded_128": (30.0, partial(generation, network="embedded", side=128, batches=(1, 8, 64))),
    "train_sd1_224": (35.0, partial(training, network="sd1", side=224, batches=(1, 8, 32))),
    "generate_sd1_224": (35.0, partial(generation, network="sd1", side=224, batches=(1, 8, 64))),
    "train_sd1_512": (40.0, partial(training, network="sd1", side=512, batches=(1, 4, 16))),
    "generate_sd1_512": (40.0, partial(generation, network="sd1", side=512, batches=(1, 4, 16))),
    "generate_sdxl_512": (45.0, partial(generation, network="sdxl", side=512, batches=(1, 8))),
    "train_sdxl_512": (60.0, partial(training, network="sdxl", side=512, batches=(1, 4))),
    "train_sd1_512_compiled": (90.0, partial(training, network="sd1", side=512, batches=(16,), compiled=True)),
    "generate_sd1_512_compiled": (90.0, partial(generation, network="sd1", side=512, batches=(16,), compiled=True)),
    "generate_sdxl_224": (40.0, partial(generation, network="sdxl", side=224, batches=(1, 8))),
    "train_sdxl_224": (60.0, partial(training, network="sdxl", side=224, batches=(1, 8))),
}
"""Name -> seconds that it is given at least, and what it does; what matters most comes first."""
