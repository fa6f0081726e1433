"""What a setting may be: said once, on its field, checked on construction; a message names the setting's true id."""

import dataclasses
import difflib
import functools
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from meddap_monai.errors import ConfigurationError

T = TypeVar("T")


def check_choice(value: str, choices: Iterable[str], where: str) -> None:
    """Raise when a value is none of the choices, naming the nearest."""
    known = list(choices)
    if value not in known:
        raise ConfigurationError(f"{where}: {unknown('value', str(value), known)}")


def check_range(value: float, low: float, high: float, where: str) -> None:
    """Raise when a number is outside ``[low, high]``."""
    if not low <= value <= high:
        raise ConfigurationError(f"{where}: got {value}, expected a number from {low} to {high}")


def unknown(kind: str, got: str, known: list[str]) -> str:
    """Return the sentence about an unknown name, with the nearest known one."""
    near = difflib.get_close_matches(got, [str(item) for item in known], n=1, cutoff=0.5)
    listed = f"one of {', '.join(sorted(map(str, known)))}" if known else "none"
    hint = f"did you mean {near[0]!r}?" if near else f"expected {listed}"
    return f"unknown {kind} {got!r}; {hint}"


# ------------------------------------------------------------------------------------------------- on the field
@dataclass(frozen=True)
class Range:
    """A number in ``[low, high]``: ``steps: Annotated[int, Range(1, 1000)] = 15``."""

    low: float
    high: float

    def __call__(self, value: Any, where: str) -> None:
        """Raise when the value is outside."""
        check_range(value, self.low, self.high, where)


@dataclass(frozen=True)
class Choice:
    """One of several texts: ``keep: Annotated[str, Choice(("best", "last"))] = "best"``."""

    choices: Collection[str]

    def __call__(self, value: Any, where: str) -> None:
        """Raise when the value is none of them."""
        check_choice(value, self.choices, where)


@dataclass(frozen=True)
class Multiple:
    """A whole multiple of a number."""

    of: int

    def __call__(self, value: Any, where: str) -> None:
        """Raise when a rest is left."""
        if value % self.of:
            raise ConfigurationError(f"{where}: got {value}, expected a multiple of {self.of}")


@dataclass(frozen=True)
class Count:
    """A list with `low` to `high` values, or at least one."""

    low: int = 1
    high: int = 2**31

    def __call__(self, value: Any, where: str) -> None:
        """Raise when there are fewer or more."""
        if not self.low <= len(value) <= self.high:
            expected = f"{self.low} to {self.high}" if self.high < 2**31 else "at least one"
            raise ConfigurationError(f"{where}: got {f'{len(value)} values' if value else 'none'}, expected {expected}")


Share = Annotated[float, Range(0.0, 1.0)]
Precision = Annotated[str, Choice(("fp32", "bf16", "fp16"))]


# --------------------------------------------------------------------------------------------- on construction
_PLACE: ContextVar[tuple[type | None, str]] = ContextVar("place", default=(None, ""))
"""The class that is made next and the id it is made for."""


def settings(place: str) -> Callable[[type[T]], type[T]]:
    """Decorate a class below ``@dataclass(frozen=True)``: its fields' constraints are checked on construction.

    A ``__post_init__`` of its own runs afterwards, for what concerns several fields; it names ids by `here`.

    Args:
        place: id of the section in a study, for instances that are made in Python.
    """

    def decorate(cls: type[T]) -> type[T]:
        own = cls.__dict__.get("__post_init__")

        def check(self: Any) -> None:
            made, where = _PLACE.get()
            with constructing(None, where if made is type(self) else place):
                for name, hint in _constraints(type(self)).items():  # type: ignore[arg-type]
                    _check(hint, getattr(self, name), here(name))
                if own:
                    own(self)

        cls.__post_init__ = check  # type: ignore[attr-defined]
        return cls

    return decorate


@contextmanager
def constructing(cls: type | None, where: str) -> Iterator[None]:
    """Let an instance of `cls` that is made inside say in its messages that it stands at the id `where`."""
    token = _PLACE.set((cls, where))
    try:
        yield
    finally:
        _PLACE.reset(token)


def here(*keys: str) -> str:
    """Return the id of the section that is being checked, or of `keys` in it; only inside ``__post_init__``."""
    return "#".join((_PLACE.get()[1], *keys))


@functools.cache
def _constraints(cls: type) -> dict[str, Any]:
    """Return field -> annotation of a dataclass, constraints included."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _check(hint: Any, value: Any, where: str) -> None:
    """Apply the constraints of an annotation to a value, and those of what it holds to its items; None is free."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated and value is not None:
        _check(arguments[0], value, where)
        for constraint in arguments[1:]:
            constraint(value, where)
    elif origin in (typing.Union, types.UnionType):
        for option in filter(functools.partial(_fits, value), arguments):
            _check(option, value, where)
    elif isinstance(value, Mapping) and len(arguments) == 2:
        for key, item in value.items():
            _check(arguments[1], item, f"{where}#{key}")
    elif isinstance(value, (list, tuple)) and arguments:
        hints = arguments if origin is tuple and arguments[-1] is not Ellipsis else arguments[:1] * len(value)
        for number, (inner, item) in enumerate(zip(hints, value, strict=False)):
            _check(inner, item, f"{where}#{number}")


def _fits(value: Any, option: Any) -> bool:
    """Tell whether a value is of this member of a union."""
    plain = typing.get_args(option)[0] if typing.get_origin(option) is Annotated else option
    kind = typing.get_origin(plain) or plain
    return isinstance(value, (int, float) if kind is float else kind)
