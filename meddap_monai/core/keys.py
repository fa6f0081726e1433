"""The keys of a configuration class as a person reads them: meaning, type, range, default and a valid example.

All of it comes from the fields: their annotations (`meddap_monai.core.constraints`), and either the class's
``Attributes:`` or the text below a field.
"""

import ast
import contextlib
import dataclasses
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml

from meddap_monai.core.configuration import build, options
from meddap_monai.core.constraints import Choice, Count, Multiple, Range
from meddap_monai.core.ids import read_value
from meddap_monai.core.key_examples import candidates
from meddap_monai.errors import ConfigurationError

_SCALARS = {int: "whole number", float: "number", bool: "true or false", str: "text", Path: "path", Any: "any value"}


@dataclass(frozen=True)
class Key:
    """One field of a configuration class.

    Attributes:
        id: full id, such as ``cluster#filter#folds``.
        name: of the field.
        owner: its class.
        hint: its annotation, constraints included.
        default: its default; ``dataclasses.MISSING`` where a value is needed.
        meaning: what its class says about it.
    """

    id: str
    name: str
    owner: type
    hint: Any
    default: Any
    meaning: str

    @property
    def section(self) -> type | None:
        """The configuration class that the field holds, if it holds one."""
        found = [option for option in options(self.hint) if dataclasses.is_dataclass(option)]
        return found[0] if found else None  # type: ignore[return-value]

    @property
    def expected(self) -> str:
        """Type and range in words."""
        return expected(self.hint)

    @property
    def default_text(self) -> str:
        """The default as YAML in one line, or that a value is needed."""
        return "none, it must be given" if self.default is dataclasses.MISSING else one_line(self.default)

    @property
    def example(self) -> str:
        """A value other than the default that the key takes, as it is typed behind ``=``."""
        for value in candidates(self):
            text = value if isinstance(value, str) else one_line(value)
            with contextlib.suppress(ConfigurationError):
                read = read_value(text, _plain_hint(self.hint), self.id)
                if build(self.owner, {**_needed(self.owner), self.name: read}, self.id) and read != self.default:
                    return text
        return "null" if self.default is dataclasses.MISSING else _typed(self.default)


def keys_of(cls: type, place: str = "") -> Iterator[Key]:
    """Yield the keys of a configuration class, those of its sections left to the reader (`Key.section`).

    Args:
        cls: frozen dataclass.
        place: its id; empty for the root.
    """
    hints, meanings = typing.get_type_hints(cls, include_extras=True), meanings_of(cls)
    for one in _fields(cls):
        identifier = f"{place}#{one.name}" if place else one.name
        key = Key(identifier, one.name, cls, hints[one.name], _default(one), meanings.get(one.name, ""))
        yield dataclasses.replace(key, meaning=summary(key.section)) if key.section and not key.meaning else key


def meanings_of(cls: type) -> dict[str, str]:
    """Return field -> what the class says about it, under ``Attributes:`` or below the field; bases included."""
    found: dict[str, str] = {}
    for one in reversed(cls.__mro__[:-1]):
        if dataclasses.is_dataclass(one):
            found |= _below_fields(one) | _attributes(one.__doc__ or "")
    return found


def summary(cls: type) -> str:
    """Return the first sentence of a class."""
    return inspect.cleandoc(cls.__doc__ or "").partition("\n")[0]


def _attributes(text: str) -> dict[str, str]:
    block = inspect.cleandoc(text).partition("\nAttributes:\n")[2].partition("\n\n")[0]
    entries = re.split(r"\n(?=\S)", textwrap.dedent(block))
    pairs = (entry.partition(":") for entry in entries if ":" in entry)
    return {name.strip(): _sentence(meaning) for name, _, meaning in pairs}


def _below_fields(cls: type) -> dict[str, str]:
    try:
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    except (OSError, TypeError, SyntaxError):  # made where there is no source, such as in a console
        return {}
    found = {}
    for field, below in zip(tree.body, tree.body[1:], strict=False):  # type: ignore[attr-defined]
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            found[ast.unparse(field.target)] = _sentence(str(below.value.value))
    return found


def _sentence(text: str) -> str:
    words = " ".join(text.split())
    return words[:1].upper() + words[1:]


def _fields(cls: type) -> list[dataclasses.Field[Any]]:
    return [one for one in dataclasses.fields(cls) if one.init]


def _needed(cls: type) -> dict[str, Any]:
    """Return values for the keys that must be given."""
    keys = [key for key in keys_of(cls) if key.default is dataclasses.MISSING]
    return {key.name: _needed(key.section) if key.section else "data" for key in keys}


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


# ---------------------------------------------------------------------------------------------------------- in words
def expected(hint: Any) -> str:
    """Return what an annotation takes, in words: ``whole number from 1 to 1,000``."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        words = expected(arguments[0])
        for constraint in arguments[1:]:
            words = _constrained(words, constraint)
        return words
    if origin in (typing.Union, types.UnionType):
        parts = dict.fromkeys("null" if option is types.NoneType else expected(option) for option in arguments)
        return ", or ".join(parts)
    if origin is tuple and arguments[-1] is not Ellipsis:
        return f"list of {len(arguments)}: {expected(arguments[0])}"
    if origin in (tuple, list):
        return f"list, each {expected(arguments[0])}"
    if arguments or hint is dict:
        return f"mapping of names, each {expected(arguments[1])}" if arguments else "mapping"
    return _SCALARS.get(hint, "section" if dataclasses.is_dataclass(hint) else str(hint))


def _constrained(words: str, constraint: Any) -> str:
    if isinstance(constraint, Range):
        return f"{words} from {_number(constraint.low)} to {_number(constraint.high)}"
    if isinstance(constraint, Choice):
        return f"one of {', '.join(choice or 'an empty text' for choice in constraint.choices)}"
    if isinstance(constraint, Multiple):
        return f"{words}, a multiple of {constraint.of}"
    if isinstance(constraint, Count):
        many = "at least one" if constraint.high == 2**31 else f"{constraint.low} to {constraint.high} of them"
        return f"{words}; {many}"
    return words


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def one_line(value: Any) -> str:
    """Return a value as YAML in one line."""
    text = yaml.safe_dump(
        _data(value), default_flow_style=True, width=float("inf"), allow_unicode=True, sort_keys=False
    )
    return text.strip().removesuffix("\n...")


def _data(value: Any) -> Any:
    """Return a value as YAML knows it, with the keys of its mappings as they are."""
    if isinstance(value, Mapping):
        return {key: _data(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_data(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _typed(value: Any) -> str:
    return str(value) if isinstance(value, (str, Path)) else one_line(value)


def _plain_hint(hint: Any) -> Any:
    """Return an annotation without its constraints, as `read_value` takes it."""
    members = [typing.get_args(one)[0] if typing.get_origin(one) is Annotated else one for one in options(hint)]
    return typing.Union[tuple(members)] if len(members) > 1 else members[0]  # noqa: UP007
