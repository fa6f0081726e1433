"""Training of a small text encoder: first, alone, for a minute; then it is frozen.

A randomly initialised CLIP text encoder trained together with the denoiser collapses: padding tokens dominate the
cross-attention and all prompts give one picture. So every token from the class word on, padding included, must tell
the class, the adjective and the wording, and the mean embeddings of two classes must not point the same way.
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
from meddap_monai.diffusion.pretraining.parts import TextEncoderConfig
from meddap_monai.diffusion.pretraining.tokenizer import PROMPT_LENGTH, write_tokenizer
from meddap_monai.errors import ConfigurationError
from meddap_monai.training.finite import check_finite
from meddap_monai.training.schedules import FLOOR, schedule, set_rate

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTokenizer


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
    ) -> None:
        """Tokenize every caption and make a linear head per meaning.

        Raises:
            ConfigurationError: a caption has more tokens than the encoder reads.
        """
        self.encoder, self.config, self.seed = encoder.train(), config, seed
        self.captions, counts = every_caption(tables)
        texts = [caption.text for caption in self.captions]
        _check_length(tokenizer, texts)
        self.tokens = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        heads = tokenizer([caption.head for caption in self.captions]).input_ids
        starts = torch.tensor([len(head) - 2 for head in heads])
        self.tells = torch.arange(self.tokens.shape[1])[None] >= starts[:, None]
        self.labels = torch.tensor([caption.labels for caption in self.captions])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.heads = nn.ModuleList(nn.Linear(config.width, count) for count in counts)
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
        chosen = torch.randint(len(self.tokens), (config.batch,), generator=draw)
        hidden = self.encoder(self.tokens[chosen]).last_hidden_state
        tells, labels = self.tells[chosen], self.labels[chosen]
        losses = []
        for number, head in enumerate(self.heads):
            wanted = labels[:, number, None].expand(tells.shape)
            losses.append(functional.cross_entropy(head(hidden[tells]), wanted[tells]))
        apart = _class_similarity(hidden.mean(1), labels[:, 0])
        rate = config.learning_rate * schedule("cosine", step, config.steps, min(50, config.steps), FLOOR)
        names = [self.captions[number].text for number in chosen[:3].tolist()]
        loss = check_finite(torch.as_tensor(sum(losses) + apart), "pretrain#text_encoder", step + 1, rate, names)
        set_rate(self.optimizer, rate)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        report = dict(zip(("class", "adjective", "template"), (item.item() for item in losses), strict=True))
        return report | {"cosine": float(apart.item())}


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
