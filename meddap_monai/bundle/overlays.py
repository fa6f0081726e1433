"""The study bundle's configuration under its overlays: full ids only, nothing lost, nothing misspelled."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from meddap_monai.bundle.ids import check_whole_mapping, look_up, read_yaml, split
from meddap_monai.configuration import check_keys
from meddap_monai.errors import ConfigurationError


def study_sections(files: Sequence[Path | str], pairs: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the resolved mapping ``study`` of the study bundle: first file, overlays over it, then single ids.

    Args:
        files: the bundle's configuration, then overlays whose keys are full ids.
        pairs: full id -> value, the last word, also over `limits`.

    Raises:
        ConfigurationError: a missing file, an unknown id, or an overlay that would replace a whole mapping.
    """
    from monai.bundle import ConfigParser

    config = read_yaml(files[0])
    for file in files[1:]:
        apply(config, read_yaml(file), str(file))
    apply(config, pairs or {}, "command line")
    if config.get("limits"):
        _lift_limits(config, pairs or {})
    parser = ConfigParser(config)
    parser.parse(reset=True)
    sections: dict[str, Any] = parser.get_parsed_content("study", instantiate=False)
    return sections


def apply(config: dict[str, Any], pairs: Mapping[str, Any], where: str) -> None:
    """Write `pairs` (full id -> value) into `config`; the root of an id must be there, its stage checks the rest.

    Raises:
        ConfigurationError: an unknown root, a whole mapping that would lose keys, or an id below a scalar.
    """
    for key, value in pairs.items():
        first, *rest = split(key)
        check_keys([first], config, where)
        check_whole_mapping(key, look_up(key, config), value, where)
        _set(config, [first, *rest], copy.deepcopy(value), f"{where}: {key!r}")


def _lift_limits(config: dict[str, Any], pairs: Mapping[str, Any]) -> None:
    """Drop the limits whose id, or a part below it, is given by hand."""
    given = [split(key) for key in pairs]
    limits = config.get("limits") or {}
    config["limits"] = {
        key: value
        for key, value in limits.items()
        if not any(split(key)[: len(parts)] == parts or parts[: len(split(key))] == split(key) for parts in given)
    }


def _set(config: dict[str, Any], parts: list[str], value: Any, where: str) -> None:
    level = config
    for part in parts[:-1]:
        if level.get(part) is None:
            level[part] = {}
        level = level[part]
        if not isinstance(level, dict):
            raise ConfigurationError(f"{where}: {part!r} is {level!r}, which has no keys; give a whole value instead")
    level[parts[-1]] = value
