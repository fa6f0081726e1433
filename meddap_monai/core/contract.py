"""What a record must be (``docs/contracts.md``): checked once, where records are read and where they are written."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from meddap_monai.errors import RecordsError

SPLITS = ("train", "val", "test", "unseen")
SOURCES = ("real", "synthetic")
MOST_CLASSES = 10_000


def _text(form: str = r".{1,4096}") -> Callable[[Any], bool]:
    whole = re.compile(form, re.DOTALL)
    return lambda value: isinstance(value, str) and whole.fullmatch(value) is not None


def _is_label(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MOST_CLASSES


def _is_object(value: Any) -> bool:
    return value is None or isinstance(value, Mapping)


_FIELDS: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("id", _text(r"[A-Za-z0-9_-]{1,80}"), "a value of type str of 1 to 80 letters, digits, - and _"),
    ("image", _text(r"[^\0]{1,4096}"), "a value of type str, a path"),
    ("label", _is_label, f"a value of type int from 0 to {MOST_CLASSES - 1}"),
    ("class_name", _text(), "a value of type str"),
    ("patient", _text(), "a value of type str"),
    ("split", lambda value: value in SPLITS, f"one of {', '.join(SPLITS)}"),
    ("source", lambda value: value in SOURCES, f"one of {', '.join(SOURCES)}"),
    ("sha256", _text(r"[0-9a-f]{64}"), "a value of type str of 64 hexadecimal digits"),
    ("meta", _is_object, "a JSON object"),
    ("synthetic", _is_object, "a JSON object"),
    ("selection", _is_object, "a JSON object"),
)
"""Field, what it must be, and that in words."""


def check_record(record: Any, where: str) -> None:
    """Check one record.

    Raises:
        RecordsError: names `where`, the field, what it holds and what was expected.
    """
    if not isinstance(record, Mapping):
        raise RecordsError(f"{where}: got {type(record).__name__}, expected a JSON object")
    for name, fits, expected in _FIELDS:
        if not fits(record.get(name)):
            raise RecordsError(f"{where}: {name} is {_short(record.get(name))}, expected {expected}")
    if record["source"] == "synthetic":
        if record["split"] != "train":
            raise RecordsError(f"{where}: a synthetic image in split {record['split']!r}; synthetic images only train")
        if not isinstance(record.get("synthetic"), Mapping):
            raise RecordsError(f"{where}: a synthetic image without its 'synthetic' field; it could not be made again")


def _short(value: Any) -> str:
    text = repr(value) if not isinstance(value, int) or value.bit_length() < 512 else "a number of over 150 digits"
    return text if len(text) <= 80 else f"{text[:77]}..."


class RecordSet:
    """What the records of one file must agree on; memory grows with ids and patients only.

    Args:
        classes: names in the order of labels, where the ``stage.json`` beside the file gives them.
    """

    def __init__(self, classes: Sequence[str] = ()) -> None:
        self.classes = tuple(classes)
        self._ids: set[str] = set()
        self._named: dict[int, str] = {}
        self._labelled: dict[str, int] = {}
        self._splits: dict[str, str] = {}

    def add(self, record: Mapping[str, Any], where: str) -> None:
        """Check a record by itself and against those before it.

        Raises:
            RecordsError: an id that occurs twice, a label and a class name that disagree, a label that is none of the
                classes, or a patient in two splits.
        """
        check_record(record, where)
        if record["id"] in self._ids:
            raise RecordsError(f"{where}: the id {record['id']!r} occurs twice, expected each once")
        self._ids.add(record["id"])
        self._check_class(record["label"], record["class_name"], where)
        split = self._splits.setdefault(record["patient"], record["split"])
        if split != record["split"]:
            raise RecordsError(
                f"{where}: patient or group {_short(record['patient'])} stands in the splits {split} and "
                f"{record['split']}, expected one; draw the splits by patient"
            )

    def _check_class(self, label: int, name: str, where: str) -> None:
        if self.classes:
            expected: str | None = self.classes[label] if label < len(self.classes) else None
            if expected is None:
                listed = ", ".join(self.classes)
                raise RecordsError(
                    f"{where}: label is {label}, expected 0 to {len(self.classes) - 1}: the stage.json beside it has "
                    f"the classes {listed:.200}"
                )
        else:
            expected = self._named.setdefault(label, name)
        if expected != name or self._labelled.setdefault(name, label) != label:
            held = expected if expected != name else f"label {self._labelled[name]} elsewhere"
            raise RecordsError(
                f"{where}: label {label} and class_name {_short(name)} disagree ({held:.80}); correct the file "
                "or run its stage again"
            )
