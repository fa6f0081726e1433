"""A small CLIP vocabulary: every word of the prompt tables is one token, every other text falls back to its letters.

Byte-pair encoding as in CLIP (Sennrich et al. 2016; Radford et al. 2021): merges are learned on the list of words until
each is one token, so the tokenizer is an ordinary `CLIPTokenizer` that any diffusers pipeline opens.
"""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from meddap_monai import store
from meddap_monai.diffusion.bases.prompts import PromptTable
from meddap_monai.diffusion.bases.words import Words

_END = "</w>"
_SPECIAL = ("<|startoftext|>", "<|endoftext|>")
PROMPT_LENGTH = 24
"""Tokens per prompt, padding included; the longest prompt of the tables takes 17."""


def write_tokenizer(folder: Path, words: Iterable[str], length: int = PROMPT_LENGTH) -> int:
    """Write the files of a `CLIPTokenizer` that knows `words`; return the size of the vocabulary.

    Args:
        folder: the ``tokenizer`` folder of a Stable Diffusion folder.
        words: lower-case words without punctuation.
        length: tokens per prompt, padding included.
    """
    alphabet = _alphabet()
    merges = learn_merges(sorted(set(words)))
    tokens = [*alphabet, *(letter + _END for letter in alphabet), *("".join(pair) for pair in merges)]
    tokens = list(dict.fromkeys(tokens)) + list(_SPECIAL)
    vocabulary = {token: number for number, token in enumerate(tokens)}
    store.write_atomic(folder / "vocab.json", json.dumps(vocabulary, ensure_ascii=False))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    store.write_atomic(folder / "merges.txt", "\n".join(lines) + "\n")
    begin, end = _SPECIAL
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": length,
        "bos_token": begin,
        "eos_token": end,
        "unk_token": end,
        "pad_token": end,
    }
    store.write_json(folder / "tokenizer_config.json", settings)
    return len(vocabulary)


def learn_merges(words: list[str]) -> list[tuple[str, str]]:
    """Return byte-pair merges until every word is one token: most frequent pair first, ties in alphabetical order."""
    pieces = [[*word[:-1], word[-1] + _END] for word in words]
    merges: list[tuple[str, str]] = []
    while any(len(piece) > 1 for piece in pieces):
        pairs = Counter(pair for piece in pieces for pair in zip(piece, piece[1:], strict=False))
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        pieces = [_merge(piece, best) for piece in pieces]
    return merges


def _merge(piece: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    position = 0
    while position < len(piece):
        if tuple(piece[position : position + 2]) == pair:
            merged.append("".join(pair))
            position += 2
        else:
            merged.append(piece[position])
            position += 1
    return merged


def _alphabet() -> list[str]:
    """Return the 256 characters that stand for the 256 bytes in GPT-2's and CLIP's byte-level encoding."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    shifted = [256 + number for number in range(256 - len(printable))]
    return [chr(code) for code in [*printable, *shifted]]


def vocabulary_words(tables: Iterable[PromptTable], words: Words | None = None) -> list[str]:
    """Return the words of the tables, those that say facts, and the few that prompts need beside them."""
    facts = {word for own in (words or {}).values() for word in own.values()}
    return sorted({word for table in tables for word in table.words()} | {"a", "sks", "without", "with", "and"} | facts)
