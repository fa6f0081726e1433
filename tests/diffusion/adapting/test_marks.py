"""Marks that are drawn over images do not count in the loss, and are counted and shown."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from meddap_monai import store
from meddap_monai.core.records import pixel_hash, read_records, write_records
from meddap_monai.diffusion.adapting.batches import Batches, Item, loss_weights
from meddap_monai.diffusion.adapting.latent_cache import Framing, LatentCache, marks
from meddap_monai.diffusion.adapting.stage import adapt
from meddap_monai.diffusion.bases.base import load_base
from meddap_monai.diffusion.bases.noise import Objective
from tests.adapter_material import quick

SCHEDULE = {"num_train_timesteps": 10, "prediction_type": "epsilon"}


@pytest.fixture(scope="module")
def records(make_records: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Simulated images, a yellow line drawn over every second one."""
    folder = tmp_path_factory.mktemp("marked")
    rows = read_records(make_records({"train": 2, "val": 1}, size=32), full=True)
    for number, row in enumerate(rows):
        pixels = np.asarray(Image.open(row["image"]).convert("RGB")).copy()
        if number % 2 == 0:
            pixels[4:6, 2:10] = (255, 230, 0)
        row |= {"image": str(folder / f"{row['id']}.png"), "sha256": pixel_hash(pixels)}
        Image.fromarray(pixels).save(row["image"])
    write_records(folder / "records.jsonl", rows)
    return folder / "records.jsonl"


def test_the_error_does_not_see_what_is_masked() -> None:
    draw = torch.Generator().manual_seed(0)
    answer, target = (torch.randn(2, 4, 8, 8, generator=draw) for _ in range(2))
    weights = torch.ones(2, 1, 8, 8)
    weights[0, :, :, :3] = 0
    errors = Objective(SCHEDULE).errors(answer, target, weights)
    assert torch.allclose(errors[0], (answer - target)[0, :, :, 3:].square().mean())
    assert torch.allclose(errors[1], (answer - target)[1].square().mean())
    spoiled = answer.clone()
    spoiled[0, :, :, :3] = 1e3
    assert torch.equal(Objective(SCHEDULE).errors(spoiled, target, weights), errors)
    assert Objective(SCHEDULE).errors(answer, target, torch.zeros(2, 1, 8, 8)).tolist() == [0.0, 0.0]


def test_weights_follow_the_view_that_was_drawn() -> None:
    drawn = torch.zeros(2, 4, 4, dtype=torch.bool)
    drawn[0, 0, 0] = drawn[1, 0, 3] = True
    marked, plain = Item("a", torch.zeros(2, 2, 4, 4, 4), 1, marks=drawn), Item("b", torch.zeros(2, 2, 4, 4, 4), 1)
    assert loss_weights([plain, plain], [0, 1]) is None
    weights = loss_weights([marked, marked, plain], [0, 1, 0])
    assert weights is not None and weights.shape == (3, 1, 4, 4)
    assert [(weights[n, 0] == 0).nonzero().tolist() for n in range(3)] == [[[0, 0]], [[0, 3]], []]
    batch = Batches([marked, plain], 2, Objective(SCHEDULE), seed=0).step(0).part(0, 1).to("cpu")
    assert batch.weights is not None and batch.weights.shape == (1, 1, 4, 4) and len(batch) == 1


def test_masks_are_framed_as_their_images_are(records: Path, tiny_base: Path, tmp_path: Path) -> None:
    row = read_records(records, full=True)[0]
    found = marks(row, Framing(32, 32, flip=True))
    assert found.shape == (2, 32, 32) and torch.equal(found[1], found[0].flip(-1))
    assert found[0, 4:6, 2:10].all() and not found[0, 12:].any()
    cache = LatentCache(tmp_path, load_base(tiny_base).vae, "vae")
    cells = cache.marks(row, Framing(32, 32), (8, 8))
    assert cells is not None and cells[0, 1, 1] and not cells[0, 4:].any()
    assert torch.equal(cells, cache.marks(row, Framing(32, 32), (8, 8)))
    assert cache.marks(read_records(records, full=True)[1], Framing(32, 32), (8, 8)) is None


@pytest.mark.parametrize(("masked", "marked"), [(True, 3), (False, 0)])
def test_marked_images_are_counted_and_shown(
    masked: bool, marked: int, records: Path, tiny_base: Path, tmp_path: Path
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = adapt(quick(steps=2, mask_marks=masked), tmp_path / "a", records=records, base=tiny_base)
    assert store.read_stage(folder)["counts"]["marked"] == marked
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    assert ("adapt/image_and_marked" in events.Tags()["images"]) is masked
    if masked:
        assert [event.value for event in events.Scalars("adapt/marked_images")] == [3.0]
        assert 0 < events.Scalars("adapt/marked_share")[0].value < 0.5
