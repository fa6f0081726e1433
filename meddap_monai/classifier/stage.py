"""The stage ``classify``: train on split train, choose on real validation images, never look at a test image."""

import copy
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from meddap_monai import store
from meddap_monai.classifier import scoring
from meddap_monai.classifier.calibration import fit_abstention
from meddap_monai.classifier.config import ClassifyConfig, identity
from meddap_monai.classifier.data import in_order, make_dataset, make_loader, plan_batches
from meddap_monai.classifier.engine import (
    Criterion,
    ScalerState,
    TrainingStep,
    auc_then_loss,
    balanced_weights,
    build_evaluator,
    build_trainer,
    distribute_network,
    measure,
)
from meddap_monai.classifier.head_training import train_head
from meddap_monai.classifier.heads import initial_network
from meddap_monai.classifier.material import Material, read_material
from meddap_monai.classifier.optimization import MovingAverage, build_optimizer
from meddap_monai.core.devices import choose_device
from meddap_monai.core.distributed import Ranks, join_ranks, open_stage
from meddap_monai.core.records import Record, read_records
from meddap_monai.core.tensors import cpu_state
from meddap_monai.images.provenance import write_train_hashes
from meddap_monai.statistics.metrics import all_metrics, confusion
from meddap_monai.training.checkpoint import NAME, Stateful, load_checkpoint
from meddap_monai.training.handlers import Checkpoints, Curves, ProgressBar, Validation


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
    gpu, inputs = choose_device(config.device, "classify#device").type == "cuda", {"records": records}
    with (
        join_ranks(gpu) as ranks,
        open_stage(ranks, output, "classify", identity(config), inputs, overwrite) as stage,
    ):
        if stage.done:
            return output
        material = read_material(records)
        if config.mode == "probe":
            results = {} if ranks.rank else train_head(config, output, material)
        else:
            results = _train_network(config, output, material, ranks)
        if ranks.rank == 0:
            everything = read_records(records, full=True)
            write_train_hashes(output, [row for row in everything if row["split"] == "train"], everything)
            counts = {"in": len(everything), "out": 1, "rejected": 0, "train": len(material.training)}
            counts |= {f"train_{row}": n for row, n in _by_source(material.training).items()}
            stage.finish(counts, classes=material.classes, device=config.device, **results)
    return output


def _by_source(rows: list[Record]) -> dict[str, int]:
    counts = Counter(row["source"] for row in rows)
    return {source: counts[source] for source in ("real", "synthetic")}


def _train_network(config: ClassifyConfig, output: Path, material: Material, ranks: Ranks) -> dict[str, Any]:
    classes, path = len(material.classes), output / NAME
    network = initial_network(config, classes).to(config.device)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    judged = copy.deepcopy(network) if config.ema else network
    optimizer = build_optimizer(config, network)
    labels = [row["label"] for row in material.training]
    weights = balanced_weights(labels, classes) if config.class_weights == "balanced" else None
    step = TrainingStep(config, Criterion(config, weights).to(config.device), classes, ranks)
    held = make_dataset(material.validation, config, output / "cache")
    evaluator = build_evaluator(config, judged, make_loader(held, in_order(len(held), 64)))
    validation = Validation(
        lambda _: measure(evaluator), auc_then_loss, judged.state_dict, config.validation_every, config.patience
    )
    to_save: dict[str, Stateful] = {"network": network, "optimizer": optimizer, "validation": validation}
    to_save["scaler"] = scaler = ScalerState()
    averaging = [MovingAverage(network, judged, config.ema)] if config.ema else []
    if config.ema:
        to_save["average"] = judged
    done = load_checkpoint(path, to_save)
    over = validation.stopped or done >= config.steps
    started, first = time.monotonic(), ranks.rank == 0
    board = output / "tensorboard" if first else None
    with store.InterruptFlag() as flag, Curves(board, "classify", done) as curves:
        validation.curves = curves
        saving = Checkpoints(path, to_save, config.checkpoint_every, flag, ranks)
        handlers = [*averaging, validation, curves, ProgressBar("classify", quiet=not first), scaler, saving]
        plan = ranks.split_plan(plan_batches(material.training, config)[done:], "classify#batch")
        training = make_dataset(material.training, config, output / "cache")
        loader = make_loader(training, plan.tolist(), config.workers)
        shared = distribute_network(network, ranks, compiled=config.compile)
        trainer = build_trainer(config, shared, optimizer, loader, step, handlers, done)
        if not over:
            trainer.run()
        reached = trainer.state.iteration
        if reached < config.steps and not validation.stopped:
            flag.raise_if_set(f"{output}: stopped after step {reached} of {config.steps} with a checkpoint")
    if not first:
        return {}
    speed = (reached - done) / max(time.monotonic() - started, 1e-9)
    if config.keep == "best":
        judged.load_state_dict(validation.best)
    results = _finish(config, output, material, judged, validation, reached)
    path.unlink(missing_ok=True)
    spent = {"steps_per_second": round(speed, 3), "images_at_a_time": step.chunk, "memory_halvings": step.halvings}
    return results | {"cost": spent}


def _finish(
    config: ClassifyConfig, output: Path, material: Material, network: nn.Module, validation: Validation, reached: int
) -> dict[str, Any]:
    """Calibrate on validation, write the model and its metrics, draw the pictures."""
    logits = scoring.predict_logits(network, scoring.single_pass_loader(material.validation, config), config)
    labels = np.array([row["label"] for row in material.validation])
    temperature = scoring.fit_temperature(logits, labels)
    abstention = fit_abstention(network, config, material, scoring.softmax(logits / temperature))
    parts = {"network": cpu_state(network), "abstention": abstention.parts()}
    scoring.write_model(output, config, material.classes, temperature, **parts)
    probabilities = scoring.softmax(logits)
    results = {
        "step": reached if config.keep == "last" else validation.best_step,
        "steps": reached,
        "temperature": temperature,
        "validation": all_metrics(probabilities, labels),
        "confusion": confusion(probabilities, labels).tolist(),
        "history": validation.history,
    }
    if config.pictures:
        from meddap_monai.classifier.diagnostics import draw_pictures

        draw_pictures(config, output, material, network, probabilities)
    store.write_json(output / "metrics.json", results | {"classes": material.classes})
    return {"validation": results["validation"], "chosen_step": results["step"]}
