"""The study bundle's configuration under its overlays: full ids only, nothing lost, nothing misspelled, no code."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from meddap_monai.bundle.known_ids import check_whole_mapping
from meddap_monai.core.configuration import check_keys, check_mapping
from meddap_monai.core.ids import check_data, look_up, read_yaml, set_value, split


def study_sections(
    files: Sequence[Path | str], pairs: Mapping[str, Any] | None = None, trust: bool = False
) -> dict[str, Any]:
    """Return the resolved mapping ``study`` of the study bundle: first file, overlays over it, then single ids.

    Args:
        files: the bundle's configuration, then overlays whose keys are full ids.
        pairs: full id -> value, the last word, also over `limits`.
        trust: let MONAI run what code overlays and pairs hold, instead of refusing it.

    Raises:
        ConfigurationError: a missing file, an unknown id, an overlay that would replace a whole mapping, or code.
    """
    config = read_yaml(files[0])
    for file in files[1:]:
        apply(config, read_yaml(file), str(file), trust)
    apply(config, pairs or {}, "command line", trust)
    if config.get("limits"):
        _lift_limits(config, pairs or {})
    return _run_expressions(config) if trust else _follow_references(config)


def _follow_references(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``study``, whose values name root ids of the bundle's own file; nothing else is looked at."""
    return {name: look_up(text.removeprefix("@"), config) for name, text in config["study"].items()}


def _run_expressions(config: dict[str, Any]) -> dict[str, Any]:
    from monai.bundle import ConfigParser

    parser = ConfigParser(config)
    parser.parse(reset=True)
    sections: dict[str, Any] = parser.get_parsed_content("study", instantiate=False)
    return sections


def apply(config: dict[str, Any], pairs: Mapping[str, Any], where: str, trust: bool = False) -> None:
    """Write `pairs` (full id -> value) into `config`; the root of an id must be there, its stage checks the rest.

    Raises:
        ConfigurationError: an unknown root, a whole mapping that would lose keys, an id below a scalar, or code.
    """
    if not trust:
        check_data(pairs, where)
    for key, value in pairs.items():
        check_keys(split(key)[:1], [name for name in config if name != "study"], where)
        check_whole_mapping(key, look_up(key, config), value, where)
        set_value(config, key, value, where)


def _lift_limits(config: dict[str, Any], pairs: Mapping[str, Any]) -> None:
    """Drop the limits whose id, or a part below it, is given by hand."""
    check_mapping(config["limits"], "limits")
    given = [split(key) for key in pairs]
    config["limits"] = {
        key: value
        for key, value in config["limits"].items()
        if not any(split(key)[: len(parts)] == parts or parts[: len(split(key))] == split(key) for parts in given)
    }
