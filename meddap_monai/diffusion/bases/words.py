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


def facts_of(record: Mapping[str, Any], columns: Iterable[str]) -> dict[str, str]:
    """Return what a record's ``meta`` says in these columns, as column -> value; empty values are left out."""
    meta = record.get("meta") or {}
    return {name: str(meta[name]) for name in columns if meta.get(name) not in (None, "")}


def ending(facts: Mapping[str, str], words: Words) -> str:
    """Return the end of a prompt that says facts: in the words of a base, others as ", birads 4".

    Args:
        facts: column -> value.
        words: of the base; case, spaces and signs of a value do not matter.
    """
    found = {column: _find(words[column], facts[column]) for column in words if column in facts}
    said = "".join(f" {word}" for word in found.values() if word)
    rest = [(name, value) for name, value in facts.items() if not found.get(name)]
    return said + "".join(f", {name} {value}" for name, value in rest).replace("_", " ").lower()


def check_facts(facts: Mapping[str, str], words: Words, where: str) -> None:
    """Raise unless a base has a word for each fact that is asked for.

    Args:
        facts: column -> value.
        words: of the base.
        where: the configuration key that messages name.

    Raises:
        ConfigurationError: the base has no such words at all, not this column, or not this value; near ones are named.
    """
    if facts and not words:
        raise ConfigurationError(
            f"{where}: this base was trained without words of facts (its card names none); leave them out, or take a "
            "base that was pre-trained with pretrain#views#words"
        )
    for column, value in facts.items():
        if column not in words:
            raise ConfigurationError(f"{where}: the base has no word for {column!r}{_near(column, words)}")
        if not _find(words[column], value):
            raise ConfigurationError(f"{where}#{column}: the base does not know {value!r}{_near(value, words[column])}")


def known_columns(words: Words, records: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the columns of which some record's ``meta`` holds a value that a base has a word for."""
    found: set[str] = set()
    for record in records:
        facts = facts_of(record, set(words) - found)
        found |= {column for column, value in facts.items() if _find(words[column], value)}
    return tuple(sorted(found))


def _find(own: Mapping[str, str], value: str) -> str:
    """Return the word of a value, or nothing."""
    wanted = word_of("", value)
    return next((word for name, word in own.items() if word_of("", name) == wanted), "")


def _near(text: str, known: Iterable[str]) -> str:
    lower = {name.lower(): name for name in known}
    near = [lower[name] for name in get_close_matches(text.lower(), list(lower), n=3, cutoff=0.4)]
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    return f"{hint} (known: {', '.join(sorted(lower.values()))})"
