"""Prompt tables: the one place where class names become words.

Training, generation and the embedded base's vocabulary read the same table, so a prompt is spelled the same way
everywhere. MEDDAP (arXiv 2403.16335) writes "an ultrasound photo of {class} tumor in breast", puts "no" in the place
of the class for normal images, and places an adjective in front; FU-LoRA (arXiv 2407.20072) writes
"a photo of fetal {class}".
"""

import json
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from meddap_monai.core import resources
from meddap_monai.errors import ConfigurationError
from meddap_monai.store import read_text, sha256_text

_HASHED = ("name", "templates", "classes", "adjectives", "negative")
_KEYS = (*_HASHED, "also")
_LONGEST = 2000


@dataclass(frozen=True)
class PromptTable:
    """Wording of the classes of one body part.

    Attributes:
        name: name of the table, e.g. "breast".
        templates: sentences with exactly one ``{class}``; the first is the default.
        classes: class name -> the words that replace ``{class}``.
        adjectives: adjective name -> the words in front of the sentence; ``none`` is always there and empty.
        negative: negative prompt.
        also: class name -> other words for it, by which a label finds its class (`prompt_choice`).
    """

    name: str
    templates: tuple[str, ...]
    classes: dict[str, str]
    adjectives: dict[str, str] = field(default_factory=dict)
    negative: str = ""
    also: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the table once, so that a table that constructs is valid."""
        where = f"prompt table {self.name!r}"
        if not self.templates:
            raise ConfigurationError(f"{where}: templates is empty, expected at least one sentence with {{class}}")
        for template in self.templates:
            if template.count("{class}") != 1:
                raise ConfigurationError(f"{where}: template {template!r} must contain {{class}} exactly once")
        if not self.classes:
            raise ConfigurationError(f"{where}: classes is empty, expected class name: wording")
        adjectives = {"none": "", **self.adjectives}
        if adjectives["none"]:
            raise ConfigurationError(f"{where}: adjective 'none' must be empty, got {adjectives['none']!r}")
        object.__setattr__(self, "adjectives", adjectives)
        for name in self.also:
            if name not in self.classes:
                raise ConfigurationError(f"{where}: also names {name!r}, which is none of its classes")

    def prompt(self, class_name: str, adjective: str = "none", template: int = 0) -> str:
        """Return the prompt of a class, the adjective in front, joined by one space.

        Raises:
            ConfigurationError: unknown class or adjective (the nearest known one is named) or template number.
        """
        wording = _look_up(self.classes, class_name, f"prompt table {self.name!r}", "class")
        front = _look_up(self.adjectives, adjective, f"prompt table {self.name!r}", "adjective")
        if not 0 <= template < len(self.templates):
            raise ConfigurationError(
                f"prompt table {self.name!r}: template {template} does not exist, "
                f"expected 0 to {len(self.templates) - 1}"
            )
        return " ".join(f"{front} {self.templates[template].replace('{class}', wording)}".split())

    def words(self) -> list[str]:
        """Return every distinct word of the table in alphabetical order (the base's vocabulary)."""
        texts = [*self.templates, *self.classes.values(), *self.adjectives.values(), self.negative]
        text = " ".join(texts).replace("{class}", " ").replace("-", " ").replace(",", " ").lower()
        return sorted(set(text.split()))

    @property
    def sha256(self) -> str:
        """Hash of what prompts are made of, written into every adapter trained with it; `also` makes none."""
        content = {key: getattr(self, key) for key in _HASHED}
        return sha256_text(json.dumps(content, sort_keys=True))


def load_prompt_table(name_or_path: str | Path) -> PromptTable:
    """Load a prompt table of the package by name ("breast", "fetal", ...) or a YAML file by path.

    Raises:
        ConfigurationError: no such table, not a mapping, or unknown or missing keys.
    """
    path = Path(name_or_path)
    if path.suffix not in {".yaml", ".yml"}:
        names = table_names()
        if str(name_or_path) not in names:
            raise ConfigurationError(
                f"prompt table {str(name_or_path)!r} does not exist; give one of {names} or the path of a YAML file"
            )
        path = resources.find(f"data/prompts/{name_or_path}.yaml")
    if not path.is_file():
        path = _beside_the_package(path)
    text = read_text(path, ConfigurationError, "give another prompt table")
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise ConfigurationError(f"{path}, line {mark.line + 1 if mark else 1}: not a YAML file: {reason}") from error
    return _table_of(content, str(path))


def _beside_the_package(path: Path) -> Path:
    """Return a table that travels with the package, such as ``configs/prompts/histology.yaml``."""
    try:
        return resources.find(str(path))
    except ConfigurationError as error:
        raise ConfigurationError(f"prompt table {path} does not exist") from error


def table_names() -> list[str]:
    """Return the names of the prompt tables of the package."""
    return sorted(path.stem for path in resources.find("data/prompts").glob("*.yaml"))


def _table_of(content: Any, where: str) -> PromptTable:
    if not isinstance(content, dict):
        raise ConfigurationError(f"{where}: got {type(content).__name__}, expected a mapping with the keys {_KEYS}")
    for key in content:
        if key not in _KEYS:
            near = get_close_matches(str(key), _KEYS, n=1, cutoff=0.0)
            raise ConfigurationError(f"{where}: unknown key {key!r}; did you mean {near[0]!r}?")
    missing = [key for key in ("name", "templates", "classes") if key not in content]
    if missing:
        raise ConfigurationError(f"{where}: missing {missing}")
    mappings = {}
    for key in ("classes", "adjectives"):
        value = content.get(key) or {}
        if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
            raise ConfigurationError(f"{where}: {key} must map names to words (quote no, yes, on and off)")
        mappings[key] = {str(k): v for k, v in value.items()}
    templates = content["templates"]
    if not isinstance(templates, list) or not all(isinstance(t, str) for t in templates):
        raise ConfigurationError(f"{where}: templates must be a list of sentences")
    texts = [*templates, *(text for words in mappings.values() for pair in words.items() for text in pair)]
    name, negative = str(content["name"]), str(content.get("negative") or "")
    also = _synonyms(content, where)
    texts += [name, negative, *also, *(word for words in also.values() for word in words)]
    wrong = [text for text in texts if len(text) > _LONGEST or any("\ud800" <= letter <= "\udfff" for letter in text)]
    if wrong:
        raise ConfigurationError(
            f"{where}: {wrong[0]!r:.80}: more than {_LONGEST} characters, or half a character (a lone surrogate)"
        )
    try:
        return PromptTable(name, tuple(templates), negative=negative, also=also, **mappings)
    except ConfigurationError as error:
        raise ConfigurationError(f"{where}: {error}") from error


def _synonyms(content: dict[str, Any], where: str) -> dict[str, tuple[str, ...]]:
    also = content.get("also") or {}
    lists = also.values() if isinstance(also, dict) else [None]
    if not all(isinstance(words, list) and all(isinstance(word, str) for word in words) for words in lists):
        raise ConfigurationError(f"{where}: also must map class names to lists of words (quote no, yes, on and off)")
    return {str(key): tuple(words) for key, words in also.items()}


def _look_up(mapping: dict[str, str], key: str, where: str, what: str) -> str:
    if key not in mapping:
        near = get_close_matches(key, list(mapping), n=1, cutoff=0.0)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        any_label = "; prompts=auto takes any label" if what == "class" else ""
        raise ConfigurationError(f"{where}: unknown {what} {key!r}{hint} (known: {sorted(mapping)}){any_label}")
    return mapping[key]
