"""Which prompt table words a data set's labels: one of the package by its own words, or one made from the labels.

A label finds its class whatever its case, its separators, its plural or one wrong letter: "Benign", "fetal_brain",
"malignent", "cancer". What no table knows gets the plain sentence ``an ultrasound image of {class}``.
"""

import dataclasses
import re
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from meddap_monai import store
from meddap_monai.core.progress import say
from meddap_monai.diffusion.bases.prompts import PromptTable, load_prompt_table, table_names
from meddap_monai.errors import ConfigurationError

AUTO = "auto"
TEMPLATE = "an ultrasound image of {class}"
FILE = "prompts.yaml"
_PREFERRED = "breast"
"""The first choice where labels fit several tables: the embedded base knows it best."""
_FILLING = frozenset(
    ["a", "an", "class", "disease", "finding", "image", "in", "lesion", "of", "photo", "the", "tumor", "ultrasound"]
)
_LEAST = 5
"""Letters from which a word may hold one wrong letter."""


def table_for(prompts: str | Path, labels: Iterable[str]) -> PromptTable:
    """Return the prompt table that words these labels, its classes named as the labels are.

    Args:
        prompts: "auto", a table of the package by name, or the path of a YAML file.
        labels: class names of the records.

    Returns:
        With "auto" a table that knows every label; else the one asked for, which may lack some.

    Raises:
        ConfigurationError: see `load_prompt_table`.
    """
    names = list(dict.fromkeys(labels))
    if prompts != AUTO:
        return renamed(load_prompt_table(prompts), names)
    fitting = fitting_tables(names)
    return renamed(fitting[0], names) if fitting else generated_table(names)


def fitting_tables(labels: Sequence[str]) -> list[PromptTable]:
    """Return the package's tables that know every label: the preferred one first, then those that name them so."""
    tables = [load_prompt_table(name) for name in table_names()]
    fitting = [table for table in tables if len(found_classes(table, labels)) == len(labels)]
    return sorted(
        fitting, key=lambda table: (table.name != _PREFERRED, not set(labels) <= table.classes.keys(), table.name)
    )


def renamed(table: PromptTable, labels: Sequence[str]) -> PromptTable:
    """Return a table whose classes bear the names of the labels that find them; the same one where all do already."""
    found = found_classes(table, labels)
    names = {known: label for label, known in found.items()}
    if all(label == known for label, known in found.items()):
        return table
    return dataclasses.replace(
        table,
        classes={names.get(known, known): words for known, words in table.classes.items()},
        also={names.get(known, known): words for known, words in table.also.items()},
    )


def generated_table(labels: Sequence[str]) -> PromptTable:
    """Return a table made from labels: `TEMPLATE`, and the adjectives of the breast table, which speak of images."""
    wording = {label: " ".join(re.sub(r"[_\s]+", " ", label).split()).lower() or label for label in labels}
    return PromptTable("labels", (TEMPLATE,), wording, load_prompt_table(_PREFERRED).adjectives)


def tables_for(prompts: Sequence[str], labels: Iterable[str]) -> list[PromptTable]:
    """Return the tables that caption the pictures of a base to train; a label that none knows gets a table made for it.

    Args:
        prompts: tables of the package by name, or paths.
        labels: class names of the records.
    """
    names = sorted(set(labels))
    given = [load_prompt_table(name) for name in prompts]
    own = [{name for name in names if name in table.classes} for table in given]
    tables = []
    for number, table in enumerate(given):  # "normal" of one table does not keep another's from being "regular"
        others = set().union(*own[:number], *own[number + 1 :])
        tables.append(renamed(table, [name for name in names if name not in others]))
    unknown = [name for name in names if not any(name in table.classes for table in tables)]
    return [*tables, generated_table(unknown)] if unknown else tables


def found_classes(table: PromptTable, labels: Sequence[str]) -> dict[str, str]:
    """Return label -> class of the table, for the labels that find one which no other label finds."""
    ways = _ways(table)
    own = _FILLING.union(*(_words(text) for text in (table.name, *table.templates)))
    found = {label: label if label in table.classes else _class_of(label, ways, own) for label in labels}
    taken = list(found.values())
    return {label: known for label, known in found.items() if known and taken.count(known) == 1}


def _ways(table: PromptTable) -> dict[tuple[str, ...], str]:
    """Return every way to write a class of the table, as words -> class."""
    ways: dict[tuple[str, ...], str] = {}
    for known in table.classes:
        for text in (known, *table.also.get(known, ())):
            ways.setdefault(tuple(_words(text)), known)
    return ways


def _class_of(label: str, ways: Mapping[tuple[str, ...], str], own: frozenset[str]) -> str:
    """Return the class that a label means, or nothing: as it stands, or without words that the table says anyway."""
    words = tuple(_words(label))
    for tried in (words, tuple(word for word in words if word not in own)):
        for way, known in ways.items():
            if tried and len(way) == len(tried) and all(map(_alike, way, tried)):
                return known
    return ""


def _words(text: str) -> list[str]:
    """Return the words of a text without case, accents and separators."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode() or text
    return re.findall(r"[^\W_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", plain).replace("{class}", " ").lower())


def _alike(one: str, other: str) -> bool:
    """Whether two words are equal but for one letter more, less or other, or two exchanged; the first letter agrees."""
    if one == other:
        return True
    short, long = sorted((one, other), key=len)
    if len(short) < _LEAST or one[0] != other[0] or len(long) - len(short) > 1 or not (one + other).isalpha():
        return False
    start = next((place for place, pair in enumerate(zip(short, long, strict=False)) if pair[0] != pair[1]), len(short))
    left, right = short[start:], long[start:]
    if len(short) < len(long):
        return left == right[1:]
    return left[1:] == right[1:] or (left[2:] == right[2:] and left[:2] == right[1::-1])


# ------------------------------------------------------------------------------------------------- shown and written
def write_table(table: PromptTable, folder: Path, stage: str, prompts: str = AUTO) -> None:
    """Write a table as ``prompts.yaml`` into a stage's folder, and show what of it was not asked for by name.

    Args:
        table: of `table_for`.
        folder: of the stage.
        stage: its name.
        prompts: the stage's setting.
    """
    facts: dict[str, Any] = {"name": table.name, "templates": list(table.templates), "classes": dict(table.classes)}
    facts |= {"adjectives": dict(table.adjectives), "negative": table.negative}
    if table.also:
        facts["also"] = {name: list(words) for name, words in table.also.items()}
    store.write_atomic(folder / FILE, yaml.safe_dump(facts, allow_unicode=True, sort_keys=False))
    if text := shown_table(table, stage, folder, prompts):
        say(text, sys.stderr)


def shown_table(table: PromptTable, stage: str, folder: Path, prompts: str = AUTO) -> str:
    """Return what is to be said of a table: its sentences unless it is the package's own, and others that fit."""
    said = []
    if table.name not in table_names() or table != load_prompt_table(table.name):
        said = [f"  {name}: {table.prompt(name)}" for name in table.classes]
        said.insert(0, f"{stage}: prompts by the labels (to change them, give a copy of {folder / FILE} as prompts):")
    others = [other.name for other in fitting_tables(list(table.classes)) if other.name != table.name]
    if prompts == AUTO and others:
        said.append(
            f"{stage}: the labels fit the prompt tables {', '.join(sorted([table.name, *others]))}; taking "
            f"{table.name!r}. If the images show another organ, name its table: {stage}#prompts={others[0]}"
        )
    return "\n".join(said)


# -------------------------------------------------------------------------------------------------- columns as words
def check_columns(columns: Sequence[str], records: Iterable[Mapping[str, Any]], key: str) -> None:
    """Raise when no record's ``meta`` holds a column that prompts shall name.

    Raises:
        ConfigurationError: names the columns that are there.
    """
    held = {name for record in records for name in record.get("meta") or {}}
    for name in columns:
        if name not in held:
            raise ConfigurationError(
                f"{key}: no training image has {name!r} in its meta, which holds {', '.join(sorted(held)) or 'nothing'}"
                "; index#columns keeps a column of a table"
            )
