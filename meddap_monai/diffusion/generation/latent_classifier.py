"""A classifier of latents, trained on the small labelled set, whose gradient steers a base.

HistoDiffusion (Ye et al., MICCAI 2023): the encoder half of a UNet with attention pooling. Two kinds are trained: on
clean latents (time 0, as published), or on noisy latents with the time as an input (Dhariwal and Nichol 2021, sec. 4).
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from meddap_monai import store
from meddap_monai.core.configuration import build
from meddap_monai.core.records import class_names, read_records
from meddap_monai.core.seeds import generator
from meddap_monai.core.tensors import read_weights
from meddap_monai.diffusion.bases.base import EMBEDDED, Base, load_base, open_base
from meddap_monai.diffusion.bases.noise import Objective
from meddap_monai.diffusion.generation.config import LatentClassifierConfig
from meddap_monai.diffusion.pretraining.views import grey_tensor
from meddap_monai.errors import BadBase, RecordsError, StageError
from meddap_monai.images.framing import crop_top
from meddap_monai.images.provenance import check_provenance, write_train_hashes
from meddap_monai.images.reading.recorded import open_recorded
from meddap_monai.training.checkpoint import NAME
from meddap_monai.training.finite import check_finite
from meddap_monai.training.schedules import FLOOR, schedule, set_rate
from meddap_monai.training.step_trainer import TrainingRun, train


class LatentClassifier(nn.Module):
    """Encoder half of a UNet with attention pooling.

    Args:
        latents: channels of the latents.
        classes: how many classes.
        config: widths and heads.
    """

    def __init__(self, latents: int, classes: int, config: LatentClassifierConfig) -> None:
        super().__init__()
        from diffusers.models.embeddings import TimestepEmbedding, Timesteps
        from diffusers.models.resnet import Downsample2D, ResnetBlock2D

        widths, width = config.channels, config.channels[0]
        self.wave = Timesteps(width, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time = TimestepEmbedding(width, 4 * width)
        self.enter = nn.Conv2d(latents, width, 3, padding=1)
        shape: dict[str, Any] = {"temb_channels": 4 * width, "groups": 8, "groups_out": 8}
        self.blocks, self.halve = nn.ModuleList(), nn.ModuleList()
        for before, after in zip((width, *widths), widths, strict=False):
            self.blocks.append(ResnetBlock2D(in_channels=before, out_channels=after, **shape))
            self.halve.append(Downsample2D(after, use_conv=True, name="op"))  # "conv" would register it twice
        self.query = nn.Parameter(torch.zeros(1, 1, widths[-1]))
        self.pool = nn.MultiheadAttention(widths[-1], config.heads, batch_first=True)
        self.leave = nn.Linear(widths[-1], classes)

    def forward(self, latents: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        """Return logits (B, classes) of latents (B, C, h, w) at times (B,)."""
        moment = self.time(self.wave(times).to(latents.dtype))
        hidden = self.enter(latents)
        for number, block in enumerate(self.blocks):
            hidden = block(hidden, moment)
            if number + 1 < len(self.blocks):
                hidden = self.halve[number](hidden)
        tokens = functional.silu(hidden).flatten(2).transpose(1, 2)
        query = self.query + tokens.mean(1, keepdim=True)
        return self.leave(self.pool(query, tokens, tokens, need_weights=False)[0][:, 0])


def train_latent_classifier(
    config: LatentClassifierConfig, output: Path, *, records: Path, base: str | Path | Base = EMBEDDED
) -> Path:
    """Train a latent classifier on the real images of split train.

    Args:
        config: see `LatentClassifierConfig`.
        output: folder for ``classifier.safetensors``, ``classifier.json`` and ``train_sha256.txt``; when it already
            holds the same training, nothing is done.
        records: records file; its val records must not be among the base's training images.
        base: whose latents and noise schedule.

    Returns:
        `output`.

    Raises:
        RecordsError: fewer than two classes in split train.
        LeakedRecords: the base was trained on a val, test or unseen image of `records`.
        NonFiniteLoss: the loss became NaN or infinite.
        Interrupted: SIGINT or SIGTERM; the same call goes on from the checkpoint.
    """
    output, records, base = Path(output), Path(records), open_base(base)
    wanted = {
        "configuration": store.plain(config),
        "records": store.sha256_file(records),
        "base": base.sha256,
    }
    with store.lock_folder(output):
        if wanted.items() <= (_card(output) or {}).items():
            return output
        everything = read_records(records, full=True)
        training = [item for item in everything if item["split"] == "train" and item["source"] == "real"]
        classes = class_names(records)
        if len({item["label"] for item in training}) < 2:
            raise RecordsError(
                f"{records}: {len(training)} real training images of fewer than two classes, cannot guide"
            )
        check_provenance(base.source, everything)
        pipeline: Any = load_base(base)
        latents, labels = _encode(pipeline, training)
        ids = [item["id"] for item in training]
        work = LatentClassifierTraining(config, pipeline.scheduler, latents, labels, len(classes), ids)
        with store.InterruptFlag() as flag:
            train(work, TrainingRun("latent_classifier", config.steps, output / NAME, flag, output / "tensorboard"))
        with store.atomic_path(output / "classifier.safetensors") as temporary:
            save_file({name: value.contiguous() for name, value in work.model.state_dict().items()}, str(temporary))
        write_train_hashes(output, training, everything, base.training_images)
        document = wanted | {"classes": classes, "latents": latents.shape[1], "images": len(training)}
        store.write_json(output / "classifier.json", document)
        (output / NAME).unlink()
    return output


def load_latent_classifier(
    folder: Path, base: str | Path | Base | None = None
) -> tuple[LatentClassifier, dict[str, Any]]:
    """Load a latent classifier, frozen.

    Args:
        folder: written by `train_latent_classifier`.
        base: when given, must be the base it was trained for.

    Raises:
        BadBase: trained for another base.
        RecordsError: not a latent classifier's folder.
    """
    document = _card(Path(folder))
    if document is None:
        raise RecordsError(f"{folder}: holds no classifier.json; train a latent classifier there first")
    if base is not None and document["base"] != (wanted := open_base(base)).sha256:
        raise BadBase(
            f"{folder}: its latent classifier was trained for another base than {wanted.name}; train it again"
        )
    config = build(LatentClassifierConfig, document["configuration"], f"{folder}/classifier.json")
    model = LatentClassifier(document["latents"], len(document["classes"]), config)
    model.load_state_dict(read_weights(Path(folder) / "classifier.safetensors", StageError))
    return model.eval().requires_grad_(False), document


def _card(folder: Path) -> dict[str, Any] | None:
    path = folder / "classifier.json"
    return store.read_json(path) if path.is_file() else None


@torch.no_grad()
def _encode(pipeline: Any, records: list[dict[str, Any]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return scaled latents of every image and of its mirror image, and their labels."""
    sample = pipeline.unet.config.sample_size
    side = (sample if isinstance(sample, int) else max(sample)) * pipeline.vae_scale_factor
    pictures = []
    for record in records:
        pixels = np.asarray(crop_top(open_recorded(record).convert("L"), side, side))
        pictures += [pixels, pixels[:, ::-1]]
    latents = []
    for start in range(0, len(pictures), 16):
        images = grey_tensor(np.stack(pictures[start : start + 16])).expand(-1, pipeline.vae.config.in_channels, -1, -1)
        latents.append(pipeline.vae.encode(images).latent_dist.mode() * pipeline.vae.config.scaling_factor)
    labels = torch.tensor([record["label"] for record in records for _ in range(2)])
    return torch.cat(latents), labels


class LatentClassifierTraining:
    """Steps that train a latent classifier, all classes equally often.

    Args:
        config: shape and training.
        scheduler: noise schedule of the base.
        latents: (2 N, C, h, w) of N images and their mirror images, in turns.
        labels: (2 N,) int64.
        classes: how many.
        ids: of the N records.
    """

    def __init__(
        self,
        config: LatentClassifierConfig,
        scheduler: Any,
        latents: torch.Tensor,
        labels: torch.Tensor,
        classes: int,
        ids: list[str],
    ) -> None:
        self.config, self.latents, self.labels, self.ids = config, latents, labels, ids
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.model = LatentClassifier(latents.shape[1], classes, config).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.0, weight_decay=config.weight_decay)
        self.share = 1.0 / torch.bincount(labels, minlength=classes).clamp(min=1)[labels].double()
        self.objective = Objective(scheduler.config)

    @property
    def state(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {"model": self.model, "optimizer": self.optimizer}

    def advance(self, step: int) -> dict[str, float]:
        """Do step `step`."""
        config = self.config
        draw = generator(config.seed, "latent classifier", step)
        chosen = torch.multinomial(self.share, config.batch, replacement=True, generator=draw)
        inputs, times = self.latents[chosen], torch.zeros(config.batch, dtype=torch.long)
        if config.times == "noisy":
            times = torch.randint(self.objective.steps, (config.batch,), generator=draw)
            noise = torch.randn(inputs.shape, generator=draw)
            inputs, _ = self.objective.diffuse(inputs, noise, times)
        rate = config.learning_rate * schedule("cosine", step, config.steps, min(20, config.steps), FLOOR)
        loss = functional.cross_entropy(self.model(inputs, times), self.labels[chosen])
        check_finite(loss, "latent classifier", step + 1, rate, [self.ids[n // 2] for n in chosen.tolist()])
        set_rate(self.optimizer, rate)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": loss.item(), "learning_rate": rate}


def default_config(
    variant: str, seed: int = 0, training: LatentClassifierConfig | None = None
) -> LatentClassifierConfig:
    """Return `training` with what a guidance variant needs: noisy latents for "noisy", clean ones otherwise."""
    times = "noisy" if variant == "noisy" else "clean"
    return dataclasses.replace(training or LatentClassifierConfig(), times=times, seed=seed)
