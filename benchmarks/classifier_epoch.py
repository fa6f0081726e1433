"""Time of a classifier epoch: this package's loop against MONAI's plain `Dataset` pipeline, in turns.

    python benchmarks/classifier_epoch.py [--images 240] [--epochs 5] [--size 128] [--network resnet10_narrow]

Plain: `Dataset` with `LoadImaged`, `EnsureChannelFirstd`, `ScaleIntensityd`, `Resized` and the random transforms of
classical augmentation per image, `DataLoader`, `SupervisedTrainer`. Ours: the same trainer class over images decoded
once, augmented as a batch. Same network, same number of steps, one thread. The first epoch of both is not counted.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Events
from machine import processor_name
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedTrainer
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    LoadImaged,
    RandAdjustContrastd,
    RandAffined,
    RandFlipd,
    RandGaussianNoised,
    Resized,
    ScaleIntensityd,
)
from PIL import Image

from meddap_monai.classifier.config import ClassifyConfig
from meddap_monai.classifier.data import make_dataset, make_loader, plan_batches
from meddap_monai.classifier.engine import Criterion, TrainingStep, build_trainer
from meddap_monai.classifier.optimization import build_optimizer
from meddap_monai.classifier.stage import initial_network
from meddap_monai.phantom.simulation import simulate_image
from meddap_monai.phantom.tissue import CLASSES
from meddap_monai.store import versions


def write_images(folder: Path, count: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    base = [simulate_image(name, seed) for name in CLASSES for seed in range(4)]
    rows = []
    for number in range(count):
        pixels = Image.fromarray(base[number % len(base)]).resize((256, 200))
        noisy = np.clip(np.asarray(pixels) + rng.integers(-4, 5, (200, 256)), 0, 255).astype(np.uint8)
        path = folder / f"{number:05d}.png"
        Image.fromarray(noisy).save(path)
        label = number % len(base) // 4
        rows.append({"id": path.stem, "image": str(path), "label": label, "source": "real", "split": "train"})
    return rows


def plain_trainer(rows: list[dict[str, Any]], config: ClassifyConfig, epochs: int) -> SupervisedTrainer:
    transform = Compose(
        [
            LoadImaged("image", reader="PILReader"),
            EnsureChannelFirstd("image"),
            ScaleIntensityd("image"),
            Resized("image", (config.resolution, config.resolution)),
            RandAffined("image", prob=1.0, rotate_range=0.26, scale_range=0.1, padding_mode="zeros"),
            RandFlipd("image", prob=0.5, spatial_axis=0),
            RandAdjustContrastd("image", prob=1.0, gamma=(0.7, 1.4)),
            RandGaussianNoised("image", prob=1.0, std=0.04),
        ]
    )
    items = [{"image": row["image"], "label": row["label"]} for row in rows]
    loader = DataLoader(Dataset(items, transform), batch_size=config.batch, shuffle=True)
    network = initial_network(config, len(CLASSES))
    return SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=epochs + 1,
        train_data_loader=loader,
        network=network,
        optimizer=build_optimizer(config, network),
        loss_function=torch.nn.CrossEntropyLoss(),
    )


def our_trainer(rows: list[dict[str, Any]], config: ClassifyConfig) -> SupervisedTrainer:
    network = initial_network(config, len(CLASSES))
    loader = make_loader(make_dataset(rows, config), plan_batches(rows, config).tolist())
    step = TrainingStep(config, Criterion(config), len(CLASSES))
    return build_trainer(config, network, build_optimizer(config, network), loader, step, [])


def epoch_seconds(trainer: SupervisedTrainer, steps: int) -> list[float]:
    """Seconds of each stretch of `steps` iterations but the first."""
    marks: list[float] = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED(every=steps), lambda _: marks.append(time.perf_counter()))
    trainer.run()
    return list(np.diff(marks))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=240)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--encoder", default="resnet10_narrow")
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    steps = chosen.images // 16
    config = ClassifyConfig(
        encoder=chosen.encoder, mode="scratch", resolution=chosen.size, steps=steps, augmentation="classical", batch=16
    )
    config = replace(config, steps=steps * (chosen.epochs + 1))
    times: dict[str, list[float]] = {"plain": [], "ours": []}
    with tempfile.TemporaryDirectory() as folder:
        rows = write_images(Path(folder), steps * 16)
        for _ in range(chosen.repeats):
            times["plain"] += epoch_seconds(plain_trainer(rows, config, chosen.epochs), steps)
            times["ours"] += epoch_seconds(our_trainer(rows, config), steps)
    print(f"machine: {processor_name()}, 1 thread; {versions()}")
    print(f"work: {steps * 16} images of 200 x 256 to {chosen.size} px, {chosen.encoder}, batch 16, augmented")
    for name, found in times.items():
        print(f"{name}: median {statistics.median(found):.2f} s an epoch, {min(found):.2f} to {max(found):.2f} s")
    ratio = statistics.median(times["plain"]) / statistics.median(times["ours"])
    print(f"ratio: {ratio:.2f} (floor 1.5, target 2)")


if __name__ == "__main__":
    main()
