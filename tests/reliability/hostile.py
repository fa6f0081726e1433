"""Variants of documents for R31: what each does to a file, and which commands read it."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Change = Callable[[bytes], bytes]

TEXTS: dict[str, Change] = {
    "Latin-1": lambda data: data + b"\xe9\n",
    "UTF-16": lambda data: data.decode().encode("utf-16"),
    "binary": lambda data: b"\x89PNG\r\n\x1a\n\x00\xff" + data,
    "random bytes": lambda data: np.random.default_rng(0).bytes(2000),
}
"""Encodings that no text document may have."""
JSONS: dict[str, Change] = {
    "cut": lambda data: data[: len(data) // 2 - 3],
    "deep list": lambda data: b"[" * 10_000 + b"]" * 10_000 + b"\n",
    "deep object": lambda data: b'{"a":' * 10_000 + b"1" + b"}" * 10_000 + b"\n",
    "list": lambda data: b"[]\n",
    "number": lambda data: b"3\n",
    "null": lambda data: b"null\n",
    "text": lambda data: b'"text"\n',
    "surrogate": lambda data: data.replace(b'"', b'"\\ud800', 1),
    "long number": lambda data: data.replace(b": ", b": " + b"9" * 5000 + b", ", 1),
    "not a number": lambda data: b'{"a": NaN}\n',
    "prose": lambda data: b"Dear reader,\n",
}
"""What else no JSON document may be."""


def in_line(number: int, **changes: Any) -> Change:
    """Change fields of one record."""

    def change(data: bytes) -> bytes:
        lines = data.decode().splitlines()
        record = {name: value for name, value in (json.loads(lines[number]) | changes).items() if value is not ...}
        lines[number] = json.dumps(record)
        return ("\n".join(lines) + "\n").encode()

    return change


def like_another(name: str, differing: str = "id") -> Change:
    """Give the first record a field of the first one that differs from it in another field."""

    def change(data: bytes) -> bytes:
        records = [json.loads(line) for line in data.decode().splitlines()]
        other = next(record for record in records if record[differing] != records[0][differing])
        return in_line(0, **{name: other[name]})(data)

    return change


VALUES: dict[str, Change] = {
    **{
        f"label {label!r:.20}": in_line(1, label=label)
        for label in (-1, 99, 10**6, 10**30, 1.5, True, "0", None, [0], ...)
    },
    **{f"{name} {value!r:.20}": in_line(1, **{name: value}) for name, value in (
        ("class_name", "cyst"), ("class_name", 7), ("class_name", ""), ("class_name", None), ("class_name", ["benign"]),
        ("split", "Test"), ("split", None), ("split", 0), ("source", "fake"), ("source", ["real"]),
        ("sha256", "abc"), ("sha256", "G" * 64), ("sha256", 5), ("sha256", ...),
        ("id", ""), ("id", "../evil"), ("id", 5), ("id", "a" * 200), ("id", ...),
        ("patient", ""), ("patient", None), ("patient", {}), ("patient", "p" * 5000),
        ("image", ""), ("image", None), ("image", "a\0b"), ("image", ["a"]), ("image", "x" * 5000),
        ("meta", []), ("meta", 1), ("selection", "kept"), ("synthetic", 3),
    )},
    "id twice": like_another("id"),
    "a blank line": lambda data: b"\n" + data,
    "a huge line": lambda data: data + b" " * (2**20 + 1),
}  # fmt: skip
"""Values that no record may have."""
REAL: dict[str, Change] = {
    "patient in two splits": like_another("patient", differing="split"),
    "synthetic without its field": in_line(1, source="synthetic", split="train"),
    "class of another label": like_another("class_name", differing="class_name"),
}
"""Values that no records file of several splits and classes may have."""
TABLES: dict[str, Change] = {
    "a NUL": lambda data: data + b"\0\n",
    "another head": lambda data: b"a,b,c\n1,2,3\n",
    "a huge cell": lambda data: data + b"x" * 200_000 + b"\n",
    "empty": lambda data: b"",
}
PROMPTS: dict[str, Change] = {
    "list": lambda data: b"[1, 2]\n",
    "null": lambda data: b"null\n",
    "tab": lambda data: b"name:\n\t- a\n",
    "deep": lambda data: b"[" * 10_000,
    "code": lambda data: b"!!python/object/apply:os.system ['true']\n",
    "surrogate": lambda data: data.replace(b": benign breast tumor", b': "\\ud800"'),
    "cyclic": lambda data: b"&a [*a]\n",
    "no sentence": lambda data: data.replace(b"{class}", b"class"),
    "unknown key": lambda data: data + b"wording: 1\n",
}
CONFIGURATIONS: dict[str, Change] = {
    "list": lambda data: b"- 1\n",
    "number": lambda data: b"3\n",
    "unknown id": lambda data: b"clasify#steps: 4\n",
    "text for a number": lambda data: b"classify#steps: many\n",
    "not a number": lambda data: b"classify#learning_rate: .nan\n",
    "surrogate": lambda data: b'classify#head: "\\ud800"\n',
}


def of_class_benign(column: str, value: str) -> Change:
    """Return a plan of one row."""
    return lambda data: f"class_name,{column}\nbenign,{value}\n".encode()


def with_key(name: str, value: Any) -> Change:
    """Set one key of a JSON document."""
    return lambda data: json.dumps(json.loads(data) | {name: value}).encode()


PLANS: dict[str, Change] = {
    f"{name} {value:.20}": of_class_benign(name, value)
    for name, values in {
        "seed": ("x", "9" * 5000, "1e3", "-" + "9" * 30, "-1"),
        "steps": ("0", "-3", "100000"),
        "guidance": ("nan", "inf", "1e999", "-1"),
        "strength": ("nan", "2"),
        "height": ("-8", "9" * 12, "31"),
        "mode": ("video",),
        "scheduler": ("none",),
        "adjective": ("purple",),
        "class_name": ("benign",),
    }.items()
    for value in values
}
CARDS: dict[str, Change] = {
    f"{name} {value!r:.20}": with_key(name, value)
    for name, values in {
        "rank": (-1, "4", 1e400),
        "alpha": (-2, "x"),
        "parameters": (0, 2.5),
        "base_sha256": ("abc",),
        "weights_sha256": (None, "0" * 64),
        "classes": (3, [1]),
        "method": ("lokr++", None),
        "steps": (-1,),
        "base": (7,),
    }.items()
    for value in values
}
HASHES: dict[str, Change] = {
    "short": lambda data: data + b"abc\n",
    "prose": lambda data: b"none of your images\n",
    "upper case": lambda data: b"A" * 64 + b"\n",
}
STAGES: dict[str, Change] = {
    f"classes {value!r:.20}": with_key("classes", value)
    for value in (3, "benign", [1, 2], ["benign"], [], {"benign": 0}, ["normal", "malignant", "benign"], [""])
}


def exchange(path: Path) -> None:
    """Put another picture of the same size in the place of an image."""
    with Image.open(path) as image:
        pixels = np.asarray(image)
    Image.fromarray(255 - pixels).save(path)


def _replaced(make: Callable[[Path], Any]) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.unlink()
        make(path)

    return change


IMAGES: dict[str, Callable[[Path], None]] = {
    "exchanged": exchange,
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b"") and None,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:60]) and None,
    "a pipe": _replaced(os.mkfifo),
    "a folder": _replaced(Path.mkdir),
    "a device": _replaced(lambda path: path.symlink_to("/dev/zero")),
    "a link out": _replaced(lambda path: path.symlink_to(shutil.__file__)),
    "PostScript": lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n") and None,
    "text": lambda path: path.write_text("no image") and None,
}
