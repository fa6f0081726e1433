"""Stable Diffusion XL and 2.x, small and built from their configuration, through the real stages."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adapter_material import build_tiny_v2, build_tiny_xl, quick, random_weights
from PIL import Image
from safetensors.torch import save_file

from meddap_monai.core.records import read_records
from meddap_monai.diffusion.adapters import adapter as adapters
from meddap_monai.diffusion.adapters.effect import run_once
from meddap_monai.diffusion.adapters.formats import to_diffusers, to_kohya
from meddap_monai.diffusion.adapting.stage import adapt
from meddap_monai.diffusion.bases.base import load_base
from meddap_monai.diffusion.bases.conditioning import encode_prompts
from meddap_monai.diffusion.bases.schedulers import build_scheduler
from meddap_monai.diffusion.generation.config import GenerateConfig
from meddap_monai.diffusion.generation.plan import PlanRow
from meddap_monai.diffusion.generation.sampler import ImageSampler
from meddap_monai.diffusion.generation.stage import generate
from meddap_monai.errors import BadAdapter

BUILD = {"xl": build_tiny_xl, "v2": build_tiny_v2}
PARTS = {"xl": {"unet", "text_encoder", "text_encoder_2"}} | dict.fromkeys(("v1", "v2"), {"unet", "text_encoder"})
FULORA = {"method": "fulora", "rank": 2, "clip_skip": 0, "bucket_step": 16}

DISTIL = {"method": "lcm", "rank": 2, "method_settings": {"drawn": 1, "drawing_steps": 2}}


@pytest.fixture(scope="module")
def bases(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("families")
    return {"v1": tiny_base} | {name: build(folder / name, tiny_base) for name, build in BUILD.items()}


@pytest.mark.parametrize(
    ("family", "settings"), [("xl", {}), ("xl", FULORA), ("v2", {}), ("v2", FULORA), ("xl", DISTIL), ("v2", DISTIL)]
)
def test_an_adapter_is_trained_loaded_and_draws(
    bases: dict[str, Path], records: Path, tiny_base: Path, tmp_path: Path, family: str, settings: dict[str, Any]
) -> None:
    config = quick(steps=2, learning_rate=0.1, samples_per_class=1, sample_steps=2, resolution=32, **settings)
    folder = adapt(config, tmp_path / "adapter", records=records, base=bases[family])
    assert (folder / "samples/benign-0.png").is_file()
    card = json.loads((folder / "adapter.json").read_text())
    assert card["prediction_type"] == ("v_prediction" if family == "v2" else "epsilon")
    loaded = adapters.load_adapter(load_base(bases[family]), folder)
    assert set(loaded.sets) == (PARTS[family] if settings == FULORA else {"unet"})
    with pytest.raises(BadAdapter, match="own base"):
        adapters.load_adapter(load_base(tiny_base), folder)

    few = GenerateConfig(ratio=0.5, steps=2, shard_size=4, batch=2)
    plain = generate(few, tmp_path / "plain", records=records, base=bases[family])
    taught = generate(few, tmp_path / "taught", records=records, base=bases[family], adapters=[folder])
    pictures = [[np.asarray(Image.open(r["image"])) for r in read_records(path)] for path in (plain, taught)]
    assert len(pictures[0]) == len(pictures[1]) == 6
    assert {picture.shape for picture in pictures[1]} == {(32, 32)}
    assert all(not np.array_equal(without, with_it) for without, with_it in zip(*pictures, strict=True))


@pytest.mark.parametrize("family", BUILD)
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_pictures_equal_those_of_diffusers(bases: dict[str, Path], family: str, guidance: float) -> None:
    prompt, negative = "an ultrasound photo of benign tumor in breast", "no tumor"
    facts = {"class_name": "benign", "label": 0, "adjective": "none", "mode": "text", "strength": 1.0, "source_id": ""}
    row = PlanRow(
        row=0, prompt=prompt, negative_prompt=negative, seed=7, scheduler="dpmsolver++", steps=4, guidance=guidance,
        height=32, width=32, **facts,
    )  # fmt: skip
    pipeline: Any = load_base(bases[family])
    ours = ImageSampler(pipeline).sample([row, replace(row, row=1, seed=8)])
    pipeline.scheduler = build_scheduler("dpmsolver++", pipeline.scheduler)
    theirs = pipeline(
        [prompt] * 2,
        negative_prompt=[negative] * 2,
        height=32,
        width=32,
        num_inference_steps=4,
        guidance_scale=guidance,
        generator=[torch.Generator().manual_seed(seed) for seed in (7, 8)],
        output_type="np",
    ).images
    assert np.abs(ours.astype(int) - (theirs * 255).round()).max() <= 1


@pytest.mark.parametrize("family", PARTS)
@pytest.mark.parametrize("write", [to_diffusers, to_kohya])
def test_files_written_for_diffusers_act_the_same_there(
    bases: dict[str, Path], tmp_path: Path, family: str, write: Callable[..., Any]
) -> None:
    plain, ours, theirs = (load_base(bases[family]) for _ in range(3))
    sets = {part: "transformer" if part == "unet" else "text" for part in PARTS[family]}
    tensors, header = write(random_weights(adapters.parts_of(ours), sets, rank=4, alpha=2.0))
    save_file(tensors, tmp_path / "adapter.safetensors", header or None)
    with pytest.warns(UserWarning, match="base: unverified"):
        adapters.load_adapter(ours, tmp_path)
    encode_prompts(theirs, ["an ultrasound photo"], clip_skip=1)
    theirs.load_lora_weights(str(tmp_path), weight_name="adapter.safetensors")
    for part in sets:
        getattr(theirs, part).eval()
        with torch.no_grad():
            before, found, expected = (run_once(getattr(pipe, part)) for pipe in (plain, ours, theirs))
        assert torch.equal(found, expected)
        assert (found - before).abs().max() > 1e-3
