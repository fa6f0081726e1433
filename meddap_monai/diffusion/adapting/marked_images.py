"""The images with drawn marks, counted and shown in TensorBoard with what does not count in the loss in red."""

import numpy as np
import torch
from torch.nn import functional

from meddap_monai.diffusion.adapting.batches import Item
from meddap_monai.diffusion.adapting.latent_cache import Framing, marks, views
from meddap_monai.diffusion.adapting.preparation import Prepared
from meddap_monai.diffusion.bases.sample_pictures import grid
from meddap_monai.training.handlers import Curves

_SHOWN = 8


def draw_marks(prepared: Prepared, curves: Curves) -> None:
    """Write how many training images carry marks, which share of their latents these cover, and a picture of some."""
    marked, everything = prepared.batches.marked, len(prepared.batches.items)
    if curves.writer is None or not marked:
        return
    share = sum(float(item.marks.float().mean()) for item in marked if item.marks is not None) / len(marked)
    counts = {"marked_images": float(len(marked)), "images": float(everything), "marked_share": share}
    curves.write(counts, 0)
    pairs = [_pair(prepared, item) for item in marked[:_SHOWN]]
    curves.writer.add_image("adapt/image_and_marked", grid(pairs), 0, dataformats="HWC")


def _pair(prepared: Prepared, item: Item) -> list[np.ndarray]:
    """Return an image, and it with the latents that do not count in red, each ``(H, W, 3)`` uint8."""
    (record,) = (record for record in prepared.training if record["id"] == item.id)
    height, width = prepared.size
    framing = Framing(height, width, prepared.config.fit)
    pixels = ((views(record, framing)[0].permute(1, 2, 0) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()
    cells = functional.adaptive_max_pool2d(
        marks(record, framing)[:1, None].float(), (height // prepared.factor, width // prepared.factor)
    )
    covered = functional.interpolate(cells, (height, width))[0, 0].numpy() > 0
    masked = pixels.copy()
    masked[covered] = (masked[covered] // 2) + np.array([127, 0, 0], np.uint8)
    return [pixels, masked]
