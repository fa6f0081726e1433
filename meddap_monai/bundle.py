"""What the MONAI bundles need beside their YAML: merged study sections, misspelled overrides, a linter.

MONAI accepts a misspelled override in silence and lets a nested mapping of a second file replace the first file's
mapping; both cost a researcher days, so both are errors here.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from meddap_monai.configuration import check_keys
from meddap_monai.errors import ConfigurationError

_RUN_ARGUMENTS = [
    "run_id",
    "init_id",
    "final_id",
    "meta_file",
    "config_file",
    "logging_file",
    "tracking",
    "args_file",
    "workflow_name",
    "workflow_type",
    "properties_path",
]
EXPRESSIONS = (
    r"\$@[\w#]+( is None| is not None)?",
    r"\$torch\.device\('cuda' if torch\.cuda\.is_available\(\) else 'cpu'\)",
    r"\$@[\w#]+ \+ '[\w./ -]*'",
    r"\$torch\.device\('cuda:' \+ os\.environ\['LOCAL_RANK'\]\)",
    r"\$import \w+(\.\w+)*( as \w+)?",
    r"\$@[\w#]+\.(run|eval|parameters|state_dict)\(\)",
    r"\$dist\.(is_initialized|init_process_group|destroy_process_group|get_rank)\([\w='\" ]*\)",
)
"""The only shapes a ``$`` expression of a bundle may have; everything else belongs into the package."""


def study_sections(files: Sequence[Path | str], pairs: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the resolved mapping ``study`` of the study bundle: first file, overlays over it, then single ids.

    Args:
        files: the bundle's configuration, then overlays whose keys are full ids.
        pairs: full id -> value, the last word.

    Raises:
        ConfigurationError: a missing file, an unknown id, or an overlay that would replace a whole mapping.
    """
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(str(files[0]))
    for file in files[1:]:
        _apply(parser, _read(file), str(file))
    _apply(parser, pairs or {}, "command line")
    parser.parse(reset=True)
    sections: dict[str, Any] = parser.get_parsed_content("study", instantiate=False)
    return sections


def _read(file: Path | str) -> dict[str, Any]:
    try:
        content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigurationError(f"{file}: cannot be read as YAML ({error})") from error
    if not isinstance(content, dict):
        raise ConfigurationError(f"{file}: got {type(content).__name__}, expected a mapping of full ids to values")
    return content


def _apply(parser: Any, pairs: Mapping[str, Any], where: str) -> None:
    """Write `pairs` into the parser after checking that each id names something that is there."""
    for key, value in pairs.items():
        parts = key.lstrip("+").replace("::", "#").split("#")
        check_keys(parts[:1], parser.config, where)
        old = parser.config[parts[0]]
        if len(parts) == 1 and isinstance(old, Mapping) and isinstance(value, Mapping) and parts[0] != "variants":
            example = next(iter(value), "key")
            raise ConfigurationError(
                f"{where}: {key!r} would replace the whole mapping and lose its other keys; "
                f"write full ids, such as '{key}#{example}'"
            )
        for depth, part in enumerate(parts[1:], start=1):
            if old is None and depth < len(parts):
                parser["#".join(parts[:depth])] = {}
                old = {}
            old = old.get(part) if isinstance(old, Mapping) else None
        parser["#".join(parts)] = value


def check_overrides(arguments: Sequence[str] | None = None) -> None:
    """Stop a ``monai.bundle run`` whose command line, ``--args_file`` or overlay names an id that does not exist.

    Goes into a bundle's ``initialize``. Only the root of an id is checked here, and one level below it when the
    configuration holds a mapping there; the keys of a stage are checked by the stage itself.

    Args:
        arguments: command line after the program's name; by default that of this process when it is MONAI's.

    Raises:
        ConfigurationError: names the id and the nearest valid one.
    """
    if arguments is None:
        if "monai" not in Path(sys.argv[0]).parts[-3:] and "bundle" not in Path(sys.argv[0]).parts[-2:]:
            return
        arguments = sys.argv[1:]
    given = _arguments(arguments)
    if "args_file" in given:
        given = _read(given["args_file"]) | given
    files = given.get("config_file")
    if files is None:
        return
    names = files if isinstance(files, list) else yaml.safe_load(files) if files.startswith("[") else files.split(",")
    known = _read(names[0])
    for name in names[1:]:
        _check_ids(_read(name), known, str(name))
    _check_ids({key: None for key in given if key not in _RUN_ARGUMENTS}, known, "command line")


def _arguments(words: Sequence[str]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    name = None
    for word in words:
        if word.startswith("--"):
            name, found, value = word[2:].partition("=")
            given[name] = value if found else True
        elif name is not None and given[name] is True:
            given[name] = word
    return given


def _check_ids(ids: Iterable[str], known: Mapping[str, Any], where: str) -> None:
    for key in ids:
        parts = key.lstrip("+").replace("::", "#").split("#")
        check_keys(parts[:1], known, where)
        below = known[parts[0]]
        closed = isinstance(below, Mapping) and "_target_" not in below and below
        if len(parts) > 1 and closed and where != "command line" and parts[0] in ("train", "validate", "evaluate"):
            check_keys(parts[1:2], below, f"{where}: {parts[0]}")


def lint(file: Path | str) -> list[str]:
    """Return what is wrong with a bundle's YAML: expressions outside `EXPRESSIONS`, with their ids.

    A configuration is code (MONAI evaluates ``$`` and imports ``_target_``), so what it may say is an allow-list.
    """
    findings = []
    for identifier, value in _leaves(_read(file)):
        if not isinstance(value, str):
            continue
        if value.startswith("$") and not any(re.fullmatch(pattern, value) for pattern in EXPRESSIONS):
            findings.append(f"{file}: {identifier}: the expression {value!r} is not on the allow-list")
        if identifier.endswith("_target_") and not re.match(r"(meddap_monai|monai|torch|ignite|[A-Z]\w*$)", value):
            findings.append(f"{file}: {identifier}: {value!r} is not from meddap_monai, monai, torch or ignite")
    return findings


def _leaves(value: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{prefix}#{key}" if prefix else str(key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _leaves(item, f"{prefix}#{number}")
    else:
        yield prefix, value
