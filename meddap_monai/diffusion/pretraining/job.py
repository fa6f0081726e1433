"""The phases of a pre-training over one set of pictures: text encoder, autoencoder, UNet, and the decoder once more."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file

from meddap_monai import store
from meddap_monai.core.distributed import SINGLE_PROCESS, Ranks
from meddap_monai.core.records import Record, read_records
from meddap_monai.diffusion.bases.prompt_choice import tables_for, write_table
from meddap_monai.diffusion.bases.prompts import PromptTable, load_prompt_table, table_names
from meddap_monai.diffusion.bases.words import Words
from meddap_monai.diffusion.pretraining.autoencoder import PatchPCA, build_autoencoder, fit_patch_pca
from meddap_monai.diffusion.pretraining.autoencoder_training import AutoencoderTraining
from meddap_monai.diffusion.pretraining.config import PretrainConfig
from meddap_monai.diffusion.pretraining.corner_repair import CornerTraining
from meddap_monai.diffusion.pretraining.decoder_refinement import RefinementTraining, choose_views, draw_once
from meddap_monai.diffusion.pretraining.sample_sheet import sample_sheet
from meddap_monai.diffusion.pretraining.text_encoder import TextEncoderTraining, build_text_encoder
from meddap_monai.diffusion.pretraining.tokenizer import vocabulary_words
from meddap_monai.diffusion.pretraining.unet import Cache, DenoiserTraining, build_denoiser, build_scheduler
from meddap_monai.diffusion.pretraining.views import Views, cut_views, grey_tensor, words_of
from meddap_monai.errors import RecordsError
from meddap_monai.training.checkpoint import load_checkpoint
from meddap_monai.training.step_trainer import TrainingRun, TrainingTask, train

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTokenizer


class PretrainJob:
    """The phases over one set of pictures; each goes on from its own checkpoint."""

    def __init__(self, config: PretrainConfig, output: Path, records: Path, ranks: Ranks = SINGLE_PROCESS) -> None:
        """Read the records and cut the views."""
        self.config, self.output, self.phases, self.ranks = config, output, output / "phases", ranks
        self.interrupt = store.InterruptFlag()
        self.everything: list[Record] = read_records(records, full=True)
        self.training = [r for r in self.everything if r["split"] == "train" and r["source"] == "real"]
        if not self.training:
            raise RecordsError(f"{records}: no real record in split 'train', expected at least one to pre-train on")
        named = [] if config.views.captions == "none" else [record["class_name"] for record in self.training]
        self.tables: list[PromptTable] = tables_for(config.prompts, named)
        if ranks.rank == 0 and len(self.tables) > len(config.prompts):
            write_table(self.tables[-1], output, "pretrain", "")
        self.words: Words = words_of(self.training, config.views.words)
        self.views: Views = cut_views(
            self.training, self.tables, config.resolution, config.views, config.seed, self.words
        )
        learned = config.autoencoder.encoder == "learned"
        self.even = self.views.even_rows(config.autoencoder.per_group, config.seed)
        self.pca: PatchPCA | None = None if learned else fit_patch_pca(self.views.pixels[self.even], config.autoencoder)
        self.tokenizer, self.text_encoder = self._new_text_encoder()
        self.vae: Any = self._seeded(build_autoencoder, config.autoencoder, config.resolution, self.pca)
        side = config.resolution // config.autoencoder.factor
        latents, width = config.autoencoder.latents, config.text_encoder.width
        self.unet: Any = self._seeded(build_denoiser, config.unet, latents, side, width)
        self.scheduler = build_scheduler(config.unet)

    def train(self) -> None:
        """Run all phases, each from its checkpoint."""
        with self.interrupt:
            for phase in (self.train_text_encoder, self.train_autoencoder, self.train_unet, self.finish_decoder):
                phase()

    def train_text_encoder(self) -> None:
        """Phase one: words; then the text encoder is frozen."""
        work = TextEncoderTraining(
            self.tokenizer, self.text_encoder, self.tables, self.config.text_encoder, self.config.seed, self.words
        )
        self._run("text", self.config.text_encoder.steps, work)
        self.text_encoder.eval().requires_grad_(False)

    def train_autoencoder(self) -> None:
        """Phase two: pictures to latents and back."""
        views, config = self.views.take(self.even), self.config
        work = AutoencoderTraining(
            self.vae, self.pca, views.pixels, views.ids, config.autoencoder, config.seed, config.device
        )
        self._run("autoencoder", config.autoencoder.steps, work)
        self.vae.eval().requires_grad_(False)

    def train_unet(self) -> None:
        """Phase three: the UNet on cached latents; its moving average becomes the base's UNet."""
        config = self.config
        work = DenoiserTraining(
            self.unet,
            self.scheduler,
            self.cache(),
            config.unet,
            config.seed,
            config.device,
            config.precision == "bf16",
            self.ranks,
        )
        work.picture = lambda writer, step: writer.add_image(  # type: ignore[attr-defined]
            "unet/samples", self._sheet(work.average), step
        )
        self._run("unet", config.unet.steps, work, self.ranks)
        self.unet = work.average

    def finish_decoder(self) -> None:
        """Phase four: a sharper decoder for what the UNet draws, then its corner."""
        views, config = self.views.take(self.even), self.config
        if config.refinement.steps:
            rows = choose_views(views.groups, config.refinement.drawn, config.seed)
            captions = [views.captions[row] for row in rows]
            if self.ranks.rank == 0:
                place = self.phases / "drawn.safetensors"
                draw_once(place, self.pipeline(self.unet), captions, config, self._stop_between)
            self.ranks.broadcast()
            drawn = load_file(store.regular_file(self.phases / "drawn.safetensors"))["latents"]
            latents = self.latents[torch.from_numpy(self.even)]
            refinement = RefinementTraining(self.vae, views, latents, drawn, rows, config)
            self._run("refinement", config.refinement.steps, refinement)
            refinement.finish()
        if config.autoencoder.corner_steps:
            touch = CornerTraining(self.vae, views.pixels, views.ids, config.autoencoder, config.seed, config.device)
            self._run("corners", config.autoencoder.corner_steps, touch)
        self.vae.eval().requires_grad_(False)

    def cache(self) -> Cache:
        """Encode every view and every distinct caption once."""
        views = self.views
        texts = ["", *sorted(set(views.captions) - {""})]
        rows = {text: number for number, text in enumerate(texts)}
        captions = torch.tensor([rows[text] for text in views.captions])
        embeddings = self.embed(texts)
        return Cache(self.latents, captions, embeddings, views.groups, views.ids, views.changed)

    @cached_property
    def latents(self) -> torch.Tensor:
        """The latents (N, C, h, w) float16 of every view; to be asked for once the encoder is trained."""
        pixels = self.views.pixels
        return torch.cat([self._encode(pixels[start : start + 64]) for start in range(0, len(pixels), 64)])

    @torch.no_grad()
    def embed(self, texts: Sequence[str]) -> torch.Tensor:
        """Return the hidden states (N, T, D) of texts."""
        tokens = self.tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt").input_ids
        return self.text_encoder.eval()(tokens).last_hidden_state.detach()

    @torch.no_grad()
    def _encode(self, pixels: np.ndarray) -> torch.Tensor:
        self._stop_between()
        images = grey_tensor(pixels)
        if self.pca is not None:
            return self.pca.encode(images).half()
        device = self.config.device
        return self.vae.to(device).encode(images.expand(-1, 3, -1, -1).to(device)).latent_dist.mode().half().cpu()

    def _stop_between(self) -> None:
        self.interrupt.raise_if_set(f"between two phases; their checkpoints stand in {self.phases}")

    def _sheet(self, unet: Any) -> np.ndarray:
        sheet, _ = sample_sheet(self.pipeline(unet), self.tables, seed=self.config.seed, columns=4, steps=12)
        return sheet[None]

    def pipeline(self, unet: Any) -> Any:
        """Return the parts as an ordinary pipeline."""
        from diffusers import StableDiffusionPipeline

        pipeline: Any = StableDiffusionPipeline(
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            unet=unet,
            scheduler=self.scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline.to(self.config.device)

    def _new_text_encoder(self) -> tuple[CLIPTokenizer, CLIPTextModel]:
        words = vocabulary_words([load_prompt_table(name) for name in table_names()] + self.tables, self.words)
        shape = self.config.text_encoder
        return self._seeded(build_text_encoder, self.phases, words, shape.width, shape.layers, shape.heads)

    def _seeded(self, make: Any, *arguments: Any) -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            return make(*arguments)

    def _run(self, name: str, steps: int, work: TrainingTask, ranks: Ranks | None = None) -> None:
        """Run a phase, divided among `ranks`; without them the first process runs it and the others load the result.

        Each phase has a folder of curves of its own: purging from the first step that is done again purges a folder.
        """
        config, checkpoint = self.config, self.phases / f"{name}.pt"
        if ranks or self.ranks.rank == 0:
            run = TrainingRun(
                name, steps, checkpoint, self.interrupt, self.output / "tensorboard" / name, config.checkpoint_every,
                pictures_every=config.pictures_every, ranks=ranks or SINGLE_PROCESS, device=config.device,
            )  # fmt: skip
            train(work, run)
        self.ranks.broadcast()
        if not ranks and self.ranks.rank:
            load_checkpoint(checkpoint, work.state)
