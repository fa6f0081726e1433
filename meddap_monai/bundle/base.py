"""What the bundle ``ultrasound_ldm`` is made of: the stage ``pretrain`` as a MONAI workflow, a base to draw from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from monai.data import Dataset
from monai.inferers import Inferer

from meddap_monai.core.configuration import build
from meddap_monai.core.records import Record, read_records
from meddap_monai.diffusion.adapting.latent_cache import Framing, views
from meddap_monai.diffusion.bases.base import Base, load_base
from meddap_monai.diffusion.bases.prompts import load_prompt_table
from meddap_monai.diffusion.pretraining.config import PretrainConfig
from meddap_monai.diffusion.pretraining.stage import pretrain
from meddap_monai.diffusion.pretraining.unet import build_denoiser
from meddap_monai.diffusion.pretraining.views import captioning_tables
from meddap_monai.errors import ConfigurationError


class CaptionedPictures(Dataset):
    """The real pictures of a split, whole and unaugmented, with the caption of the prompt table that knows their class.

    Without captions (``views#captions: none``) the prompt is empty.

    Items are ``{"image": (3, H, W) in [-1, 1], "prompt": text, "id": text}``.

    Args:
        records: records file.
        split: "train", "val" or "test".
        settings: the keys of `PretrainConfig`.

    Raises:
        ConfigurationError: no table knows a class, or several do.
    """

    def __init__(self, records: str | Path, split: str, settings: Mapping[str, Any]) -> None:
        self.records, self.config = Path(records), build(PretrainConfig, dict(settings), "pretrain")
        side = self.config.resolution
        self.framing = Framing(side, side, "crop")
        rows = read_records(records, split=split, source="real", full=True)
        tables = [load_prompt_table(name) for name in self.config.prompts]
        self.tables = captioning_tables({row["class_name"] for row in rows}, tables, self.config.views)
        super().__init__(rows, self._picture)

    def _picture(self, record: Record) -> dict[str, Any]:
        table = self.tables[record["class_name"]]
        prompt = table.prompt(record["class_name"]) if table else ""
        return {"image": views(record, self.framing)[0], "prompt": prompt, "id": record["id"]}


def new_unet(settings: Mapping[str, Any]) -> torch.nn.Module:
    """Return the UNet that a configuration of `pretrain` describes, with random weights."""
    config = build(PretrainConfig, dict(settings), "pretrain")
    side = config.resolution // config.autoencoder.factor
    unet: torch.nn.Module = build_denoiser(config.unet, config.autoencoder.latents, side, config.text_encoder.width)  # type: ignore[assignment]
    return unet


def base_unet(base: str | Path | Base) -> torch.nn.Module:
    """Return the UNet of a base."""
    pipeline: Any = load_base(base)
    return pipeline.unet


class BaseTraining:
    """The stage ``pretrain`` as a bundle's trainer.

    Args:
        dataset: `CaptionedPictures` of the training split; its records file is trained on.
        settings: the keys of `PretrainConfig`.
        output: stage folder; the base goes to ``<output>/base``.
        inferer: how a UNet is called; kept for MONAI's property, the training calls it itself.
        train_handlers: must be empty; the stage has its own curves and pictures.
        device: of the training, unless `settings` names one.
        max_epochs: one epoch is the whole run; the steps stand in `settings`.
        overwrite: replace an output of another configuration.

    Raises:
        ConfigurationError: handlers are given.
    """

    def __init__(
        self,
        dataset: CaptionedPictures,
        settings: Mapping[str, Any],
        output: str | Path,
        inferer: Inferer | None = None,
        train_handlers: Sequence[Any] = (),
        device: torch.device | str = "cpu",
        max_epochs: int = 1,
        overwrite: bool = False,
    ) -> None:
        if train_handlers:
            raise ConfigurationError(
                "train#handlers: pretrain takes none; its curves stand in <output_dir>/tensorboard"
            )
        self.device = torch.device(device)
        self.config = build(PretrainConfig, {"device": self.device.type, **settings}, "pretrain")
        self.records, self.output, self.overwrite = dataset.records, Path(output), overwrite
        self.inferer, self.max_epochs = inferer, max_epochs

    def run(self) -> Path:
        """Train and return the base folder; under ``torchrun`` all processes together."""
        with torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext():
            return pretrain(self.config, self.output, records=self.records, overwrite=self.overwrite)
