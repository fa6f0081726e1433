"""The command that repeats a study, as its report shows it: without the places of files."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from meddap_monai.core.configuration import field_types, inner_type, options
from meddap_monai.core.ids import read_pairs, type_of
from meddap_monai.encoders.places import without_place
from meddap_monai.study.config import StudyConfig

_HIDDEN = "..."


def with_command(
    sections: Mapping[str, Any], name: str, overlays: Sequence[str | Path], overrides: Sequence[str]
) -> dict[str, Any]:
    """Return a study's sections with the command that repeats it among the keys of `evaluate`, unless one is there."""
    evaluate = sections.get("evaluate")
    if not isinstance(evaluate, Mapping):
        return dict(sections)
    return {**sections, "evaluate": {"command": command_of(name, overlays, overrides), **evaluate}}


def command_of(name: str, overlays: Sequence[str | Path], overrides: Sequence[str]) -> str:
    """Return the command that repeats a study, for its report.

    A path can hold a patient's or a hospital's name. So overlays are named without their folder, and every value of a
    field that is a path (source, table, key_file, weights, ...) is left out, also inside of variants and grids; of an
    encoder's folder or file the last name stays.
    """
    words = [f"--config {shlex.quote(Path(overlay).name)}" for overlay in overlays]
    for text in overrides:
        ((key, value),) = read_pairs([text], field_types(StudyConfig)).items()
        shown = _without_places(value, type_of(key, field_types(StudyConfig)))
        if shown != value:
            text = f"{key}={_HIDDEN if shown == _HIDDEN else _flow(shown)}"
        words.append(shlex.quote(text))
    return " ".join([f"meddap {name}", *words])


def _without_places(value: Any, hint: Any) -> Any:
    """Return `value` with what stands where `hint` has a path replaced; keys of open mappings are full ids."""
    if Path in options(hint) and value is not None:
        return _HIDDEN
    if isinstance(value, Mapping):
        return {key: _without_places(item, _below(hint, str(key))) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_places(item, inner_type(hint, str(number))) for number, item in enumerate(value)]
    return without_place(value) if isinstance(value, str) else value


def _below(hint: Any, key: str) -> Any:
    found = inner_type(hint, key)
    return type_of(key, field_types(StudyConfig)) if found in (Any, dict) else found


def _flow(value: Any) -> str:
    """Return one line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), allow_unicode=True, sort_keys=False)
    return text.strip().removesuffix("\n...").replace(f"'{_HIDDEN}'", _HIDDEN)  # YAML ends a lone text with dots
