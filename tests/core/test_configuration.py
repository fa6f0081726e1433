"""Configurations: what is wrong is said with the place and the nearest valid name."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from meddap_monai.core.configuration import build
from meddap_monai.errors import ConfigurationError


@dataclass(frozen=True)
class Inner:
    steps: int = 5


@dataclass(frozen=True)
class Outer:
    source: Path
    scale: float = 1.0
    names: tuple[str, ...] = ()
    pair: tuple[int, int] = (1, 2)
    inner: Inner = field(default_factory=Inner)
    maybe: Inner | None = None
    table: Mapping[str, int] = field(default_factory=dict)


def test_values_arrive_with_their_types() -> None:
    outer = build(
        Outer,
        {
            "source": "a",
            "scale": 2,
            "names": ["x"],
            "pair": [3, 4],
            "inner": {"steps": 7},
            "maybe": None,
            "table": {"k": 1},
        },
        "outer",
    )
    assert outer == Outer(Path("a"), 2.0, ("x",), (3, 4), Inner(7), None, {"k": 1})
    assert isinstance(outer.scale, float)
    assert build(Outer, outer, "outer") is outer


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({}, r"outer: the key 'source' is missing; set outer#source"),
        ({"source": "a", "scal": 1}, r"outer: unknown key 'scal'; did you mean 'scale'\?"),
        ({"source": "a", "zzz": 1}, r"unknown key 'zzz'; expected one of inner, maybe"),
        ({"source": "a", "inner": {"stepps": 1}}, r"outer#inner: unknown key 'stepps'; did you mean 'steps'\?"),
        ({"source": "a", "maybe": {"stepps": 1}}, r"outer#maybe: unknown key 'stepps'"),
        ({"source": "a", "inner": {"steps": "5"}}, r"outer#inner#steps: got '5' \(str\), expected int"),
        ({"source": "a", "inner": {"steps": True}}, r"outer#inner#steps: got True"),
        ({"source": "a", "scale": "big"}, r"outer#scale: got 'big' \(str\), expected float"),
        ({"source": "a", "names": "x"}, r"outer#names: got 'x', expected a list"),
        ({"source": "a", "pair": [1]}, r"outer#pair: got 1 values, expected 2"),
        ({"source": "a", "table": {"k": "v"}}, r"outer#table#k: got 'v'"),
        ("text", r"outer: got 'text', expected a mapping"),
    ],
)
def test_what_is_wrong_is_named(mapping: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        build(Outer, mapping, "outer")
