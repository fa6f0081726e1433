"""Features of records: a frozen extractor runs over a loader once."""

from typing import Any

import numpy as np
import torch
from torch import nn

from meddap_monai.classifier.augment import augment
from meddap_monai.classifier.config import ClassifyConfig
from meddap_monai.classifier.data import to_float


@torch.inference_mode()
def extract(extractor: nn.Module, loader: Any, config: ClassifyConfig, augmented: bool = False) -> np.ndarray:
    """Run an extractor over a loader; return ``(N, D)`` float32.

    Args:
        extractor: images in 0..1 to features.
        loader: batches with ``image``.
        config: device, and the seed of the augmentation.
        augmented: change every image once by the run's augmentation first.
    """
    extractor.eval()
    found = []
    for number, batch in enumerate(loader):
        images = to_float(batch["image"].to(config.device))
        if augmented:
            images = augment(images, config, number)
        found.append(extractor(images).float().cpu())
    return torch.cat(found).numpy()
