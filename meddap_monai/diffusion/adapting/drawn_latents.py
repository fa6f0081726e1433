"""Latents that the base itself draws for the prompts of records: distillation without any image."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from meddap_monai import store
from meddap_monai.core.devices import PRECISIONS
from meddap_monai.core.records import Record
from meddap_monai.core.seeds import derive_seed
from meddap_monai.diffusion.adapting.latent_cache import Framing
from meddap_monai.diffusion.bases.sample_pictures import draw_latents
from meddap_monai.diffusion.bases.schedulers import Sampling


class DrawnLatents:
    """Stands where a `LatentCache` does: a record gives its prompt and its id, and its image is never opened.

    Args:
        folder: of the cache, content-addressed.
        pipeline: the base, before anything trainable is in it.
        base_name: hash that identifies its weights.
        sentences: record id -> prompt.
        sampling: how it draws.
        count: latents per record.
        seed: of the run.
        precision: of the arithmetic, see ``PRECISIONS``.
    """

    def __init__(
        self,
        folder: Path,
        pipeline: Any,
        base_name: str,
        sentences: Mapping[str, str],
        sampling: Sampling,
        count: int,
        seed: int,
        precision: str = "fp32",
    ) -> None:
        self.folder, self.pipeline, self.base_name = folder, pipeline, base_name
        self.sentences, self.sampling, self.count, self.seed = sentences, sampling, count, seed
        self.precision = precision

    def get(self, record: Record, framing: Framing) -> torch.Tensor:
        """Return ``(count, 2, C, h, w)`` float32: drawn latents, and their deviation, which is 0.

        A record's latents are always drawn together and alone, so the result does not depend on what the cache holds.
        """
        sentence, size = self.sentences[record["id"]], (framing.height, framing.width)
        seeds = [derive_seed(self.seed, "adapt/drawn", record["id"], number) for number in range(self.count)]
        facts = [self.base_name, self.precision, sentence, seeds, size, store.plain(self.sampling)]
        name = store.sha256_text(json.dumps(facts, sort_keys=True))
        path = self.folder / name[:2] / f"{name}.safetensors"
        try:
            return load_file(store.regular_file(path))["moments"].clone()
        except (SafetensorError, OSError, KeyError):
            half = self.precision != "fp32"
            with torch.autocast(self.pipeline.device.type, PRECISIONS[self.precision], enabled=half):
                drawn = draw_latents(self.pipeline, [sentence] * self.count, seeds, size, self.sampling)
            moments = torch.stack([drawn, torch.zeros_like(drawn)], dim=1)
            store.write_atomic(path, save({"moments": moments}))
            return moments

    def marks(self, record: Record, framing: Framing, size: tuple[int, int]) -> None:
        """Return None: nobody drew over a latent."""
