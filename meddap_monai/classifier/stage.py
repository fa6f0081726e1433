"""The stage ``classify``: train on split train, choose on real validation images, never look at a test image."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from meddap_monai import store
from meddap_monai.classifier import checkpoint, scoring
from meddap_monai.classifier.config import ClassifyConfig, identity
from meddap_monai.classifier.data import in_order, make_dataset, make_loader, plan_batches
from meddap_monai.classifier.engine import (
    Criterion,
    TrainingStep,
    balanced_weights,
    build_evaluator,
    build_optimiser,
    build_trainer,
)
from meddap_monai.classifier.handlers import Checkpoints, Curves, ProgressBar, StopOnSignal, Validations
from meddap_monai.classifier.head_training import train_head
from meddap_monai.classifier.material import Material, read_material
from meddap_monai.classifier.networks import build_network
from meddap_monai.classifier.parallel import World, join_world, share_network
from meddap_monai.core.provenance import write_train_hashes
from meddap_monai.core.records import Record, read_records
from meddap_monai.core.seeds import derive_seed
from meddap_monai.core.tensors import cpu_state
from meddap_monai.statistics.metrics import all_metrics, confusion


def classify(config: ClassifyConfig, output: Path, *, records: Path, overwrite: bool = False) -> Path:
    """Train one classifier and write ``model.pt``, ``metrics.json`` and ``train_sha256.txt`` into `output`.

    A finished folder is returned at once, an interrupted or killed one goes on from its checkpoint and ends with the
    same weights, bit for bit (CPU, equal thread count). Under ``torchrun`` the processes share the work.

    Args:
        config: the run.
        output: folder of this run.
        records: records file with the splits train and val (real), train may hold synthetic images.
        overwrite: replace a folder of another run.

    Returns:
        `output`.

    Raises:
        LeakedRecords: a synthetic image outside train.
        RecordsError: a class without training image, or no validation image.
        NonFiniteLoss: the loss became NaN or infinite.
        Interrupted: SIGINT or SIGTERM arrived; run the same again to go on.
    """
    output, records = Path(output), Path(records)
    with join_world(config.device) as world, _stage(world, config, output, records, overwrite) as stage:
        if stage is not None and stage.done:
            return output
        material = read_material(records)
        if config.head != "none":
            results = {} if world.rank else train_head(config, output, material)
        else:
            results = _train_network(config, output, material, world)
        if stage is not None:
            everything = read_records(records, full=True)
            write_train_hashes(output, [row for row in everything if row["split"] == "train"], everything)
            counts = {"in": len(everything), "out": 1, "rejected": 0, "train": len(material.training)}
            counts |= {f"train_{row}": n for row, n in _by_source(material.training).items()}
            stage.finish(counts, classes=material.classes, device=config.device, **results)
    return output


@contextlib.contextmanager
def _stage(
    world: World, config: ClassifyConfig, output: Path, records: Path, overwrite: bool
) -> Iterator[store.Stage | None]:
    """Open the stage folder on the first process only; the others wait until it is open or found done."""
    if world.rank:
        yield store.Stage(output, {}, done=True) if world.ask() else None
        return
    told = False
    try:
        with store.open_stage(output, "classify", identity(config), {"records": records}, overwrite) as stage:
            told = True
            world.tell(stage.done)
            yield stage
    finally:
        if not told:
            world.refuse()


def _by_source(rows: list[Record]) -> dict[str, int]:
    counts = Counter(row["source"] for row in rows)
    return {source: counts[source] for source in ("real", "synthetic")}


def initial_network(config: ClassifyConfig, classes: int) -> nn.Module:
    """Return the network with the initial weights of this seed; the same in every arm."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, "classify/weights"))
        network = build_network(config.network, classes, config.channels, config.size, config.weights)
    return network.to(config.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


@dataclass
class _Run:
    """The moving parts of one training."""

    config: ClassifyConfig
    output: Path
    material: Material
    world: World
    network: nn.Module
    optimiser: torch.optim.Optimizer
    progress: checkpoint.Progress
    scaler: dict[str, Any]

    @property
    def over(self) -> bool:
        return self.progress.stopped or self.progress.step >= self.config.steps


def _train_network(config: ClassifyConfig, output: Path, material: Material, world: World) -> dict[str, Any]:
    network = initial_network(config, len(material.classes))
    optimiser = build_optimiser(config, network)
    progress, scaler = checkpoint.load_checkpoint(output, network, optimiser)
    run = _Run(config, output, material, world, network, optimiser, progress, scaler)
    labels = [row["label"] for row in material.training]
    weights = balanced_weights(labels, len(material.classes)) if config.class_weights == "balanced" else None
    step = TrainingStep(config, Criterion(config, weights).to(config.device), len(material.classes))
    started, first = time.monotonic(), progress.step
    with store.InterruptFlag() as flag:
        if not run.over:
            _train(run, step, flag)
        if not run.over:
            flag.raise_if_set(f"{output}: stopped after step {progress.step} of {config.steps} with a checkpoint")
    speed = (progress.step - first) / max(time.monotonic() - started, 1e-9)
    if world.rank:
        return {}
    if config.choose == "best":
        network.load_state_dict(progress.best_state)
    results = _finish(config, output, material, network, progress)
    (output / checkpoint.NAME).unlink(missing_ok=True)
    spent = {"steps_per_second": round(speed, 3), "images_at_a_time": step.chunk, "memory_halvings": step.halvings}
    return results | {"cost": spent}


def _train(run: _Run, step: TrainingStep, flag: store.InterruptFlag) -> None:
    config, progress, world = run.config, run.progress, run.world
    shares = world.shares(plan_batches(run.material.training, config)[progress.step :])
    cache = run.output / "cache"
    training = make_loader(make_dataset(run.material.training, config, cache), shares.tolist(), config.num_workers)
    held = make_dataset(run.material.validation, config, cache)
    evaluator = build_evaluator(config, run.network, make_loader(held, in_order(len(held), 64)))
    first = world.rank == 0
    with Curves(run.output / "tensorboard" if first else None, progress.step) as curves:
        saving = Checkpoints(run.output, progress, run.network, run.optimiser, config, run.scaler, writes=first)
        handlers = [
            Validations(evaluator, run.network, progress, config, curves),
            curves,
            saving,
            StopOnSignal(flag, saving, world),
            ProgressBar(config.steps, progress.step, quiet=not first),
        ]
        shared = share_network(run.network, world, compiled=config.compile)
        build_trainer(config, shared, run.optimiser, training, step, handlers, progress.step).run()


def _finish(
    config: ClassifyConfig, output: Path, material: Material, network: nn.Module, progress: checkpoint.Progress
) -> dict[str, Any]:
    """Calibrate on validation, write the model and its metrics, draw the pictures."""
    logits = scoring.predict_logits(network, scoring.one_pass(material.validation, config), config)
    labels = np.array([row["label"] for row in material.validation])
    temperature = scoring.fit_temperature(logits, labels)
    scoring.write_model(output, config, material.classes, temperature, network=cpu_state(network))
    probabilities = scoring.softmax(logits)
    results = {
        "step": progress.step if config.choose == "last" else progress.best_step,
        "steps": progress.step,
        "temperature": temperature,
        "validation": all_metrics(probabilities, labels),
        "confusion": confusion(probabilities, labels).tolist(),
        "history": progress.history,
    }
    if config.pictures:
        from meddap_monai.classifier.diagnostics import draw_pictures

        draw_pictures(config, output, material, network, probabilities)
    store.write_json(output / "metrics.json", results | {"classes": material.classes})
    return {"validation": results["validation"], "chosen_step": results["step"]}
