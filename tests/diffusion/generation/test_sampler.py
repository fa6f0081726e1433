"""The loop gives what diffusers' own pipelines give, image by image, and keeps its promises about seeds and masks."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline

from meddap_monai.diffusion.bases.base import load_base
from meddap_monai.diffusion.bases.schedulers import NAMES, build_scheduler
from meddap_monai.diffusion.generation.plan import PlanRow
from meddap_monai.diffusion.generation.sampler import ImageSampler, LoopSettings, Sources
from meddap_monai.errors import BadBase

ROW = PlanRow(
    row=0,
    class_name="benign",
    label=0,
    adjective="none",
    prompt="an ultrasound photo of benign tumor in breast",
    negative_prompt="",
    seed=7,
    mode="text",
    scheduler="dpmsolver++",
    steps=4,
    guidance=3.0,
    strength=1.0,
    source_id="",
    height=32,
    width=32,
)


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    y, x = torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 32), indexing="ij")
    grey = ((torch.sin(5 * x * y) + 1) / 2 * 255).round() / 127.5 - 1
    return grey.expand(1, 3, 32, 32).contiguous()


def levels_apart(ours: np.ndarray, theirs: np.ndarray) -> int:
    return int(np.abs(ours.astype(int) - theirs.astype(int)).max())


def drawn_by(pipeline, row: PlanRow, **options) -> np.ndarray:
    """Levels of the image that a pipeline of diffusers draws for a row."""
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(
        row.prompt,
        num_inference_steps=row.steps,
        guidance_scale=row.guidance,
        generator=[torch.Generator().manual_seed(row.seed)],
        output_type="np",
        **options,
    ).images
    return (images * 255).round().astype(np.uint8)


@pytest.mark.parametrize("scheduler", NAMES)
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_text_equals_the_pipeline(pipeline, scheduler: str, guidance: float) -> None:
    row = replace(ROW, scheduler=scheduler, guidance=guidance)
    ours = ImageSampler(pipeline).sample([row])
    own = pipeline.scheduler
    pipeline.scheduler = build_scheduler(scheduler, own)
    theirs = drawn_by(pipeline, row)
    pipeline.scheduler = own
    assert levels_apart(ours, theirs) <= 1


@pytest.mark.parametrize("scheduler", NAMES)
def test_image_to_image_equals_the_pipeline(pipeline, image: torch.Tensor, scheduler: str) -> None:
    row = replace(ROW, mode="image", strength=0.5, scheduler=scheduler)
    sampler = ImageSampler(pipeline)
    ours = sampler.sample([row], Sources(image))
    other = StableDiffusionImg2ImgPipeline(**pipeline.components, requires_safety_checker=False)
    other.scheduler = build_scheduler(scheduler, pipeline.scheduler)
    with torch.no_grad():
        latents = sampler._encode(image)
    assert levels_apart(ours, drawn_by(other, row, image=latents, strength=row.strength)) <= 1


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_inpainting_equals_the_pipeline_inside_the_mask(pipeline, image: torch.Tensor, strength: float) -> None:
    row = replace(ROW, mode="inpaint", strength=strength, scheduler="ddim")
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., 8:24, 8:24] = 1
    ours = ImageSampler(pipeline).sample([row], Sources(image, mask))
    other = StableDiffusionInpaintPipeline(**pipeline.components, requires_safety_checker=False)
    other.scheduler = build_scheduler("ddim", pipeline.scheduler)
    other.vae.encode, encode = (lambda x: _Mode(encode(x))), other.vae.encode
    try:
        theirs = drawn_by(other, row, image=image, mask_image=mask, height=32, width=32, strength=strength)
    finally:
        del other.vae.encode
    inside = mask[0, 0].numpy() > 0
    assert levels_apart(ours[:, inside], theirs[:, inside]) <= 1


class _Mode:
    """An encoder's answer without noise, as our loop takes it."""

    def __init__(self, answer) -> None:
        self.latent_dist = self
        self._mode = answer.latent_dist.mode()

    def sample(self, _=None) -> torch.Tensor:
        return self._mode


def test_inpainting_keeps_every_pixel_outside_the_mask(pipeline, image: torch.Tensor) -> None:
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., 5:19, 3:22] = 1
    made = ImageSampler(pipeline).sample([replace(ROW, mode="inpaint")], Sources(image, mask))[0]
    original = ((image[0].permute(1, 2, 0) / 2 + 0.5) * 255).round().to(torch.uint8).numpy()
    outside = mask[0, 0].numpy() == 0
    assert (made[outside] == original[outside]).all()
    assert (made[~outside] != original[~outside]).any()


def test_smallest_strength_changes_little_and_something(pipeline, image: torch.Tensor) -> None:
    sampler = ImageSampler(pipeline)
    row = replace(ROW, mode="image", steps=20, scheduler="ddim")
    with torch.no_grad():
        decoded = sampler._decode(sampler._encode(image)).astype(float)
    changes = [
        np.abs(sampler.sample([replace(row, strength=strength)], Sources(image)) - decoded).mean()
        for strength in (0.01, 0.3, 1.0)
    ]
    assert 0 < changes[0] < changes[1] < changes[2]


@pytest.mark.parametrize("scheduler", ["dpmsolver++", "euler_ancestral"])
def test_an_image_depends_on_its_own_seed_not_on_its_neighbours(pipeline, scheduler: str) -> None:
    sampler = ImageSampler(pipeline)
    rows = [replace(ROW, row=number, seed=number, scheduler=scheduler) for number in range(3)]
    together, alone = sampler.sample(rows), sampler.sample([rows[2]])
    assert levels_apart(together[2], alone[0]) <= 1
    assert levels_apart(together[0], together[2]) > 5


def test_guidance_interval_leaves_the_unguided_half_away(pipeline) -> None:
    widths = []
    sampler = ImageSampler(pipeline, LoopSettings(guidance_interval=(0.0, 0.5)))
    network = sampler._unet

    def counting(inputs, *arguments, **named):
        widths.append(len(inputs))
        return network(inputs, *arguments, **named)

    sampler._unet = counting
    sampler.sample([ROW, replace(ROW, row=1)])
    assert widths == [4, 4, 2, 2]


def test_each_prompt_is_encoded_once(pipeline) -> None:
    calls = []
    sampler = ImageSampler(pipeline)
    encode = pipeline.encode_prompt
    pipeline.encode_prompt = lambda **named: calls.append(named["prompt"]) or encode(**named)
    try:
        for _ in range(2):
            sampler.sample([ROW, replace(ROW, prompt="an ultrasound photo of no tumor in breast")])
    finally:
        del pipeline.encode_prompt
    assert len(calls) == 3


def test_clip_skip_changes_the_image(pipeline) -> None:
    plain = ImageSampler(pipeline).sample([ROW])
    skipped = ImageSampler(pipeline, LoopSettings(clip_skip=1)).sample([ROW])
    assert levels_apart(plain, skipped) > 0


def test_guidance_rescale_and_eta_act(pipeline) -> None:
    row = replace(ROW, scheduler="ddim", guidance=7.5)
    plain = ImageSampler(pipeline).sample([row])
    for settings in (LoopSettings(guidance_rescale=0.7), LoopSettings(eta=1.0)):
        assert levels_apart(plain, ImageSampler(pipeline, settings).sample([row])) > 0


def test_guide_is_called_with_the_batchs_labels(pipeline) -> None:
    seen = []

    def guide(*, latents, model_output, labels, **_):
        seen.append((tuple(latents.shape), labels.tolist()))
        return torch.zeros_like(model_output)

    guided = ImageSampler(pipeline, guide=guide).sample([ROW, replace(ROW, label=2)])
    assert seen == [((2, 4, 8, 8), [0, 2])] * 4
    assert levels_apart(guided, ImageSampler(pipeline).sample([ROW, ROW])) > 0


def test_bfloat16_stays_close(pipeline, tiny_base: Path) -> None:
    half = ImageSampler(load_base(tiny_base, torch.bfloat16))
    apart = np.abs(half.sample([ROW]).astype(int) - ImageSampler(pipeline).sample([ROW]).astype(int))
    assert 0 < apart.mean() < 8


def test_inpainting_unet_is_refused(pipeline) -> None:
    class Nine:
        device, dtype = torch.device("cpu"), torch.float32

        class config:
            in_channels = 9

    class Broken:
        unet, vae = Nine, pipeline.vae

    with pytest.raises(BadBase, match="takes 9 channels and its latents have 4"):
        ImageSampler(Broken)


@pytest.mark.slow
def test_compiled_stays_equal(pipeline, tiny_base: Path) -> None:
    compiled = ImageSampler(load_base(tiny_base), LoopSettings(compile=True))
    assert levels_apart(compiled.sample([ROW]), ImageSampler(pipeline).sample([ROW])) <= 1
