"""Writing a trained base: fp16 weights, ``base.json``, the hashes of what it saw, a card and its pictures."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from meddap_monai import store
from meddap_monai.core.seeds import derive_seed
from meddap_monai.diffusion.bases.base import Base, open_base
from meddap_monai.diffusion.pretraining.job import PretrainJob
from meddap_monai.diffusion.pretraining.sample_sheet import sample_sheet
from meddap_monai.diffusion.pretraining.training_curves import Curve, draw_curves, minutes, read_curves
from meddap_monai.diffusion.pretraining.views import grey_tensor
from meddap_monai.images.provenance import write_train_hashes
from meddap_monai.phantom.simulation import simulate_image


def export_base(job: PretrainJob, sharpened: Base | None = None) -> Path:
    """Write ``output/base`` from a job whose phases are done; return the folder.

    Args:
        job: the trained parts.
        sharpened: the base whose decoder alone was trained on; what it saw and how it was made stays said.
    """
    folder = job.output / "base"
    pipeline = job.pipeline(job.unet)
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        part.to("cpu", torch.float16)
    with store.disk_full_errors(folder):
        pipeline.save_pretrained(folder, max_shard_size=f"{job.config.part_mb or 100_000}MB")
    _open_as_float32(folder / "text_encoder" / "config.json")
    write_train_hashes(folder, job.training, job.everything, sharpened.training_images if sharpened else None)
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        part.to(job.config.device, torch.float32)
    document = describe(job, pipeline)
    if sharpened:
        document = _refined_card(sharpened.card, document)
    store.write_json(folder / "base.json", document | {"sha256": open_base(folder).sha256})
    sheet, rows = sample_sheet(pipeline, job.tables, job.config.seed, columns=6, steps=15)
    _save_picture(folder / "samples.png", sheet)
    _save_picture(folder / "reconstructions.png", reconstruction_sheet(job))
    curves = read_curves(job.output / "tensorboard")
    if curves:
        store.write_atomic(folder / "curves.png", draw_curves(curves))
    store.write_atomic(folder / "card.md", _card(job, document, rows, curves))
    return folder


def _open_as_float32(path: Path) -> None:
    """Let transformers open the text encoder as diffusers opens the rest: halves in the file, float32 in memory."""
    store.write_json(path, store.read_json(path) | {"dtype": "float32"})


def describe(job: PretrainJob, pipeline: Any) -> dict[str, Any]:
    """Return the content of ``base.json``."""
    config = job.config
    parts = ("unet", "text_encoder", "vae")
    return {
        "resolution": config.resolution,
        "prompts": list(config.prompts),
        "prompts_sha256": {table.name: table.sha256 for table in job.tables},
        "parameters": {part: sum(p.numel() for p in getattr(pipeline, part).parameters()) for part in parts},
        "seed": config.seed,
        "steps": {
            "text_encoder": config.text_encoder.steps,
            "autoencoder": config.autoencoder.steps,
            "corners": config.autoencoder.corner_steps,
            "unet": config.unet.steps,
            "refinement": config.refinement.steps,
        },
        "prediction_type": config.unet.prediction,
        "images": len(job.training),
        **({"words": job.words} if job.words else {}),
        "configuration": config,
    }


def _refined_card(before: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    """Return the card of a base whose decoder was trained on: the base's own, with the new steps."""
    steps = dict(before["steps"])
    for phase in ("refinement", "corners"):
        steps[phase] = steps.get(phase, 0) + document["steps"][phase]
    return before | {"steps": steps, "sharpened_from": before["sha256"], "sharpened_with": document["configuration"]}


@torch.no_grad()
def reconstruction_sheet(job: PretrainJob, columns: int = 8) -> np.ndarray:
    """Return simulated pictures above their reconstructions, (2 * side, columns * side) uint8.

    Simulated, because a card travels with the weights, and no patient's picture may travel in it.
    """
    side = job.config.resolution
    names = ("benign", "malignant", "normal")
    seeds = [derive_seed(job.config.seed, "pretrain/card", number) for number in range(columns)]
    pixels = np.stack([simulate_image(names[number % 3], seed, size=(side, side)) for number, seed in enumerate(seeds)])
    images = grey_tensor(pixels).expand(-1, 3, -1, -1)
    vae = job.vae.to("cpu")
    made = vae.decode(vae.encode(images).latent_dist.mode()).sample.mean(1)
    back = ((made.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).numpy()
    return np.concatenate([np.concatenate(list(part), axis=1) for part in (pixels, back)], axis=0)


def _save_picture(path: Path, pixels: np.ndarray) -> None:
    with store.atomic_path(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")


def _cost(curves: Mapping[str, Mapping[str, Curve]], processes: int, device: str) -> Iterator[str]:
    """Yield the card's lines on what each phase took; none without curves."""
    if not curves:
        return
    times = {phase: minutes(part) for phase, part in curves.items()}
    yield "## Cost"
    who = "1 process" if processes == 1 else f"{processes} processes"
    yield f"{who} on {device}, {sum(times.values()):.0f} minutes; `curves.png` shows the losses."
    for phase, time in times.items():
        last = max(int(curve.steps[-1]) for curve in curves[phase].values())
        yield f"- {phase}: {last:,} steps, {time:.1f} minutes"
    yield ""


def _trained_on(job: PretrainJob, document: Mapping[str, Any]) -> Iterator[str]:
    """Yield the card's lines on how many images were seen."""
    classes = ", ".join(sorted({record["class_name"] for record in job.training}))
    seen = f"{len(job.training)} images ({len(job.views.ids)} views) of the classes {classes}"
    if "sharpened_from" in document:
        yield f"Trained on {document['images']} images as base {document['sharpened_from']}, its decoder on {seen}."
    else:
        yield f"Trained on {seen}."


def _card(
    job: PretrainJob, document: dict[str, Any], prompts: list[str], curves: Mapping[str, Mapping[str, Curve]]
) -> str:
    config = job.config
    total = sum(document["parameters"].values())
    lines = [
        "# A small ultrasound base",
        "",
        f"Latent diffusion, {config.resolution} px, {total:,} parameters "
        f"({', '.join(f'{name} {count:,}' for name, count in document['parameters'].items())}), seed {config.seed}.",
        *_trained_on(job, document),
        "It opens with `diffusers.StableDiffusionPipeline.from_pretrained(folder)`. For research, not for diagnosis.",
        "",
        "## Data",
        *(f"- {line}" for line in config.sources or ("as given in the records",)),
        "",
        "## Pictures",
        "`samples.png`: one row per prompt, guidance 2.5, 15 steps of DPM-Solver++:",
        *(f"{number}. {prompt}" for number, prompt in enumerate(prompts, start=1)),
        "",
        "`reconstructions.png`: simulated pictures above what the autoencoder keeps of them.",
        "",
        *_cost(curves, job.ranks.size, config.device),
        "## Again",
        "`meddap pretrain` with the configuration in `base.json`; the hashes of all training images and of their "
        "groups stand in `train_sha256.txt`.",
    ]
    return "\n".join(lines) + "\n"
