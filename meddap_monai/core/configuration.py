"""From mappings (YAML, JSON, command line) to frozen dataclasses: a misspelled key or a wrong type is a clear error."""

import dataclasses
import functools
import math
import re
import types
import typing
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from meddap_monai.core.constraints import constructing, unknown
from meddap_monai.errors import ConfigurationError

T = TypeVar("T")

RENAMED = {
    "amp": "precision",
    "average": "ema",
    "checkpoint_interval": "checkpoint_every",
    "choose": "keep",
    "dtype": "precision",
    "half": "precision",
    "network": "encoder",
    "num_workers": "workers",
    "optimiser": "optimizer",
    "picture_every": "pictures_every",
    "polish": "refinement",
    "rival_rate": "discriminator_learning_rate",
    "samples_every": "pictures_every",
    "size": "resolution",
    "val_interval": "validation_every",
}
"""Keys of before -> the one word for it now (docs/configuration.md)."""


def build(cls: type[T], mapping: Mapping[str, Any] | T, where: str) -> T:
    """Return an instance of the dataclass `cls` from `mapping`.

    Args:
        cls: frozen dataclass whose fields are the valid keys; nested dataclasses are built likewise.
        mapping: keys and values, or an instance of `cls`, which is returned as it is. A section without any value keeps
            its default, so that a bundle can ship one that is off and MONAI can still write below it.
        where: the place that messages name, e.g. ``"generate"``.

    Raises:
        ConfigurationError: an unknown key (naming the nearest valid one), a missing key or a value of a wrong type.
    """
    if isinstance(mapping, cls):
        return mapping
    mapping = check_mapping(mapping, where)
    hints = field_types(cls)  # type: ignore[arg-type]
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    check_keys(mapping, fields, where)
    needed = [
        name
        for name, field in fields.items()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    missing = [name for name in needed if name not in mapping]
    if missing:
        raise ConfigurationError(f"{where}: the key {missing[0]!r} is missing; set {where}#{missing[0]}")
    unset = {name for name, value in mapping.items() if _is_section(hints[name]) and is_empty(value)} - set(needed)
    given = {key: value for key, value in mapping.items() if key not in unset}
    values = {key: _convert(hints[key], value, f"{where}#{key}") for key, value in given.items()}
    with constructing(cls, where):
        return cls(**values)


def is_empty(value: Any) -> bool:
    """Tell whether `value` is a mapping that holds no value at any depth."""
    return isinstance(value, Mapping) and all(is_empty(item) for item in value.values())


def check_keys(keys: Iterable[str], valid: Iterable[str], where: str) -> None:
    """Raise when a key is not valid, naming its new name, or the nearest valid one."""
    known = list(valid)
    for key in keys:
        if key not in known:
            check_renamed(key, known, where)
            raise ConfigurationError(f"{where}: {unknown('key', str(key), known)}")


def check_renamed(key: str, valid: Container[str], where: str) -> None:
    """Raise when a key had another name before, naming the valid one of now."""
    new = RENAMED.get(key)
    if new in valid:
        place = f"{where}#" if re.fullmatch(r"[\w#]+", where) else f"{where}: "
        raise ConfigurationError(f"{place}{key} is now {place if place[-1] == '#' else ''}{new}")


def check_mapping(value: Any, where: str) -> Mapping[str, Any]:
    """Return a value; raise when it is not a mapping."""
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"{where}: got {value!r}, expected a mapping of keys to values")
    return value


# ------------------------------------------------------------------------------------------------------------ types
@functools.cache
def field_types(cls: type) -> dict[str, Any]:
    """Return field -> type of a dataclass."""
    return typing.get_type_hints(cls)


def options(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the type itself."""
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def inner_type(hint: Any, key: str) -> Any:
    """Return the type of what lies below `key` of a value of type `hint`; Any where that is open."""
    for option in options(hint):
        origin, arguments = typing.get_origin(option), typing.get_args(option)
        if dataclasses.is_dataclass(option):
            return field_types(option).get(key, Any)  # type: ignore[arg-type]
        if origin in (dict, Mapping):
            return arguments[1]
        if origin in (list, tuple) and key.isdigit():
            return arguments[min(int(key), len(arguments) - 1)] if arguments[-1] is not Ellipsis else arguments[0]
    return Any


def takes_text_keys(hint: Any) -> bool:
    """Tell whether the keys of a mapping of type `hint` are texts: fields of a dataclass, or said so."""
    return any(dataclasses.is_dataclass(one) or typing.get_args(one)[:1] == (str,) for one in options(hint))


def _is_section(hint: Any) -> bool:
    """Tell whether a field holds a dataclass, or one of several types of which one is."""
    return any(dataclasses.is_dataclass(option) for option in options(hint))


def _convert(hint: Any, value: Any, where: str) -> Any:
    """Check `value` against the annotation `hint`, turning lists into tuples, text into paths, ints into floats."""
    origin = typing.get_origin(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _convert_union(typing.get_args(hint), value, where)
    if dataclasses.is_dataclass(hint):
        return build(hint, value, where)  # type: ignore[arg-type]
    if origin in (tuple, list):
        return _convert_sequence(origin, typing.get_args(hint), value, where)
    if origin is dict or hint is dict or origin is Mapping:
        return _convert_mapping(typing.get_args(hint), value, where)
    return _convert_scalar(hint, value, where)


def _convert_union(options: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in options:
        return None
    errors = []
    for option in options:
        if option is type(None):
            continue
        try:
            return _convert(option, value, where)
        except ConfigurationError as error:
            errors.append(error)
    raise errors[0]


def _convert_sequence(origin: type, arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    if not isinstance(value, (list, tuple)):
        raise ConfigurationError(f"{where}: got {value!r}, expected a list")
    if origin is tuple and arguments and arguments[-1] is not Ellipsis:
        if len(value) != len(arguments):
            raise ConfigurationError(f"{where}: got {len(value)} values, expected {len(arguments)}")
        return tuple(
            _convert(hint, item, f"{where}#{i}") for i, (hint, item) in enumerate(zip(arguments, value, strict=True))
        )
    hint = arguments[0] if arguments else Any
    return origin(_convert(hint, item, f"{where}#{i}") for i, item in enumerate(value))


def _convert_mapping(arguments: tuple[Any, ...], value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"{where}: got {value!r}, expected a mapping")
    kind, hint = arguments or (Any, Any)
    for key in value:
        if kind is str and not isinstance(key, str):
            raise ConfigurationError(f"{where}: the key {key!r} is {type(key).__name__}, expected text; quote it")
    return {key: _convert(hint, item, f"{where}#{key}") for key, item in value.items()}


def _convert_scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is Path and isinstance(value, (str, Path)):
        if not str(value) or "\0" in str(value):
            raise ConfigurationError(f"{where}: got {value!r}, expected a path")
        return Path(value)
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        if not _is_finite(value):
            raise ConfigurationError(f"{where}: got {value}, expected a finite number")
        return float(value)
    wrong = not isinstance(value, hint) or (hint is int and isinstance(value, bool))
    if wrong:
        raise ConfigurationError(f"{where}: got {value!r} ({type(value).__name__}), expected {hint.__name__}")
    if hint is int and not _is_finite(value):
        raise ConfigurationError(f"{where}: got {value}, expected a number of at most 63 bits")
    if hint is str and not _is_unicode(value):
        raise ConfigurationError(f"{where}: got {value!r}, expected text in UTF-8")
    return value


def _is_finite(value: float) -> bool:
    return -(2**63) <= value < 2**63 if isinstance(value, int) else math.isfinite(value)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
