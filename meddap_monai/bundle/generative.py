"""What the generative bundles are made of: the stages `adapt`, `pretrain` and `generate` as MONAI workflows."""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from monai.data import Dataset
from monai.inferers import Inferer

from meddap_monai.bundle.denoiser import Denoiser
from meddap_monai.core.configuration import build
from meddap_monai.core.records import Record, read_records
from meddap_monai.core.tensors import cpu_state, save_tensors
from meddap_monai.diffusion.adapters.adapter import load_adapter
from meddap_monai.diffusion.adapting.config import AdaptConfig
from meddap_monai.diffusion.adapting.latent_cache import Framing, views
from meddap_monai.diffusion.adapting.stage import adapt
from meddap_monai.diffusion.bases.base import Base, load_base
from meddap_monai.diffusion.bases.conditioning import Conditioning, encode_prompts
from meddap_monai.diffusion.bases.prompt_choice import table_for, tables_for
from meddap_monai.diffusion.generation.config import GenerateConfig
from meddap_monai.diffusion.generation.stage import generate
from meddap_monai.diffusion.pretraining.config import PretrainConfig
from meddap_monai.diffusion.pretraining.stage import pretrain
from meddap_monai.diffusion.pretraining.tokenizer import PROMPT_LENGTH
from meddap_monai.diffusion.pretraining.unet import build_denoiser
from meddap_monai.diffusion.pretraining.views import captioning_tables
from meddap_monai.errors import ConfigurationError

_STAGES: dict[str, tuple[Callable[..., Path], type]] = {
    "adapt": (adapt, AdaptConfig),
    "pretrain": (pretrain, PretrainConfig),
    "generate": (generate, GenerateConfig),
}


class PictureDataset(Dataset):
    """The real pictures of a split, unaugmented, each with the prompt that a training gives it.

    Items are ``{"image": (3, H, W) in [-1, 1], "prompt": text, "id": text}``.

    Args:
        records: records file.
        split: "train", "val" or "test".
        settings: the keys of `AdaptConfig`, or of `PretrainConfig` without a `side`.
        side: of the pictures in pixels; None: the resolution of the base that `settings` describe.

    Raises:
        ConfigurationError: no prompt table of a base to train knows a class, or several do.
    """

    def __init__(self, records: str | Path, split: str, settings: Mapping[str, Any], side: int | None = None) -> None:
        self.records = Path(records)
        rows = read_records(records, split=split, source="real", full=True)
        if side is None:
            base = build(PretrainConfig, dict(settings), "pretrain")
            self.framing, self.adjective, self.template = Framing(base.resolution, base.resolution), "none", 0
            names = sorted({row["class_name"] for row in rows})
            self.tables = captioning_tables(names, tables_for(base.prompts, names), base.views)
        else:
            config = build(AdaptConfig, dict(settings), "adapt")
            self.framing = Framing(side, side, config.fit)
            self.adjective, self.template = config.adjective, config.template
            names = sorted({row["class_name"] for row in read_records(records, source="real")})
            self.tables = dict.fromkeys(names, table_for(config.prompts, names))
        super().__init__(rows, self._picture)

    def _picture(self, record: Record) -> dict[str, Any]:
        table = self.tables[record["class_name"]]
        prompt = table.prompt(record["class_name"], self.adjective, self.template) if table else ""
        return {"image": views(record, self.framing)[0], "prompt": prompt, "id": record["id"]}


def trainable_unet(base: str | Path | Base, settings: Mapping[str, Any]) -> torch.nn.Module:
    """Return the base's UNet with the trainable layers of the method in it, everything else frozen; see `Denoiser`."""
    pipeline: Any = load_base(base)
    prompt = encode_prompts(pipeline, [""])
    config = build(AdaptConfig, dict(settings), "adapt").filled()
    config.method_.prepare(pipeline, config, table_for(config.prompts, ()).classes)
    return Denoiser(pipeline.unet, prompt, pipeline.vae_scale_factor)


def trained_unet(base: str | Path | Base, adapter: str | Path | None = None) -> torch.nn.Module:
    """Return the base's UNet, with an adapter in it where one is given; see `Denoiser`."""
    pipeline: Any = load_base(base)
    prompt = encode_prompts(pipeline, [""])
    if adapter is not None:
        load_adapter(pipeline, adapter)
    return Denoiser(pipeline.unet, prompt, pipeline.vae_scale_factor)


def new_unet(settings: Mapping[str, Any]) -> torch.nn.Module:
    """Return the UNet that a configuration of `pretrain` describes, with random weights; see `Denoiser`."""
    config = build(PretrainConfig, dict(settings), "pretrain")
    factor, width = config.autoencoder.factor, config.text_encoder.width
    side = config.resolution // factor
    unet: torch.nn.Module = build_denoiser(config.unet, config.autoencoder.latents, side, width)  # type: ignore[assignment]
    return Denoiser(unet, Conditioning(torch.zeros(1, PROMPT_LENGTH, width)), factor)


class StageRun:
    """A stage as a bundle's trainer or evaluator.

    Args:
        stage: "adapt", "pretrain" or "generate".
        dataset: whose records file the stage reads.
        settings: the keys of the stage's configuration.
        output: folder of the stage.
        inputs: what else the stage takes: ``base``, ``adapters``.
        inferer: how `adapt` calls the UNet, usually MONAI's ``SimpleInferer``.
        train_handlers: further handlers of `adapt` with ``attach``, such as MONAI's ``StatsHandler``.
        device: where to work, unless `settings` names one.
        max_epochs: one epoch is the whole run; the steps stand in `settings`.
        overwrite: replace an output of another configuration.
        checkpoint: file that takes the state of the trained network (`trained_unet`) for MONAI's tools.

    Raises:
        ConfigurationError: handlers are given to a stage that takes none.
    """

    def __init__(
        self,
        stage: str,
        dataset: PictureDataset,
        settings: Mapping[str, Any],
        output: str | Path,
        inputs: Mapping[str, Any] | None = None,
        inferer: Inferer | None = None,
        train_handlers: Sequence[Any] = (),
        device: torch.device | str = "cpu",
        max_epochs: int = 1,
        overwrite: bool = False,
        checkpoint: str | Path | None = None,
    ) -> None:
        self.checkpoint = checkpoint
        self.function, cls = _STAGES[stage]
        self.max_epochs, self.overwrite = max_epochs, overwrite
        self.current: Any = nullcontext()
        if train_handlers and stage != "adapt":
            raise ConfigurationError(
                f"train#handlers: {stage} takes none; its curves stand in <output_dir>/tensorboard"
            )
        if stage == "pretrain" and (device := torch.device(device)).type == "cuda":
            self.current, device = torch.cuda.device(device), "cuda"  # the stage takes the current GPU
        self.config: Any = build(cls, {"device": str(device), **settings}, stage)
        self.records, self.output, self.inputs = dataset.records, Path(output), dict(inputs or {})
        self.inputs |= {"handlers": list(train_handlers), "inferer": inferer} if stage == "adapt" else {}

    def run(self) -> Path:
        """Run the stage and return its result; under ``torchrun`` all processes together."""
        with self.current:
            made = self.function(
                self.config, self.output, records=self.records, overwrite=self.overwrite, **self.inputs
            )
        if self.checkpoint is not None and os.environ.get("RANK", "0") == "0":
            whole = (made / "model_index.json").is_file()
            network = trained_unet(made) if whole else trained_unet(self.inputs["base"], made)
            save_tensors(Path(self.checkpoint), cpu_state(network))
        return made
