"""What the bundle ``uslora_adapter`` is made of: the stages ``adapt`` and ``generate`` as MONAI workflows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.data import Dataset
from monai.inferers import Inferer

from meddap_monai.core.configuration import build
from meddap_monai.core.records import Record, read_records
from meddap_monai.diffusion.adapters.adapter import load_adapter
from meddap_monai.diffusion.adapting.config import AdaptConfig
from meddap_monai.diffusion.adapting.latent_cache import Framing, views
from meddap_monai.diffusion.adapting.stage import adapt
from meddap_monai.diffusion.bases.base import Base, load_base
from meddap_monai.diffusion.bases.prompts import load_prompt_table
from meddap_monai.diffusion.generation.config import GenerateConfig
from meddap_monai.diffusion.generation.stage import generate


class PictureDataset(Dataset):
    """The real pictures of a split as the training sees them, unaugmented.

    Items are ``{"image": (3, H, W) in [-1, 1], "prompt": text, "id": text}``.

    Args:
        records: records file.
        split: "train" or "val".
        settings: the keys of `AdaptConfig`.
        side: of the pictures in pixels.
    """

    def __init__(self, records: str | Path, split: str, settings: Mapping[str, Any], side: int) -> None:
        self.records, self.config = Path(records), build(AdaptConfig, dict(settings), "adapt")
        self.table = load_prompt_table(self.config.prompts)
        self.framing = Framing(side, side, self.config.fit)
        super().__init__(read_records(records, split=split, source="real", full=True), self._picture)

    def _picture(self, record: Record) -> dict[str, Any]:
        prompt = self.table.prompt(record["class_name"], self.config.adjective, self.config.template)
        return {"image": views(record, self.framing)[0], "prompt": prompt, "id": record["id"]}


def trainable_unet(base: str | Path | Base, settings: Mapping[str, Any]) -> torch.nn.Module:
    """Return the base's UNet with the trainable layers of the method in it, everything else frozen."""
    pipeline: Any = load_base(base)
    config = build(AdaptConfig, dict(settings), "adapt").filled()
    config.method_.prepare(pipeline, config, load_prompt_table(config.prompts).classes)
    return pipeline.unet


class AdapterTraining:
    """The stage ``adapt`` as a bundle's trainer.

    Args:
        dataset: `PictureDataset` of the training split; its records file is trained on.
        settings: the keys of `AdaptConfig`.
        output: adapter folder.
        base: see ``open_base``.
        inferer: how the UNet is called, usually MONAI's ``SimpleInferer``.
        train_handlers: further handlers with ``attach``, such as MONAI's ``StatsHandler``.
        device: of the training.
        max_epochs: one epoch is the whole run; the steps stand in `settings`.
        overwrite: replace an output of another configuration.
    """

    def __init__(
        self,
        dataset: PictureDataset,
        settings: Mapping[str, Any],
        output: str | Path,
        base: str | Path | Base = "embedded",
        inferer: Inferer | None = None,
        train_handlers: Sequence[Any] = (),
        device: torch.device | str = "cpu",
        max_epochs: int = 1,
        overwrite: bool = False,
    ) -> None:
        self.config = build(AdaptConfig, {"device": str(device), **settings}, "adapt")
        self.records, self.output, self.base, self.overwrite = dataset.records, Path(output), base, overwrite
        self.inferer, self.handlers, self.max_epochs = inferer, list(train_handlers), max_epochs

    def run(self) -> Path:
        """Train and return the adapter folder."""
        return adapt(
            self.config,
            self.output,
            records=self.records,
            base=self.base,
            overwrite=self.overwrite,
            handlers=self.handlers,
            inferer=self.inferer,
        )


def adapted_unet(base: str | Path | Base, adapter: str | Path) -> torch.nn.Module:
    """Return the base's UNet with an adapter in it."""
    pipeline: Any = load_base(base)
    load_adapter(pipeline, adapter)
    return pipeline.unet


class SyntheticGeneration:
    """The stage ``generate`` as a bundle's evaluator.

    Args:
        dataset: `PictureDataset` whose records give classes and counts.
        settings: the keys of ``GenerateConfig``.
        output: folder of the stage.
        base: see ``open_base``.
        adapters: adapter folders or files.
        device: where to sample.
        overwrite: replace an output of another configuration.
    """

    def __init__(
        self,
        dataset: PictureDataset,
        settings: Mapping[str, Any],
        output: str | Path,
        base: str | Path | Base = "embedded",
        adapters: Sequence[str | Path] = (),
        device: torch.device | str = "cpu",
        overwrite: bool = False,
    ) -> None:
        self.config = build(GenerateConfig, {"device": str(device), **settings}, "generate")
        self.records, self.output, self.base, self.overwrite = dataset.records, Path(output), base, overwrite
        self.adapters = list(adapters)

    def run(self) -> Path:
        """Generate and return the records of the images."""
        return generate(
            self.config,
            self.output,
            records=self.records,
            base=self.base,
            adapters=self.adapters,
            overwrite=self.overwrite,
        )
