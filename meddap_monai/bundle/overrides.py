"""The check that MONAI does not make: an override that names nothing stops the run, and says what was meant."""

import contextlib
import sys
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigWorkflow

from meddap_monai.bundle.known_ids import check_id, check_whole_mapping
from meddap_monai.bundle.last_line import say_errors_last
from meddap_monai.core.ids import look_up, parse_yaml, read_yaml, split
from meddap_monai.errors import ConfigurationError

_RUN_ARGUMENTS = {
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
}
_TRACKING_ARGUMENTS = {"output_dir", "tracking_uri", "experiment_name", "run_name", "save_execute_config"}


def check_overrides(arguments: Sequence[str] | None = None, sections: Sequence[str] = ()) -> None:
    """Stop a ``monai.bundle run`` whose command line, ``--args_file`` or overlay names an id that does not exist.

    From here on, an error of this package ends with its own sentence (`say_errors_last`).

    Stands in a bundle's ``initialize``. The bundle's own files, those beside its first configuration, may bring new
    ids; a file from elsewhere and the command line may not. An override inside a component is held against its
    target's signature.

    Args:
        arguments: command line after the program's name; by default that of this process when it is MONAI's.
        sections: root ids whose own keys are checked by what reads them.

    Raises:
        ConfigurationError: names the id and the nearest valid one.
    """
    if arguments is None:
        if Path(sys.argv[0]).parts[-3:-1] != ("monai", "bundle"):
            return
        say_errors_last()
        arguments = sys.argv[1:]
    given = _given(arguments)
    if given.get("config_file") is not None:
        tracking = _TRACKING_ARGUMENTS if given.get("tracking") else set()
        check_files(_names(given["config_file"]), given, sections, _RUN_ARGUMENTS | tracking)


def check_files(
    files: Sequence[Path | str],
    overrides: Mapping[str, Any],
    sections: Container[str] = (),
    arguments: Container[str] = (),
) -> None:
    """Hold overlays and overrides against the bundle's own files.

    Args:
        files: configuration files in the order in which MONAI merges them.
        overrides: full id -> value.
        sections: root ids whose own keys are checked by what reads them.
        arguments: names among `overrides` that are arguments of the workflow, not ids.

    Raises:
        ConfigurationError: an unknown id, or a file that would replace a whole mapping.
    """
    own = Path(files[0]).resolve().parent
    known: dict[str, Any] = {"_meta_": {}}
    for file in files:
        content = read_yaml(file)
        if Path(file).resolve().parent == own:
            _take(known, content)
        else:
            _check(content.items(), known, str(file), sections)
            _take(known, content)
    ids = [(key, value) for key, value in overrides.items() if key not in arguments]
    _check(ids, known, "command line", sections)


def _take(known: dict[str, Any], content: Mapping[str, Any]) -> None:
    """Merge one file as far as ids go."""
    for key, value in content.items():
        parts = split(key)
        level = known
        for part in parts[:-1]:
            below = level.setdefault(part, {})
            if not isinstance(below, dict):
                break
            level = below
        else:
            old = level.get(parts[-1])
            merge = key.startswith("+") and isinstance(old, dict) and isinstance(value, dict)
            level[parts[-1]] = {**old, **value} if merge else value  # type: ignore[dict-item]


def _check(
    pairs: Iterable[tuple[str, Any]], known: Mapping[str, Any], where: str, sections: Container[str] = ()
) -> None:
    for key, value in pairs:
        check_id(key, known, where, sections)
        if not key.startswith("+"):
            check_whole_mapping(key, look_up(key, known), value, where)


def _sections(config: Mapping[str, Any]) -> Sequence[str]:
    """Return the `sections` that a bundle's own `check_overrides` step names."""
    for step in config.get("initialize") or ():
        if isinstance(step, Mapping) and str(step.get("_target_")).endswith(".check_overrides"):
            return tuple(step.get("sections", ()))
    return ()


def _names(files: Any) -> list[str]:
    """Return the configuration files as MONAI's command line understands them: a list, or one name."""
    if isinstance(files, str) and not Path(files).is_file():
        value = parse_yaml(files, "config_file") if files.startswith(("[", "(")) else files.split(",")
        if isinstance(value, str):
            value = [item.strip(" '\"") for item in value.strip("()").split(",")]
        return [str(name) for name in value]
    return [files] if isinstance(files, str) else [str(name) for name in files]


def _given(words: Sequence[str]) -> dict[str, Any]:
    """Return what a command line of MONAI sets, with what stands in its ``--args_file`` below it."""
    given: dict[str, Any] = {}
    name = None
    for word in words:
        if word.startswith("-") and not _is_number(word):
            name, found, value = word.lstrip("-").partition("=")
            given[name] = _value(value) if found else True
        elif name is not None and given[name] is True:
            given[name] = _value(word)
    if isinstance(given.get("args_file"), str):
        given = read_yaml(given["args_file"]) | given
    return given


def _value(text: str) -> Any:
    """Read a mapping as fire does; anything else stays text, because only its shape matters here."""
    if text.startswith("{"):
        with contextlib.suppress(ConfigurationError):
            return parse_yaml(text, "command line")
    return text


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


class CheckedWorkflow(ConfigWorkflow):
    """MONAI's `ConfigWorkflow` for calls from Python, with the same check of its overrides.

    ``create_workflow(workflow_name="meddap_monai.bundle.CheckedWorkflow", config_file=..., **overrides)``.
    """

    def __init__(self, config_file: str | Sequence[str], **arguments: Any) -> None:
        files = _names(config_file)
        known = {"meta_file", "logging_file", "init_id", "run_id", "final_id", "tracking"}
        known |= {"workflow_type", "properties_path"} | (_TRACKING_ARGUMENTS if arguments.get("tracking") else set())
        check_files(files, arguments, _sections(read_yaml(files[0])), known)
        super().__init__(config_file=config_file, **arguments)
