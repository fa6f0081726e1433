"""Whether a full id (``train#trainer#max_epochs``) names something that is there, in MONAI's configurations too."""

import difflib
import functools
import inspect
from collections.abc import Container, Mapping
from pydoc import locate
from typing import Any

from meddap_monai.core.configuration import check_keys, check_renamed, is_empty
from meddap_monai.core.ids import COMPONENT_KEYS, split
from meddap_monai.errors import ConfigurationError

_MORE = "**"
_ALIKE = 0.85
"""A key this close to a known argument is a misspelling, even when the target takes any key."""
FREE = ("variants", "grid", "limits")
"""Mappings of a study with free names: an overlay or an override replaces them as a whole."""


def check_id(key: str, known: Mapping[str, Any], where: str, sections: Container[str] = ()) -> None:
    """Raise when `key` names nothing in the configuration `known`.

    What may be set: an id that is there; an argument of a component (``_target_``), by its signature; a key of an empty
    mapping. Anything below a reference or an expression cannot be judged and is an error.

    Args:
        key: full id.
        known: the configuration.
        where: the place that messages name.
        sections: root ids whose own keys are checked by what reads them (the stages of a study).

    Raises:
        ConfigurationError: names the part and the nearest valid one.
    """
    level: Any = known
    parts = split(key)
    if parts[0] in sections and parts[0] in known:
        _check_reach(parts, known, where)
        return
    for depth, part in enumerate(parts):
        place = f"{where}: {'#'.join(parts[:depth])}" if depth else where
        if isinstance(level, Mapping):
            if part in level:
                level = level[part]
                continue
            if depth and (not level or _is_argument(level, part)):
                return
            valid = [*level, *_arguments(level)] if depth else level
            check_keys([part], [name for name in valid if name not in (*COMPONENT_KEYS, _MORE)], place)
        elif isinstance(level, list):
            if not part.isdigit() or int(part) >= len(level):
                raise ConfigurationError(f"{place}: got the index {part!r}, expected 0 to {len(level) - 1}")
            level = level[int(part)]
        else:
            raise ConfigurationError(f"{place}: is {level!r}, which has no key {part!r}; give a whole mapping instead")


def _check_reach(parts: list[str], known: Mapping[str, Any], where: str) -> None:
    """Raise when MONAI could not write the id: it only writes below mappings and lists that are there."""
    level: Any = known
    for depth, part in enumerate(parts[:-1]):
        above, level = level, level.get(part) if isinstance(level, Mapping) else None
        if not isinstance(level, (Mapping, list)):
            check_renamed(part, above, "#".join(parts[:depth]))
            whole = "#".join(parts[: depth + 1])
            raise ConfigurationError(
                f"{where}: {'#'.join(parts)}: {whole} is {level!r}, and MONAI sets ids only below a mapping that is "
                f'there; give the whole mapping: --{whole} "{{{parts[depth + 1]}: ...}}"'
            )


def _is_argument(level: Mapping[str, Any], part: str) -> bool:
    if "_target_" not in level:
        return False
    names = _arguments(level)
    if part in COMPONENT_KEYS or part in names:
        return True
    takes_more = names == () or _MORE in names
    return takes_more and not difflib.get_close_matches(part, names, n=1, cutoff=_ALIKE)


def _arguments(level: Mapping[str, Any]) -> tuple[str, ...]:
    """Argument names of a component's target, `_MORE` among them when it takes others too; none without a target."""
    target = level.get("_target_")
    return _signature(target) if isinstance(target, str) else ()


@functools.cache
def _signature(target: str) -> tuple[str, ...]:
    from monai.bundle import ConfigComponent

    path = target if "." in target else ConfigComponent(config={"_target_": target}, id="").resolve_module_name()
    found: Any = locate(path)
    if found is None:
        raise ConfigurationError(f"the target {target!r} cannot be imported; check its dotted path")
    names: list[str] = []
    classes = found.__mro__[:-1] if inspect.isclass(found) else ()
    for function in [vars(item)["__init__"] for item in classes if "__init__" in vars(item)] or [found]:
        try:
            parameters = inspect.signature(function).parameters.values()
        except (TypeError, ValueError):
            return (*names, _MORE)
        more = [item for item in parameters if item.kind is item.VAR_KEYWORD]
        names += [item.name for item in parameters if item.kind in (item.POSITIONAL_OR_KEYWORD, item.KEYWORD_ONLY)]
        if not more:
            return tuple(names)
    return (*names, _MORE)


def check_whole_mapping(key: str, old: Any, new: Any, where: str) -> None:
    """Raise when `new` would silently drop other keys of the mapping `old`; those of `FREE` may be replaced."""
    if key in FREE or not isinstance(old, Mapping) or not isinstance(new, Mapping) or "_target_" in new:
        return
    if any(name not in new and not is_empty(item) for name, item in old.items()):
        example = next(iter(new), "key")
        raise ConfigurationError(
            f"{where}: {key!r} would replace the whole mapping and lose its other keys; "
            f"write full ids, such as '{key}#{example}'"
        )
