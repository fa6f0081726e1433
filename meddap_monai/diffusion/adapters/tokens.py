"""New words for a text encoder (textual inversion, Gal et al. 2022, arXiv 2208.01618): put in and taken out exactly."""

import copy
from collections.abc import Mapping
from typing import Any

import torch

from meddap_monai.errors import BadAdapter


def add_tokens(pipeline: Any, vectors: Mapping[str, torch.Tensor], name: str, where: str) -> list[int]:
    """Teach tokenizer and text encoder new words and return their numbers.

    Args:
        pipeline: with ``tokenizer`` and ``text_encoder``.
        vectors: word such as ``"<benign>"`` -> ``(width,)`` embedding.
        name: of the adapter, for `remove_tokens`.
        where: for messages.

    Raises:
        BadAdapter: a word that the vocabulary has already, or a vector of another width.
    """
    encoder, tokenizer = pipeline.text_encoder, pipeline.tokenizer
    old = encoder.get_input_embeddings()
    if not vectors:
        raise BadAdapter(f"{where}: holds no embeddings, expected one vector per new word")
    for word, vector in vectors.items():
        if word in tokenizer.get_vocab():
            raise BadAdapter(f"{where}: the vocabulary has the word {word!r} already, expected a new one")
        if tuple(vector.shape) != (old.embedding_dim,):
            raise BadAdapter(
                f"{where}: {word} has shape {tuple(vector.shape)}, the text encoder takes ({old.embedding_dim},); "
                "it was trained on another base"
            )
    taught = copy.deepcopy(tokenizer)
    taught.add_tokens(list(vectors))
    numbers = [int(taught.convert_tokens_to_ids(word)) for word in vectors]
    rows = torch.zeros(max(numbers) + 1 - old.num_embeddings, old.embedding_dim)
    for number, vector in zip(numbers, vectors.values(), strict=True):
        rows[number - old.num_embeddings] = vector
    weight = torch.cat([old.weight.data, rows.to(old.weight)])
    new = torch.nn.Embedding(len(weight), old.embedding_dim, _weight=weight).requires_grad_(False)
    _stack(pipeline).append((name, tokenizer, old, encoder.config.vocab_size))
    encoder.set_input_embeddings(new)
    encoder.config.vocab_size = len(weight)
    pipeline.tokenizer = taught
    return numbers


def remove_tokens(pipeline: Any, name: str) -> None:
    """Undo `add_tokens` of that adapter and give the later ones their words again."""
    stack = _stack(pipeline)
    names = [entry[0] for entry in stack]
    if name not in names:
        return
    later = []
    while stack:
        words = {word for word in pipeline.tokenizer.get_added_vocab()}
        entry_name, tokenizer, embedding, size = stack.pop()
        new = sorted(words - set(tokenizer.get_added_vocab()))
        weight = pipeline.text_encoder.get_input_embeddings().weight.data
        vectors = {word: weight[pipeline.tokenizer.convert_tokens_to_ids(word)].clone() for word in new}
        pipeline.tokenizer = tokenizer
        pipeline.text_encoder.set_input_embeddings(embedding)
        pipeline.text_encoder.config.vocab_size = size
        if entry_name == name:
            break
        later.append((entry_name, vectors))
    for entry_name, vectors in reversed(later):
        add_tokens(pipeline, vectors, entry_name, entry_name)


@torch.no_grad()
def check_effect(pipeline: Any, vectors: Mapping[str, torch.Tensor], where: str) -> float:
    """Return how far the new words move the text encoder's output from that of an empty prompt.

    Raises:
        BadAdapter: a word changes nothing.
    """
    device = pipeline.text_encoder.device

    def hidden(text: str) -> torch.Tensor:
        ids = pipeline.tokenizer(
            text, padding="max_length", max_length=pipeline.tokenizer.model_max_length, return_tensors="pt"
        ).input_ids
        return pipeline.text_encoder(ids.to(device))[0].float()

    empty = hidden("")
    changes = {word: float((hidden(word) - empty).abs().max()) for word in vectors}
    weakest = min(changes, key=lambda word: changes[word])
    if not changes[weakest] > 0:
        raise BadAdapter(f"{where}: the word {weakest!r} changes nothing in the text encoder's output; train it again")
    return max(changes.values())


def _stack(pipeline: Any) -> list:
    return pipeline.__dict__.setdefault("_meddap_tokens", [])
