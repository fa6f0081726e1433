"""Training of a small text encoder: first, alone, for a minute; then it is frozen.

A randomly initialised CLIP text encoder trained together with the denoiser collapses: padding tokens dominate the
cross-attention and all prompts give one picture. So every token from the class word on, padding included, must tell
the class, the adjective and the wording, and the mean embeddings of two classes must not point the same way. Words of
facts (`bases.words`) follow the sentence, or stand alone; from their end on every token must tell them too, or that
there is none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from meddap_monai.core.seeds import generator
from meddap_monai.diffusion.bases.prompts import PromptTable
from meddap_monai.diffusion.bases.words import Words
from meddap_monai.diffusion.pretraining.parts import TextEncoderConfig
from meddap_monai.diffusion.pretraining.tokenizer import PROMPT_LENGTH, write_tokenizer
from meddap_monai.errors import ConfigurationError
from meddap_monai.training.finite import check_finite
from meddap_monai.training.schedules import FLOOR, schedule, set_rate

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTokenizer

MEANINGS = 3
"""Class, adjective and template, which come before the words of facts."""
SILENT = 0.4
"""Chance that a caption says nothing of a fact while the text encoder trains."""
BARE = 0.1
"""Share of the captions with words that leave the sentence out, so that a word acts without a class."""


@dataclass(frozen=True)
class Caption:
    """A sentence of a prompt table and what it means.

    Attributes:
        text: the sentence.
        head: the sentence up to and including the class wording.
        labels: numbers of the class, the adjective and the template.
    """

    text: str
    head: str
    labels: tuple[int, int, int]


def every_caption(tables: Sequence[PromptTable]) -> tuple[list[Caption], tuple[int, int, int]]:
    """Return every sentence of the tables, and how many classes, adjectives and templates they name."""
    classes = sorted({(table.name, name) for table in tables for name in table.classes})
    adjectives = sorted({name for table in tables for name in table.adjectives})
    captions = []
    for table in tables:
        for number, template in enumerate(table.templates):
            for name, wording in table.classes.items():
                for adjective in table.adjectives:
                    text = table.prompt(name, adjective, number)
                    head = f"{table.adjectives[adjective]} {template.split('{class}')[0]}{wording}".strip()
                    labels = (classes.index((table.name, name)), adjectives.index(adjective), number)
                    captions.append(Caption(text, head, labels))
    templates = max(len(table.templates) for table in tables)
    return captions, (len(classes), len(adjectives), templates)


def _check_length(tokenizer: CLIPTokenizer, texts: Sequence[str]) -> None:
    """Raise `ConfigurationError` for a sentence that would be cut, perhaps before its class."""
    counts = [len(ids) for ids in tokenizer(list(texts)).input_ids]
    longest = max(range(len(texts)), key=counts.__getitem__)
    if counts[longest] > tokenizer.model_max_length:
        raise ConfigurationError(
            f"pretrain#prompts: the sentence {texts[longest]!r} has {counts[longest]} tokens, expected at most "
            f"{tokenizer.model_max_length}; shorten its template (a word of plain ASCII letters is one token)"
        )


class TextEncoderTraining:
    """Steps of text-encoder training on the captions of the tables."""

    def __init__(
        self,
        tokenizer: CLIPTokenizer,
        encoder: CLIPTextModel,
        tables: Sequence[PromptTable],
        config: TextEncoderConfig,
        seed: int,
        words: Words | None = None,
    ) -> None:
        """Tokenize every caption and make a linear head per meaning.

        Args:
            tokenizer: knows the tables' words.
            encoder: with random weights.
            tables: of the captions.
            config: of the training.
            seed: of captions and heads.
            words: that may follow a caption.

        Raises:
            ConfigurationError: a caption has more tokens than the encoder reads.
        """
        self.encoder, self.config, self.seed = encoder.train(), config, seed
        self.captions, counts = every_caption(tables)
        texts = [caption.text for caption in self.captions]
        self.words = [["", *own.values()] for own in (words or {}).values()]
        _check_length(tokenizer, [" ".join([text, *(own[-1] for own in self.words)]) for text in texts])
        self.tokenizer, self.texts = tokenizer, texts
        heads = tokenizer([caption.head for caption in self.captions]).input_ids
        self.starts = torch.tensor([len(head) - 2 for head in heads])
        self.ends = torch.tensor([len(text) - 1 for text in tokenizer(texts).input_ids])
        sizes = (*counts, *map(len, self.words))
        self.labels = torch.tensor([caption.labels for caption in self.captions])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.heads = nn.ModuleList(nn.Linear(config.width, count) for count in sizes)
        parameters = [*encoder.parameters(), *self.heads.parameters()]
        self.optimizer = torch.optim.AdamW(parameters, lr=0.0, weight_decay=1e-3)

    @property
    def state(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {"encoder": self.encoder, "heads": self.heads, "optimizer": self.optimizer}

    def advance(self, step: int) -> dict[str, float]:
        """Do step `step`: cross-entropy per telling token, cosine of class means at most 0."""
        config = self.config
        draw = generator(self.seed, "pretrain/text", step)
        chosen = torch.randint(len(self.texts), (config.batch,), generator=draw)
        facts = self._facts(draw)
        told = (facts > 0).sum(1)  # their words stand between a sentence and the end token
        bare = (torch.rand(config.batch, generator=draw) < BARE) & (told > 0) if self.words else told > 0
        tokens = self._tokenize(chosen, facts, bare)
        hidden = self.encoder(tokens).last_hidden_state
        labels = torch.cat([self.labels[chosen], facts], dim=1)
        place = torch.arange(tokens.shape[1])[None]
        tells = (place >= self.starts[chosen, None]) & ~bare[:, None]
        after = place >= (torch.where(bare, 1, self.ends[chosen]) + told)[:, None]
        losses = []
        for number, head in enumerate(self.heads):
            here = tells if number < MEANINGS else after
            wanted = labels[:, number, None].expand(here.shape)
            losses.append(functional.cross_entropy(head(hidden[here]), wanted[here]))
        apart = _class_similarity(hidden[~bare].mean(1), labels[~bare, 0])
        rate = config.learning_rate * schedule("cosine", step, config.steps, min(50, config.steps), FLOOR)
        names = [self.captions[number].text for number in chosen[:3].tolist()]
        loss = check_finite(torch.as_tensor(sum(losses) + apart), "pretrain#text_encoder", step + 1, rate, names)
        set_rate(self.optimizer, rate)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        report = dict(zip(("class", "adjective", "template"), (item.item() for item in losses), strict=False))
        if self.words:
            report["words"] = max(item.item() for item in losses[MEANINGS:])
        return report | {"cosine": float(apart.item())}

    def _tokenize(self, chosen: torch.Tensor, facts: torch.Tensor, bare: torch.Tensor) -> torch.Tensor:
        """Return the tokens (B, T) of captions with the words of their facts, bare ones without their sentence."""
        texts = []
        for row, numbers, alone in zip(chosen.tolist(), facts.tolist(), bare.tolist(), strict=True):
            said = [own[number] for own, number in zip(self.words, numbers, strict=True)]
            texts.append(" ".join(filter(None, ["" if alone else self.texts[row], *said])))
        found: torch.Tensor = self.tokenizer(
            texts, padding="max_length", truncation=True, return_tensors="pt"
        ).input_ids
        return found

    def _facts(self, draw: torch.Generator) -> torch.Tensor:
        """Return for each caption of a batch the number of the word that says each fact (B, F), 0 for none."""
        if not self.words:
            return torch.zeros((self.config.batch, 0), dtype=torch.int64)
        most = torch.tensor([len(own) - 1 for own in self.words])
        numbers = 1 + (torch.rand((self.config.batch, len(most)), generator=draw) * most).long().clamp(max=most - 1)
        return torch.where(torch.rand(numbers.shape, generator=draw) < SILENT, 0, numbers)


def _class_similarity(pooled: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Return the mean cosine above 0 between embeddings of different classes."""
    unit = functional.normalize(pooled - pooled.mean(0, keepdim=True).detach(), dim=1)
    other = classes[:, None] != classes[None]
    return functional.relu(unit @ unit.T)[other].mean() if bool(other.any()) else pooled.sum() * 0


def build_text_encoder(
    folder: Path, words: Iterable[str], width: int, layers: int, heads: int
) -> tuple[CLIPTokenizer, CLIPTextModel]:
    """Write a tokenizer for `words` under ``folder/tokenizer`` and make a CLIP text encoder with random weights.

    Args:
        folder: a Stable Diffusion folder.
        words: the vocabulary.
        width: of the hidden states, which is the UNet's ``cross_attention_dim``.
        layers: transformer layers.
        heads: attention heads; divides `width`.
    """
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    size = write_tokenizer(Path(folder) / "tokenizer", words)
    tokenizer = CLIPTokenizer.from_pretrained(Path(folder) / "tokenizer")
    config = CLIPTextConfig(
        vocab_size=size,
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=PROMPT_LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return tokenizer, CLIPTextModel(config).eval()
