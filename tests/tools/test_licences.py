"""The page of licences names every dependency, and reads a licence where packages state it."""

import importlib.metadata
import tomllib
from email.message import Message

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from shown import ROOT

from tools.licences import PAGE, licence, needed


class Stated(importlib.metadata.Distribution):
    """A package of which nothing but its metadata is known."""

    def __init__(self, **fields: str) -> None:
        self._fields = fields

    @property
    def metadata(self) -> Message:  # type: ignore[override]
        message = Message()
        for name, value in self._fields.items():
            for one in value if isinstance(value, list) else [value]:
                message.add_header(name.replace("_", "-"), one)
        return message

    def read_text(self, filename: str) -> None:  # noqa: ARG002
        """There is no further file."""

    def locate_file(self, path: object) -> object:  # type: ignore[override]
        return path


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"License_Expression": "MIT", "License": "other words"}, "MIT"),
        ({"Classifier": ["License :: OSI Approved :: BSD License", "License :: OSI Approved"]}, "BSD License"),
        ({"License": "\n\nApache | 2.0\nmore"}, "Apache / 2.0"),
        ({"License": "UNKNOWN"}, "not stated"),
        ({"Name": "bare"}, "not stated"),
    ],
)
def test_a_licence_is_read_where_it_is_stated(fields: dict, expected: str) -> None:
    assert licence(Stated(**fields)) == expected


def test_the_page_names_every_dependency_in_bold() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    direct = {canonicalize_name(Requirement(text).name) for text in project["dependencies"]}
    rows = [line.split(" | ")[0].strip("| ") for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    assert {row.strip("*") for row in rows if row.startswith("**")} == direct


def test_what_dependencies_need_in_turn_is_found_once() -> None:
    names = [canonicalize_name(one.name) for one in needed(["monai"], set())]
    assert {"torch", "numpy", "sympy", "filelock"} <= set(names) and len(names) == len(set(names))
