"""Words that say a fact of an image: its device, its probe, its BI-RADS category; one token each.

A base that was trained with such words lists them on its card: ``words: {device: {GE Logiq E9: devicegelogiqenine}}``.
They stand at the end of a prompt, the columns in alphabetical order. A word is its column and its value run together in
letters alone, because CLIP's tokenizer parts letters from digits, and digits from each other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from meddap_monai.errors import ConfigurationError

Words = Mapping[str, Mapping[str, str]]
"""Column -> value -> word."""

_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def word_of(column: str, value: str) -> str:
    """Return the word of a value: "device", "GE Logiq E9" gives "devicegelogiqenine"."""
    spelled = "".join(_DIGITS[int(letter)] if letter in "0123456789" else letter for letter in f"{column}{value}")
    return re.sub(r"[^a-z]", "", spelled.lower())


def make_words(values: Mapping[str, Iterable[str]]) -> dict[str, dict[str, str]]:
    """Return the words of the values of columns, both sorted.

    Raises:
        ConfigurationError: two values of a column give the same word, such as names in other letters than a to z.
    """
    words: dict[str, dict[str, str]] = {}
    for column, own in sorted(values.items()):
        words[column] = {value: word_of(column, value) for value in sorted(set(own))}
        for word in words[column].values():
            same = [other for other, theirs in words[column].items() if theirs == word]
            if len(same) > 1 or word == word_of(column, ""):
                raise ConfigurationError(
                    f"pretrain#views#words: the column {column!r} holds {', '.join(map(repr, same))}, which cannot be "
                    "told apart by the letters a to z and digits; rename them"
                )
    return words


def phrase(words: Words, facts: Mapping[str, str], where: str) -> str:
    """Return the end of a prompt that says these facts, beginning with a space; empty without any.

    Case, spaces and signs of a value do not matter.

    Args:
        words: of the base.
        facts: column -> value; an empty value says nothing.
        where: the configuration key that messages name.

    Raises:
        ConfigurationError: the base knows no such words, not this column, or not this value; near ones are named.
    """
    wanted = {column: str(value) for column, value in facts.items() if str(value)}
    if wanted and not words:
        raise ConfigurationError(
            f"{where}: this base was trained without such words (its card names none); leave `words` out, or take a "
            "base that `pretrain` made with pretrain#views#words"
        )
    for column in wanted:
        if column not in words:
            raise ConfigurationError(f"{where}: {column!r} is no word of this base{_near(column, words)}")
    return "".join(
        f" {_word(words[column], wanted[column], f'{where}#{column}')}" for column in words if column in wanted
    )


def told(words: Words, record: Mapping[str, Any]) -> str:
    """Return the end of a prompt with what a record's ``meta`` says in the words of a base, and nothing else."""
    meta = record.get("meta") or {}
    said = ""
    for column, own in words.items():
        known = {word_of("", value): word for value, word in own.items()}
        word = known.get(word_of("", str(meta.get(column) or "")))
        said += f" {word}" if word else ""
    return said


def _word(own: Mapping[str, str], value: str, where: str) -> str:
    known = {word_of("", name): word for name, word in own.items()}
    if (word := known.get(word_of("", value))) is None:
        raise ConfigurationError(f"{where}: the base does not know {value!r}{_near(value, own)}")
    return word


def _near(text: str, known: Iterable[str]) -> str:
    lower = {name.lower(): name for name in known}
    near = [lower[name] for name in get_close_matches(text.lower(), list(lower), n=3, cutoff=0.4)]
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    return f"{hint} (known: {', '.join(sorted(lower.values()))})"
