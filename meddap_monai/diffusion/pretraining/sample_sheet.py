"""What a base draws, one row of pictures per class: in TensorBoard while it trains, on its card in the end."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from meddap_monai.diffusion.bases.prompts import PromptTable
from meddap_monai.diffusion.bases.sample_pictures import draw_pictures


def sample_sheet(
    pipeline: Any, tables: Sequence[PromptTable], seed: int, columns: int, steps: int, guidance: float = 2.5
) -> tuple[np.ndarray, list[str]]:
    """Draw one row of pictures per class of the tables.

    Returns:
        the sheet (rows * side, columns * side) uint8 and the prompt of each row.
    """
    prompts = [table.prompt(name) for table in tables for name in table.classes]
    side = pipeline.unet.config.sample_size * pipeline.vae_scale_factor
    rows = []
    for number, prompt in enumerate(prompts):
        seeds = [seed * 1000 + number * 100 + item for item in range(columns)]
        made = draw_pictures(pipeline, [prompt] * columns, seeds, (side, side), steps, guidance)
        rows.append(np.concatenate(list(np.rint(made.mean(-1)).astype(np.uint8)), axis=1))
    return np.concatenate(rows, axis=0), prompts
