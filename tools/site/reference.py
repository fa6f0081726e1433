"""The reference: commands, keys, file formats and Python names as pages, all read off the package."""

import argparse
import importlib
import json
import re
from collections.abc import Iterator
from typing import Any

from meddap_monai.cli.keys import grouped_keys
from meddap_monai.cli.main import _parser
from meddap_monai.core import resources
from meddap_monai.core.keys import Key, keys_of

ROOMS = ("", "transforms", "study", "store", "bundle")
"""Packages whose ``__all__`` is public; the empty one is `meddap_monai` itself."""
REGISTRIES = {
    "meddap_monai.diffusion.adapting.methods.registry": "METHODS",
    "meddap_monai.selection.filtering.rules": "RULES",
    "meddap_monai.encoders.registry": "ENCODERS",
    "meddap_monai.images.reading.plain": "FORMATS",
    "meddap_monai.statistics.weighted": "METRICS",
}
"""Module -> its registry, which a reader's own entry joins."""


def pages() -> dict[str, str]:
    """Return every generated page: its path below ``docs`` and its Markdown."""
    return {**_commands(), **_formats(), **_python()}


# --------------------------------------------------------------------------------------------------------- commands
def _commands() -> dict[str, str]:
    made = {f"reference/commands/{name}.md": _command(name, command) for name, command in commands().items()}
    rows = [
        f"| [`meddap {name}`](commands/{name}.md) | {command.description} |" for name, command in commands().items()
    ]
    text = "# Commands\n\nEvery command of `meddap`, with its options and keys, as `meddap COMMAND --help` says them.\n"
    made["reference/commands.md"] = "\n".join([text, "| command | what it does |", "| --- | --- |", *rows, ""])
    return made


def commands(parser: argparse.ArgumentParser | None = None) -> dict[str, Any]:
    """Return command -> its parser, in the order of ``meddap --help``."""
    for action in (parser or _parser())._actions:
        if isinstance(action, argparse._SubParsersAction):
            for said in action._choices_actions:  # what ``meddap --help`` says of a command that says no more itself
                action.choices[said.dest].description = action.choices[said.dest].description or said.help
            return dict(action.choices)
    return {}


def _command(name: str, command: Any) -> str:
    lines = [f"# meddap {name}", "", _sentence(command.description), "", *_options(command)]
    for inner, parser in commands(command).items():
        lines += [f"## meddap {name} {inner}", "", _sentence(parser.description), "", *_options(parser)]
    if getattr(command, "configuration", None) is not None:
        lines += ["## Keys", "", "Written `ID=VALUE` on the command line, or as lines of a file for `--config`.", ""]
        for title, keys in grouped_keys(command.configuration(), command.without):
            lines += [f"### {title[:1].upper()}{title[1:].rstrip('.')}", ""] if title else []
            lines += [line for key in keys for line in _key(key)]
    if name == "adapt":
        lines += list(_methods())
    return "\n".join(lines)


def _methods() -> Iterator[str]:
    from meddap_monai.diffusion.adapting.methods.registry import METHODS

    for name, cls in METHODS.items():
        keys = list(keys_of(cls, "adapt#method_settings"))
        if keys:
            yield from (f"### Settings of the method `{name}`", "")
            yield from (line for key in keys for line in _key(key))


def _options(parser: argparse.ArgumentParser) -> list[str]:
    lines = ["| option | meaning |", "| --- | --- |"]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction | argparse._HelpAction):
            continue
        value = action.metavar or (action.dest.upper() if action.nargs != 0 else "")
        names = " ".join([", ".join(action.option_strings), str(value) if action.option_strings else ""]).strip()
        meaning = parser._get_formatter()._expand_help(action) if action.help else ""
        needed = " (needed)" if action.required and action.option_strings else ""
        lines.append(f"| `{names or value or action.dest}` | {_cell(meaning)}{needed} |")
    return [*lines, ""]


def _key(key: Key) -> list[str]:
    facts = f"{_plain(key.expected)}; default: `{key.default_text}`; example: `{key.id}={key.example}`"
    return [f"#### `{key.id}` {{: #{key.id.replace('#', '-')} }}", "", _plain(key.meaning), "", f":   {facts}", ""]


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".") + "."


def _plain(text: str) -> str:
    """Return a docstring's text as Markdown: what is no code is no markup either."""
    parts = re.split(r"(`[^`]+`)", text.replace("``", "`"))
    return "".join(part if part.startswith("`") else part.replace("<", "&lt;").replace("*", "\\*") for part in parts)


def _cell(text: str) -> str:
    return _plain(text).replace("|", "\\|").replace("\n", " ")


# ---------------------------------------------------------------------------------------------------------- formats
def schemas() -> dict[str, dict[str, Any]]:
    """Return name -> JSON Schema of every file format."""
    files = sorted(resources.find("schemas").glob("*.json"))
    return {file.stem: json.loads(file.read_text()) for file in files}


def _formats() -> dict[str, str]:
    made, rows = {}, []
    for name, schema in schemas().items():
        title, _, about = schema["title"].partition(": ")
        made[f"reference/formats/{name}.md"] = _format(name, schema)
        rows.append(f"| [{title}](formats/{name}.md) | {about} |")
    text = "# File formats\n\nWhat the stages write, each as a JSON Schema (2020-12).\n"
    made["reference/formats.md"] = "\n".join([text, "| file | what it holds |", "| --- | --- |", *rows, ""])
    return made


def _format(name: str, schema: dict[str, Any]) -> str:
    title, _, about = schema["title"].partition(": ")
    lines = [f"# {title}", "", _sentence(about), ""]
    lines += ["| field | type | needed | meaning |", "| --- | --- | --- | --- |"]
    for field, what in schema.get("properties", {}).items():
        needed = "yes" if field in schema.get("required", []) else ""
        lines.append(f"| `{field}` | {_cell(_type(what))} | {needed} | {_cell(what.get('description', ''))} |")
    text = json.dumps(schema, indent=2, ensure_ascii=False)
    return "\n".join([*lines, "", f"## The schema, `schemas/{name}.json`", "", "```json", text, "```", ""])


def _type(what: dict[str, Any]) -> str:
    if "enum" in what:
        return ", ".join(f"`{json.dumps(value)}`" for value in what["enum"])
    kind = what.get("type", "any")
    words = kind if isinstance(kind, str) else " or ".join(kind)
    low, high = what.get("minimum", what.get("exclusiveMinimum")), what.get("maximum")
    words += f" from {low:g}" if low is not None else ""
    return words + (f" to {high:g}" if high is not None else "")


# ----------------------------------------------------------------------------------------------------------- Python
def public_names() -> dict[str, dict[str, list[str]]]:
    """Return room -> full name of what is public there -> the names under which it is imported."""
    found: dict[str, dict[str, list[str]]] = {}
    for room in ROOMS:
        package = importlib.import_module(f"meddap_monai.{room}".rstrip("."))
        for name in package.__all__:
            thing = getattr(package, name)
            place = getattr(thing, "__module__", "")
            if not callable(thing) or not place.startswith("meddap_monai."):
                continue  # constants; they stand in the pages that use them
            full = f"{place}.{thing.__qualname__}"
            found.setdefault(place.split(".")[1], {}).setdefault(full, []).append(f"{package.__name__}.{name}")
    errors = importlib.import_module("meddap_monai.errors")
    named = [name for name, thing in vars(errors).items() if isinstance(thing, type)]
    found["errors"] = {f"meddap_monai.errors.{name}": [f"meddap_monai.errors.{name}"] for name in named}
    return dict(sorted(found.items()))


def _python() -> dict[str, str]:
    made, rows = {}, []
    for room, names in public_names().items():
        doc = importlib.import_module(f"meddap_monai.{room}").__doc__ or ""
        about = doc.strip().partition("\n\n")[0].replace("\n", " ")
        lines = [f"# meddap_monai.{room}", "", about, ""]
        for full, imported in names.items():
            lines += [f"::: {full}", "", "Imported as " + ", ".join(f"`{name}`" for name in imported) + ".", ""]
        made[f"reference/python/{room}.md"] = "\n".join(lines)
        rows.append(f"| [`meddap_monai.{room}`](python/{room}.md) | {_cell(about)} |")
    text = "# Python\n\nThe public names, by the room they live in. Every other module may change.\n"
    own = ["", "## Registries", "", "What can be added to from outside: see [Extending](../extending.md).", ""]
    own += ["| registry | it holds now |", "| --- | --- |"]
    for module, registry in REGISTRIES.items():
        held = ", ".join(f"`{name}`" for name in getattr(importlib.import_module(module), registry))
        own.append(f"| `{module}.{registry}` | {held} |")
    made["reference/python.md"] = "\n".join([text, "| room | what for |", "| --- | --- |", *rows, *own, ""])
    return made
