"""Sample pictures beside the training: fixed seeds, few steps, marked as synthetic."""

import contextlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from meddap_monai import store
from meddap_monai.diffusion.bases.conditioning import Conditioning
from meddap_monai.diffusion.bases.schedulers import Sampling, build_scheduler


@contextlib.contextmanager
def sampler(pipeline: Any, name: str) -> Iterator[None]:
    """Let a pipeline sample with a scheduler of ``schedulers.NAMES`` for a while."""
    previous = pipeline.scheduler
    pipeline.scheduler = build_scheduler(name, previous)
    try:
        yield
    finally:
        pipeline.scheduler = previous


def dpm_solver(pipeline: Any) -> contextlib.AbstractContextManager[None]:
    """Let a pipeline sample with DPM-Solver++ (Lu et al. 2022, arXiv 2211.01095) for a while."""
    return sampler(pipeline, "dpmsolver++")


def draw_pictures(
    pipeline: Any,
    prompts: Sequence[str] | Conditioning,
    seeds: Sequence[int],
    size: tuple[int, int],
    steps: int,
    guidance: float,
    empty: Conditioning | None = None,
    scheduler: str = "dpmsolver++",
) -> np.ndarray:
    """Draw one picture per seed, see `sampler`.

    Args:
        pipeline: Stable Diffusion; may lack its text encoder when `prompts` are encoded.
        prompts: texts or their encoding, one per seed.
        seeds: one per picture; the start noise is drawn on the CPU.
        size: (height, width) in pixels.
        steps: sampling steps.
        guidance: guidance scale; 1 or less does not guide.
        empty: encoding of the empty prompt, needed with encoded prompts.
        scheduler: name of the sampler.

    Returns:
        ``(N, H, W, 3)`` uint8.
    """
    words = _words(prompts, len(seeds), empty)
    found = _draw(pipeline, words, seeds, size, Sampling(scheduler, steps, guidance), "np")
    return (np.nan_to_num(found) * 255).round().clip(0, 255).astype(np.uint8)


def draw_latents(
    pipeline: Any, prompts: Sequence[str], seeds: Sequence[int], size: tuple[int, int], sampling: Sampling
) -> torch.Tensor:
    """Return the latents ``(N, C, h, w)`` float32 on the CPU of one picture per seed; arguments as `draw_pictures`."""
    return _draw(pipeline, {"prompt": list(prompts)}, seeds, size, sampling, "latent").float().cpu().contiguous()


@torch.no_grad()
def _draw(
    pipeline: Any,
    words: dict[str, Any],
    seeds: Sequence[int],
    size: tuple[int, int],
    sampling: Sampling,
    output_type: str,
) -> Any:
    with sampler(pipeline, sampling.scheduler):
        return pipeline(
            **words,
            height=size[0],
            width=size[1],
            num_inference_steps=sampling.steps,
            guidance_scale=sampling.guidance,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            output_type=output_type,
        ).images


def _words(prompts: Sequence[str] | Conditioning, count: int, empty: Conditioning | None) -> dict[str, Any]:
    """Return the pipeline's arguments for prompts."""
    if not isinstance(prompts, Conditioning):
        return {"prompt": list(prompts)}
    words: dict[str, Any] = {"prompt_embeds": prompts.hidden}
    if empty is not None:
        words["negative_prompt_embeds"] = empty.hidden.expand(count, -1, -1)
    if prompts.pooled is not None and empty is not None and empty.pooled is not None:
        words["pooled_prompt_embeds"] = prompts.pooled
        words["negative_pooled_prompt_embeds"] = empty.pooled.expand(count, -1)
    return words


def save_synthetic(path: Path, pixels: np.ndarray, prompt: str) -> None:
    """Write a drawn picture as PNG whose text says that it is synthetic.

    Args:
        path: of the PNG.
        pixels: ``(H, W, 3)`` uint8.
        prompt: what it was drawn from.
    """
    text = PngInfo()
    text.add_text("SyntheticData", "YES")
    text.add_text("Description", f"synthetic image, not a patient; prompt: {prompt}")
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", pnginfo=text)
    store.write_atomic(path, buffer.getvalue())


def grid(rows: Sequence[Sequence[np.ndarray]], gap: int = 2) -> np.ndarray:
    """Return rows of ``(H, W, 3)`` pictures of one size as one picture with white gaps."""
    height, width = rows[0][0].shape[:2]
    columns = max(len(row) for row in rows)
    sheet = np.full((len(rows) * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            sheet[y * (height + gap) :, x * (width + gap) :][:height, :width] = picture
    return sheet
