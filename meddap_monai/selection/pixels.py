"""Images of records as one small array: what the filter, the copy check and the feature networks look at."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from meddap_monai.classifier.data import read_framed
from meddap_monai.core.progress import progress
from meddap_monai.core.records import Record

MANY = 500
"""From this number of images on a progress line is shown."""


def read_squares(
    records: Sequence[Record], size: int, channels: int = 1, fit: str = "stretch", threads: int = 1
) -> np.ndarray:
    """Read the images of `records` as squares.

    Args:
        records: with absolute ``image`` paths of 8-bit PNG files.
        size: side of the square in pixels.
        channels: 1 (grey) or 3 (colour).
        fit: ``stretch``, ``pad`` or ``crop``, see `meddap_monai.images.framing.frame`.
        threads: how many images are decoded at once.

    Returns:
        (N, C, size, size) uint8.

    Raises:
        UnreadableImage: names the file.
    """
    stack = np.empty((len(records), channels, size, size), np.uint8)

    def read(number: int) -> None:
        stack[number] = read_framed(records[number], size, channels, fit).numpy()

    with ThreadPoolExecutor(max_workers=threads) as pool:
        jobs = pool.map(read, range(len(records)))
        for _ in progress(jobs, total=len(records), desc="images", unit="image", disable=len(records) < MANY):
            pass
    return stack


def to_thumbnails(stack: np.ndarray, size: int = 64) -> np.ndarray:
    """Return (N, size, size) float16 grey in 0 to 1, area means, from (N, C, H, W) uint8."""
    parts = np.array_split(stack, max(1, len(stack) // 1024))
    grey = (torch.from_numpy(part).float().mean(dim=1, keepdim=True) / 255 for part in parts)
    return torch.cat([torch.nn.functional.adaptive_avg_pool2d(part, size)[:, 0].half() for part in grey]).numpy()
