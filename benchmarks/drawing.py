"""Pictures that a base draws, alone or with adapters, exactly as `generate` draws them; kept, so that a run goes on."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from pathlib import Path

import numpy as np

from meddap_monai import store
from meddap_monai.diffusion.bases.base import open_base
from meddap_monai.diffusion.generation.config import GenerateConfig
from meddap_monai.diffusion.generation.defaults import settled
from meddap_monai.diffusion.generation.plan import PlanRow
from meddap_monai.diffusion.generation.sampler import ImageSampler
from meddap_monai.diffusion.generation.stage import adapter_hash, open_sampler

BATCH = 8


class Drawer:
    """A base, and adapters after plus signs: ``embedded``, ``runs/base``, ``embedded+runs/distilled/adapter``.

    Args:
        text: as above.
        folder: keeps the pictures.
        config: sampler, steps, guidance, precision; what is not said is as `generate` has it.
        seed: of the start noise.
    """

    def __init__(self, text: str, folder: Path, config: GenerateConfig, seed: int = 0) -> None:
        self.name, self.folder, self.seed = text, folder, seed
        base, *adapters = text.split("+")
        self.base = open_base(base)
        self.config, self.adapters = settled(config, self.base, adapters)
        self.drawn, self.seconds, self.processor = 0, 0.0, 0.0
        self._opened = contextlib.ExitStack()
        self._sampler: ImageSampler | None = None

    def pictures(self, prompt: str, count: int, stream: int) -> np.ndarray:
        """Return `count` grey pictures (count, side, side) uint8 of a prompt; `stream` numbers its random numbers."""
        path = self.folder / f"{stream:04d}-{self._identity(prompt, count)}.npy"
        if path.is_file():
            found: np.ndarray = np.load(path)
            return found
        rows = [self._row(prompt, self.seed * 1_000_000 + stream * 10_000 + number) for number in range(count)]
        sampler, begun = self.sampler, (time.monotonic(), time.process_time())
        parts = [sampler.sample(rows[start : start + BATCH]) for start in range(0, count, BATCH)]
        self.seconds += time.monotonic() - begun[0]
        self.processor += time.process_time() - begun[1]
        self.drawn += count
        grey = np.rint(np.concatenate(parts).mean(-1)).astype(np.uint8)
        with store.atomic_path(path) as temporary, temporary.open("wb") as opened:
            np.save(opened, grey)
        return grey

    @property
    def sampler(self) -> ImageSampler:
        """The opened base with its adapters."""
        if self._sampler is None:
            self._sampler = self._opened.enter_context(open_sampler(self.config, self.base, self.adapters))
        return self._sampler

    def close(self) -> None:
        """Free the base."""
        self._sampler = None
        self._opened.close()

    def _identity(self, prompt: str, count: int) -> str:
        made_by = [self.base.sha256, *(adapter_hash(path) for path in self.adapters)]
        facts = [prompt, count, self.seed, made_by, dataclasses.replace(self.config, counts=None)]
        return store.hash_configuration(facts)[:12]

    def _row(self, prompt: str, seed: int) -> PlanRow:
        config, (height, width) = self.config, self.sampler.size
        how = (config.schedulers[0], config.steps_, config.guidance_, 1.0)
        return PlanRow(0, "", 0, "none", prompt, "", seed, "text", *how, "", height, width)
