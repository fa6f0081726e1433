"""An epoch of a classifier: this package's loop against MONAI's plain `Dataset` pipeline.

Plain: `Dataset` with `LoadImaged`, `EnsureChannelFirstd`, `ScaleIntensityd`, `Resized` and the random transforms of
classical augmentation per image, `DataLoader`, `SupervisedTrainer`. Ours: the same trainer class over images decoded
once, augmented as a batch. Same network, same number of steps. The first epoch of both is not counted.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Events
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

STEPS, BATCH, EPOCHS = 10, 16, 100


class EpochLoop:
    """One of the two, an epoch at a time."""

    def __init__(self, folder: Path, plain: bool) -> None:
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        config = ClassifyConfig(
            encoder="resnet10_narrow", mode="scratch", resolution=128, steps=STEPS * EPOCHS, augmentation="classical",
            batch=BATCH,
        )  # fmt: skip
        place = folder / "images"
        place.mkdir(exist_ok=True)
        rows = write_images(place, STEPS * BATCH)
        self.trainer = plain_trainer(rows, config, EPOCHS) if plain else our_trainer(rows, config)
        every = Events.ITERATION_COMPLETED(every=STEPS)
        self.trainer.add_event_handler(every, lambda engine: engine.interrupt())

    def step(self) -> int:
        """Run the next epoch."""
        self.trainer.run()
        return 1


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
