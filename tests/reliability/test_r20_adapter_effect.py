"""R20: an adapter that loads changes the output, and unloading restores the base bit for bit."""

from pathlib import Path

import pytest
import torch
from adapter_material import quick, random_weights, state_hash, write_adapter

from meddap_monai.diffusion.adapters import adapter as adapters
from meddap_monai.diffusion.adapters.effect import run_once
from meddap_monai.diffusion.adapters.file import save_adapter
from meddap_monai.diffusion.adapting.stage import adapt
from meddap_monai.diffusion.bases.base import load_base, open_base
from meddap_monai.errors import BadAdapter


def test_r20_effect_is_measured_and_unloading_is_exact(tiny_base: Path, tmp_path: Path) -> None:
    pipeline = load_base(tiny_base)
    before = state_hash(pipeline)
    with torch.no_grad():
        plain = run_once(pipeline.unet)
    write_adapter(tmp_path / "a", pipeline)
    adapter = adapters.load_adapter(pipeline, tmp_path / "a")
    with torch.no_grad():
        change = (run_once(pipeline.unet) - plain).abs().max()
    assert adapter.effect == pytest.approx(float(change), rel=1e-4)
    assert adapter.effect > 0
    adapters.unload_adapter(pipeline)
    assert state_hash(pipeline) == before
    with torch.no_grad():
        assert torch.equal(run_once(pipeline.unet), plain)


def test_r20_an_effect_below_rounding_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    pipeline = load_base(tiny_base)
    before = state_hash(pipeline)
    weights = random_weights(adapters.parts_of(pipeline), {"unet": "attention"})
    for change in weights.parts["unet"].values():
        change.up.mul_(1e-20)
    from adapter_material import card_of

    save_adapter(tmp_path, weights, card_of(pipeline))
    with pytest.raises(BadAdapter, match="changes by 0.0 with it"):
        adapters.load_adapter(pipeline, tmp_path)
    assert state_hash(pipeline) == before


def test_r20_training_leaves_the_base_files_alone(tiny_base: Path, make_records, tmp_path: Path) -> None:
    before = open_base(tiny_base).sha256
    folder = adapt(quick(steps=3), tmp_path / "a", records=make_records({"train": 2, "val": 1}, 32), base=tiny_base)
    assert open_base(tiny_base).sha256 == before
    assert adapters.load_adapter(load_base(tiny_base), folder).effect > 0
