"""The one grammar of configuration ids: ``generate#steps`` in overlays, and ``ID=VALUE`` on a command line.

An overlay is YAML as MONAI reads it. A value on the command line is read as its field's type says: a text or a path is
what was typed, to the last blank; a number, a switch, a list or a mapping is YAML. Both hold data, never code.
"""

import copy
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path
from types import NoneType
from typing import Any

import yaml

from meddap_monai.core.configuration import inner_type, options, takes_text_keys
from meddap_monai.errors import ConfigurationError
from meddap_monai.store import regular_file

COMPONENT_KEYS = ("_target_", "_disabled_", "_requires_", "_mode_", "_desc_")
"""What makes a mapping one of MONAI's components."""
LARGEST, MOST, DEEPEST = 2**18, 20_000, 32
"""Bytes of a configuration file, values in it (those behind an alias counted each time), and levels."""
_TAG = "tag:yaml.org,2002:"
_KNOWN = {_TAG + name for name in ("str", "int", "float", "bool", "null", "map", "seq", "merge")}


# -------------------------------------------------------------------------------------------------------------- ids
def split(key: str) -> list[str]:
    """Return the parts of a full id; MONAI's merge mark ``+`` and its second separator ``::`` are understood.

    Raises:
        ConfigurationError: the id is not a text, such as an integer key of a YAML file.
    """
    if not isinstance(key, str):
        raise ConfigurationError(f"{key!r}: got {type(key).__name__}, expected an id as text, such as generate#steps")
    return key.removeprefix("+").replace("::", "#").split("#")


def look_up(key: str, known: Mapping[str, Any]) -> Any:
    """Return the value that a full id names, or None."""
    level: Any = known
    for part in split(key):
        if isinstance(level, Mapping):
            level = level.get(part)
        elif isinstance(level, list) and part.isdigit() and int(part) < len(level):
            level = level[int(part)]
        else:
            return None
    return level


def set_value(config: dict[str, Any], key: str, value: Any, where: str) -> None:
    """Write a copy of `value` into `config` under a full id; a mapping that is missing or null is made.

    Raises:
        ConfigurationError: a part above the last one holds something else than a mapping.
    """
    level = config
    *above, last = split(key)
    for part in above:
        if level.get(part) is None:
            level[part] = {}
        level = level[part]
        if not isinstance(level, dict):
            raise ConfigurationError(
                f"{where}: {key!r}: {part!r} is {level!r}, which has no keys; give a whole value instead"
            )
    level[last] = copy.deepcopy(value)


def leaves(value: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Yield every (full id, scalar) of a configuration."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from leaves(item, f"{prefix}#{key}" if prefix else str(key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from leaves(item, f"{prefix}#{number}")
    else:
        yield prefix, value


def type_of(key: str, types: Mapping[str, Any]) -> Any:
    """Return the type of what a full id names, Any where that is open; `types` holds those of the root ids."""
    first, *rest = split(key)
    found = types.get(first, Any)
    for part in rest:
        found = inner_type(found, part)
    return found


# ------------------------------------------------------------------------------------------------------------- data
def find_code(value: Any, key: str = "") -> Iterator[tuple[str, str | None]]:
    """Yield (full id, text) of every expression, reference and macro of MONAI, and (full id, None) of components."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            identifier = f"{key}#{name}" if key else str(name)
            if set(split(str(name))) & set(COMPONENT_KEYS):
                yield identifier, None
            yield from find_code(item, identifier)
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from find_code(item, f"{key}#{number}")
    elif isinstance(value, str) and value.startswith(("$", "@", "%")):
        yield key, value


def check_data(pairs: Mapping[str, Any], where: str) -> None:
    """Refuse code where data belongs: an overlay or a command line from elsewhere must not be able to run anything.

    Raises:
        ConfigurationError: names the id, and how a path that begins with such a sign is given.
    """
    for identifier, text in find_code(pairs):
        if text is None:
            said = "names a component of MONAI, which is code; expected data"
        else:
            said = f"{text!r} begins as MONAI's code does, expected data; give a path of that name as './{text}'"
        raise ConfigurationError(
            f"{where}: {identifier}: {said}. meddap study, demo and the stages run such code with --trust-config"
        )


# ------------------------------------------------------------------------------------------------------------- YAML
def read_yaml(file: Path | str) -> dict[str, Any]:
    """Return the mapping in a YAML or JSON file.

    Raises:
        ConfigurationError: it cannot be read, is no YAML, or holds something else than a mapping.
    """
    try:
        with regular_file(file).open("rb") as stream:
            data = stream.read(LARGEST + 1)
        text = data.decode("utf-8") if len(data) <= LARGEST else ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{file}: cannot be read as YAML ({error}); expected a text file in UTF-8") from error
    if len(data) > LARGEST:
        raise ConfigurationError(f"{file}: more than {LARGEST:,} bytes; expected a configuration")
    content = parse_yaml(text, str(file))
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigurationError(f"{file}: got {type(content).__name__}, expected a mapping of full ids to values")
    return content


def parse_yaml(text: str, where: str, hint: Any = Any) -> Any:
    """Return the value of a YAML text: mappings, lists, texts, numbers, switches and null.

    Dates and base-60 numbers of YAML 1.1 stay texts.

    Args:
        text: YAML.
        where: the place that messages name.
        hint: type of the field that it is for; unquoted scalars are read as it says.

    Raises:
        ConfigurationError: no YAML, a key twice, another type, or too large (an alias that contains itself is).
    """
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _settle(node, hint, where, 0, iter(range(MOST)))
        return loader.construct_document(node)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        said = f"line {mark.line + 1}: {error.problem}" if mark else " ".join(str(error).split())  # type: ignore[union-attr]
        raise ConfigurationError(f"{where}: cannot be read as YAML ({said}); quote a text with signs in it") from error


def _settle(node: yaml.Node, hint: Any, where: str, depth: int, left: Iterator[int]) -> None:
    """Check a node and those below it, and let each scalar be read as its field's type says."""
    if depth > DEEPEST or next(left, None) is None:
        raise ConfigurationError(f"{where}: more than {DEEPEST} levels or {MOST:,} values, aliases followed")
    if isinstance(node, yaml.ScalarNode):
        _settle_scalar(node, hint)
    elif isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            _settle(item, inner_type(hint, str(number)), where, depth + 1, left)
    else:
        seen = set()
        for key, item in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != _TAG + "merge":
                _settle_scalar(key, str if takes_text_keys(hint) else Any)
                if key.value in seen:
                    raise ConfigurationError(f"{where}: the key {key.value!r} stands there twice; leave one out")
                seen.add(key.value)
            _settle(item, inner_type(hint, str(key.value)), where, depth + 1, left)
    if node.tag not in _KNOWN:
        raise ConfigurationError(f"{where}: got a value of type {node.tag.removeprefix(_TAG)}, expected plain data")


def _settle_scalar(node: yaml.ScalarNode, hint: Any) -> None:
    if node.style is not None or node.tag == _TAG + "merge":
        return
    kinds = options(hint)
    numeric = node.tag in (_TAG + "int", _TAG + "float")
    if node.tag == _TAG + "timestamp" or (numeric and ":" in node.value):
        node.tag = _TAG + "str"
    if (node.tag == _TAG + "null" and NoneType in kinds) or (node.tag == _TAG + "bool" and bool in kinds):
        return
    for kind in (int, float):
        if kind in kinds and (number := _number(kind, node.value)) is not None:
            node.tag, node.value = _TAG + kind.__name__, str(number)
            return
    if str in kinds or Path in kinds:
        node.tag = _TAG + "str"


def _number(kind: type, text: str) -> Any:
    try:
        return kind(text)
    except ValueError:
        return None


# ---------------------------------------------------------------------------------------------------- command line
def read_pairs(
    texts: Iterable[str], types: Mapping[str, Any], stage: str | None = None, roots: Container[str] = ()
) -> dict[str, Any]:
    """Return full id -> value of ``ID=VALUE`` texts.

    Args:
        texts: of a command line.
        types: root id -> type, which says how a value is read.
        stage: the stage whose keys may be given without its name.
        roots: ids that are never keys of `stage`.

    Raises:
        ConfigurationError: a text without ``=``, or a value that cannot be read.
    """
    pairs = {}
    for text in texts:
        key, found, value = text.partition("=")
        if not found:
            raise ConfigurationError(f"{text!r}: expected ID=VALUE, e.g. generate#steps=20, or steps=20 in a stage")
        key = key if stage is None or split(key)[0] in roots else f"{stage}#{key}"
        pairs[key] = read_value(value, type_of(key, types), f"command line: {key}")
    return pairs


def read_value(text: str, hint: Any, where: str) -> Any:
    """Return a value from a command line; where `hint` takes a text or a path, it is the text as it was typed.

    An empty text or ``null`` is None where the field may be, and ``[`` begins a list where the field takes one too.
    """
    kinds = options(hint)
    nothing = text in ("", "null", "~") and NoneType in kinds
    listed = text.startswith("[") and any(kind not in (str, Path, NoneType) for kind in kinds)
    if (str in kinds or Path in kinds) and not nothing and not listed:
        return text
    return parse_yaml(text, where, hint)


def nest(pairs: Mapping[str, Any], where: str = "command line") -> dict[str, Any]:
    """Return pairs as nested mappings: ``{"classify#steps": 2}`` becomes ``{"classify": {"steps": 2}}``."""
    nested: dict[str, Any] = {}
    for key, value in pairs.items():
        set_value(nested, key, value, where)
    return nested


def split_places(text: str, counts: Container[int]) -> list[str]:
    """Return the one or two paths that a colon joins; a colon inside of a path is told by what exists.

    Args:
        text: ``PATH`` or ``PATH:PATH``.
        counts: how many there may be.

    Returns:
        The only cut into paths that all exist; without one, the text cut at every colon.
    """
    parts = text.split(":")
    cuts = [[text], *([":".join(parts[:n]), ":".join(parts[n:])] for n in range(1, len(parts)))]
    there = [cut for cut in cuts if len(cut) in counts and all(part and Path(part).exists() for part in cut)]
    return there[0] if len(there) == 1 else parts
