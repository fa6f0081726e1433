"""From records and a base to what a training needs: latents, prompts, trainable layers; heavy parts freed."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import nn

from meddap_monai import store
from meddap_monai.core.devices import PRECISIONS, choose_device
from meddap_monai.core.distributed import SINGLE_PROCESS, Ranks
from meddap_monai.core.records import Record
from meddap_monai.core.seeds import derive_seed
from meddap_monai.diffusion.adapting.batches import Batches, Item
from meddap_monai.diffusion.adapting.config import AdaptConfig
from meddap_monai.diffusion.adapting.drawn_latents import DrawnLatents
from meddap_monai.diffusion.adapting.latent_cache import Framing, LatentCache, views
from meddap_monai.diffusion.adapting.losses import Loss
from meddap_monai.diffusion.adapting.trainable import Trainable
from meddap_monai.diffusion.adapting.training_data import choose_records, encode_items
from meddap_monai.diffusion.bases.base import Base, load_base
from meddap_monai.diffusion.bases.conditioning import Conditioning, cached_prompts, encode_prompts
from meddap_monai.diffusion.bases.noise import Objective
from meddap_monai.diffusion.bases.prompt_choice import check_columns, table_for, write_table
from meddap_monai.diffusion.bases.prompts import PromptTable
from meddap_monai.diffusion.bases.sample_pictures import draw_pictures
from meddap_monai.diffusion.bases.schedulers import Sampling
from meddap_monai.diffusion.bases.vocabulary import check_words
from meddap_monai.diffusion.bases.words import Words, ending, facts_of, known_columns
from meddap_monai.errors import ConfigurationError


@dataclass
class Prepared:
    """Everything a training needs.

    Attributes:
        config: with the method's defaults filled in.
        pipeline: the base with the trainable layers; its text encoder may be gone.
        base: what is taught.
        table: prompt table.
        classes: class names in the order of their labels.
        class_prompts: class name -> training prompt.
        trainable: what is trained.
        objective: noise, target, weights.
        loss: what is minimised.
        batches: this process's batches.
        held_out: validation images.
        prompts: closure that gives the encoded prompts of a step.
        training: the training records.
        size: (height, width) of pictures.
        factor: pixels per latent.
        device: of the training.
        real_rows: a few real pictures per class.
    """

    config: AdaptConfig
    pipeline: Any
    base: Base
    table: PromptTable
    classes: list[str]
    class_prompts: dict[str, str]
    trainable: Trainable
    objective: Objective
    loss: Loss
    batches: Batches
    held_out: list[Item]
    prompts: Callable[[], Conditioning]
    training: list[Record]
    size: tuple[int, int]
    factor: int
    device: torch.device
    real_rows: list[list[np.ndarray]] = field(default_factory=list)
    network: nn.Module | None = None

    @property
    def unet(self) -> nn.Module:
        """The UNet, compiled where asked for."""
        return self.network if self.network is not None else self.pipeline.unet

    @torch.no_grad()
    def draw(self) -> list[list[np.ndarray]]:
        """Return one row of pictures per class, from fixed seeds, for the present weights."""
        words = self.prompts()
        dtype = self.pipeline.unet.dtype
        # torch's own `to`: that of diffusers warns of a change of type whenever one is named, even the present one
        vae = nn.Module.to(self.pipeline.vae, self.device, dtype)
        rows = []
        for number, name in enumerate(self.classes):
            count = self.config.samples_per_class
            prompts = words.take(torch.full((count,), number + 1)).to(self.device).to(dtype)
            empty = words.take(torch.tensor([0])).to(self.device).to(dtype)
            seeds = [derive_seed(self.config.seed, "adapt/samples", name, picture) for picture in range(count)]
            how = self.config.method_.sampling or Sampling(
                steps=self.config.sample_steps, guidance=self.config.guidance
            )
            steps, guidance = how.steps, how.guidance
            with torch.autocast(self.device.type, dtype, enabled=dtype == torch.bfloat16):  # beside float32 ones
                drawn = draw_pictures(self.pipeline, prompts, seeds, self.size, steps, guidance, empty, how.scheduler)
            rows.append(list(drawn))
        if self.device.type != "cpu":
            vae.to("cpu")
        return rows


def prepare(
    config: AdaptConfig,
    output: Path,
    everything: Sequence[Record],
    base: Base,
    flag: store.InterruptFlag,
    ranks: Ranks = SINGLE_PROCESS,
) -> Prepared:
    """Load the base, encode images and prompts, put the trainable layers in.

    Args:
        config: with the method's defaults filled in.
        output: of the stage; holds the cache unless the configuration names one.
        everything: full records.
        base: what is taught.
        flag: an arrived signal ends the encoding.
        ranks: the processes that divide every step.

    Raises:
        ConfigurationError, RecordsError: see ``adapt``.
    """
    device = choose_device(config.device, "adapt#device")
    training, held_out = choose_records(everything, config)
    classes = [name for _, name in sorted({(record["label"], record["class_name"]) for record in training})]
    table = table_for(config.prompts, classes)
    class_prompts = {
        name: config.method_.training_prompt(table, name, config.adjective, config.template) for name in classes
    }
    check_columns(config.columns, training, "adapt#columns")
    if not config.columns:
        config = dataclasses.replace(config, columns=known_columns(base.words, training))
    if ranks.rank == 0:
        write_table(table, output, "adapt", config.prompts)
    if config.batch % ranks.size:
        raise ConfigurationError(f"adapt#batch: {config.batch} is no multiple of the {ranks.size} processes")
    pipeline: Any = load_base(base, dtype=PRECISIONS[config.precision] if device.type != "cpu" else None, device=device)
    if device.type == "cuda":
        pipeline.unet.to(memory_format=torch.channels_last)  # as convolutions in 16 bit want it there
    size, factor = picture_size(pipeline, config, base)
    objective = Objective(pipeline.scheduler.config, config.snr_gamma, config.noise_offset)
    cache = Path(config.cache) if config.cache else output / "cache"
    sentences = _sentences([*training, *held_out], class_prompts, config.columns, base.words)
    words = ["", *class_prompts.values(), *config.method_.prior_words()]
    words += dict.fromkeys(sentence for sentence in sentences.values() if sentence not in words)
    rows = {name: words.index(sentence) for name, sentence in sentences.items()}
    latents = LatentCache(cache / "latents", pipeline.vae, base.sha256, device)
    drawn = _drawn(pipeline, config, cache / "drawn", base, sentences)
    items = encode_items(drawn or latents, training, rows, config, size, flag)
    validating = encode_items(drawn or latents, held_out, rows, config, size, flag, augment=False)
    prior = _prior(pipeline, config, output, latents, size, words, flag)
    trainable = config.method_.prepare(pipeline, config, {name: table.classes.get(name, name) for name in classes})
    config = _checked_clip_skip(config, pipeline)
    check_words(pipeline.tokenizer, class_prompts, "adapt#prompts", sentences.values())
    prompts = _prompts(pipeline, words, config, cache / "prompts", base.sha256, trainable, device)
    batches = Batches(
        items, config.batch, objective, config.seed, config.caption_dropout,
        prior=(prior, config.method_.prior_weight), rank=ranks.rank, world=ranks.size,
    )  # fmt: skip
    loss = config.method_.loss(objective.to(device), pipeline.unet)
    prepared = Prepared(
        config, pipeline, base, table, classes, class_prompts,
        trainable, objective, loss, batches, validating, prompts, training, size, factor, device,
    )  # fmt: skip
    _free_memory(prepared, trainable)
    prepared.real_rows = _real_samples(prepared)
    return prepared


def picture_size(pipeline: Any, config: AdaptConfig, base: Base) -> tuple[tuple[int, int], int]:
    """Return ((height, width) of the pictures, pixels per latent).

    Raises:
        ConfigurationError: the resolution does not fit the base's UNet.
    """
    factor = int(pipeline.vae_scale_factor)
    side = config.resolution or base.resolution
    deep = factor * 2 ** (len(pipeline.unet.config.down_block_types) - 1)
    if side % deep and side % 8:
        raise ConfigurationError(f"adapt#resolution: {side}, expected a multiple of {deep} for this base")
    return (side, side), factor


def _drawn(
    pipeline: Any, config: AdaptConfig, folder: Path, base: Base, sentences: dict[str, str]
) -> DrawnLatents | None:
    if config.method_.drawing is None:
        return None
    count, how = config.method_.drawing
    return DrawnLatents(folder, pipeline, base.sha256, sentences, how, count, config.seed, config.precision)


def _prior(
    pipeline: Any, config: AdaptConfig, output: Path, cache: LatentCache, size: tuple[int, int], words: list[str],
    flag: Any,
) -> list[Item]:  # fmt: skip
    folder = (Path(config.cache) if config.cache else output) / "prior"
    drawn = config.method_.prior_records(pipeline, folder, config.seed, size)
    rows = {record["id"]: words.index(config.method_.prior_words()[0]) for record in drawn}
    return encode_items(cache, drawn, rows, config, size, flag, augment=False, prior=True)


def _sentences(
    records: Sequence[Record], class_prompts: dict[str, str], columns: Sequence[str], words: Words
) -> dict[str, str]:
    """Return record id -> its prompt."""
    return {
        record["id"]: class_prompts[record["class_name"]] + ending(facts_of(record, columns), words)
        for record in records
    }


def _checked_clip_skip(config: AdaptConfig, pipeline: Any) -> AdaptConfig:
    layers = pipeline.text_encoder.config.num_hidden_layers
    most = layers - (2 if getattr(pipeline, "text_encoder_2", None) is not None else 1)
    if config.clip_skip and config.clip_skip > most:
        raise ConfigurationError(
            f"adapt#clip_skip: {config.clip_skip} of the base's {layers} text-encoder layers; set it to at most {most}"
        )
    return config


def _prompts(
    pipeline: Any,
    words: list[str],
    config: AdaptConfig,
    folder: Path,
    sha: str,
    trainable: Trainable,
    device: torch.device,
) -> Callable[[], Conditioning]:
    skip = config.clip_skip or None
    if trainable.trains_text:
        return lambda: encode_prompts(pipeline, words, skip)
    encoded = cached_prompts(pipeline, words, folder, sha, skip).to(device)
    return lambda: encoded


def _free_memory(prepared: Prepared, trainable: Trainable) -> None:
    """Free what the training does not use and switch on what saves memory or time."""
    pipeline, config = prepared.pipeline, prepared.config
    pipeline.set_progress_bar_config(disable=True)
    if not trainable.trains_text:
        for part in ("text_encoder", "text_encoder_2"):
            if getattr(pipeline, part, None) is not None:
                setattr(pipeline, part, None)
    if not config.samples_per_class and not trainable.full:
        pipeline.vae = None
    elif prepared.device.type != "cpu":
        pipeline.vae.to("cpu")
    if prepared.device.type == "cuda":
        torch.cuda.empty_cache()
    if prepared.device.type == "cpu":
        _suit_processor(pipeline.unet, config.precision)
    if config.gradient_checkpointing:
        pipeline.unet.enable_gradient_checkpointing()
        pipeline.unet.train()
    if config.compile:
        prepared.network = torch.compile(pipeline.unet)  # type: ignore[assignment]


def _suit_processor(unet: Any, precision: str) -> None:
    """Lay out what is frozen as a CPU is fastest with it, measured in ``benchmarks/peers.py``.

    In float32, convolutions take weights channels last. In bfloat16 all that is frozen is kept so, as on a GPU, because
    autocast would convert it at every step; and attention is by plain products, because on the way back torch's fused
    one takes 4 times as long for the 64 places of 128 px (torch 2.13).
    """
    for parameter in unet.parameters():
        if parameter.requires_grad:
            continue
        if precision == "bf16":
            parameter.data = parameter.data.bfloat16()
        elif parameter.ndim == 4:
            parameter.data = parameter.data.to(memory_format=torch.channels_last)
    if precision == "bf16":
        unet.set_attn_processor(AttnProcessor())


def _real_samples(prepared: Prepared) -> list[list[np.ndarray]]:
    """Return a few real training pictures per class, for the sample grids."""
    config, (height, width) = prepared.config, prepared.size
    rows = []
    if config.method_.drawing is not None:  # no image of the records is opened
        return [[] for _ in prepared.classes]
    for name in prepared.classes if config.samples_per_class else []:
        chosen = [record for record in prepared.training if record["class_name"] == name][: config.samples_per_class]
        chosen += chosen[:1] * (config.samples_per_class - len(chosen))
        pictures = [views(record, Framing(height, width, config.fit))[0] for record in chosen]
        rows.append(
            [((p.permute(1, 2, 0) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy() for p in pictures]
        )
    return rows
