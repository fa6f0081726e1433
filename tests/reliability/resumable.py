"""The stages that go on after a kill: a small run of each, what it must end in, and how its progress is seen."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from adapter_material import quick

from meddap_monai import store
from meddap_monai.classifier import stage as classifier_stage
from meddap_monai.classifier.stage import classify
from meddap_monai.diffusion.adapting import preparation
from meddap_monai.diffusion.adapting.stage import adapt
from meddap_monai.diffusion.generation import stage as generation_stage
from meddap_monai.diffusion.generation.config import GenerateConfig
from meddap_monai.diffusion.generation.stage import generate
from meddap_monai.diffusion.pretraining.config import RefinementConfig
from meddap_monai.diffusion.pretraining.job import PretrainJob
from meddap_monai.diffusion.pretraining.parts import ViewsConfig
from meddap_monai.diffusion.pretraining.stage import pretrain
from meddap_monai.training.checkpoint import NAME
from tests.classifier_material import TINY
from tests.pretrain_material import SMALL
from tests.reliability.writers import before

ADAPT = quick(steps=16, ema=0.9, caption_dropout=0.2)
CLASSIFY = replace(TINY, steps=120, batch=4, validation_every=20, checkpoint_every=5)
GENERATE = GenerateConfig(counts=4, steps=3, scheduler="euler_ancestral", shard_size=2, batch=2, sheet_columns=2)
PRETRAIN = replace(
    SMALL,
    views=ViewsConfig(clean=1, changed=1),
    autoencoder=replace(SMALL.autoencoder, steps=16, corner_steps=8),
    text_encoder=replace(SMALL.text_encoder, steps=16),
    unet=replace(SMALL.unet, steps=16),
    refinement=RefinementConfig(steps=8, drawn=4, sampling_steps=2, batch=2, crop=16),
    checkpoint_every=3,
)
STAGES = ("adapt", "classify", "generate", "pretrain")


@dataclass(frozen=True)
class Resumable:
    """A stage with all its inputs.

    Attributes:
        run: writes an output folder, or goes on with it.
        results: glob patterns of the files that promise to be equal.
        progress: returns of a folder what changes with each checkpoint or shard.
        begins: owner and name of a function that is called once the folder is held.
        interval: steps between two checkpoints of the one file ``checkpoint.pt``; 0 where that is not how it goes on.
    """

    run: Callable[[Path], Path]
    results: tuple[str, ...]
    progress: Callable[[Path], Any]
    begins: tuple[Any, str]
    interval: int = 0

    def outcome(self, folder: Path) -> dict[str, str]:
        """Return name -> hash of all results."""
        found = {path for pattern in self.results for path in folder.glob(pattern) if path.is_file()}
        return {str(path.relative_to(folder)): store.sha256_file(path) for path in found}

    def write(self, folder: Path, wait: Callable[[], None]) -> None:
        """Run in this (forked) process; `wait` is called once the folder is held."""
        before(*self.begins, wait)
        self.run(folder)


def resumable(name: str, records: Path, base: Path) -> Resumable:
    """Return one of `STAGES`."""
    if name == "adapt":
        run = lambda folder: adapt(ADAPT, folder, records=records, base=base)  # noqa: E731
        results = ("adapter.safetensors", "adapter.json")
        return Resumable(run, results, _checkpoint, (preparation, "prepare"), ADAPT.checkpoint_every)
    if name == "classify":
        run = lambda folder: classify(CLASSIFY, folder, records=records)  # noqa: E731
        results = ("model.pt", "metrics.json", "train_sha256.txt")
        return Resumable(run, results, _checkpoint, (classifier_stage, "read_material"), CLASSIFY.checkpoint_every)
    if name == "generate":
        run = lambda folder: generate(GENERATE, folder, records=records, base=base)  # noqa: E731
        results = ("plan.csv", "generated.jsonl", "sheets/*", "shards/**/*")
        return Resumable(run, results, _shards_made, (generation_stage, "make_shards"))
    run = lambda folder: pretrain(PRETRAIN, folder, records=records)  # noqa: E731
    phases = lambda folder: {path.name for path in folder.glob("phases/[!.]*.pt")}  # noqa: E731
    return Resumable(run, ("base/**/*.safetensors",), phases, (PretrainJob, "train"))


def _shards_made(folder: Path) -> int:
    return len(list(folder.glob("shards/[0-9]*")))


def _checkpoint(folder: Path) -> int:
    """Return when the checkpoint was written; it is gone once the training is done."""
    try:
        return (folder / NAME).stat().st_mtime_ns
    except FileNotFoundError:
        return 0
