"""What to index: a walk through a folder tree, or the rows of a table, each with its label."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from meddap_monai.errors import ConfigurationError
from meddap_monai.store import name_text


@dataclass(frozen=True)
class Source:
    """One file that wants to become records.

    Attributes:
        path: where it is.
        relative: the same relative to the source folder, with forward slashes; sorts and identifies.
        label: class name, or None where it is to be read from the file itself.
        group: patient or group given by a table, else None.
        error: why it cannot be taken, found before it was opened.
        facts: what else a table says about it, for the record's ``meta``: ``centre``, ``device``.
    """

    path: Path
    relative: str
    label: str | None
    group: str | None = None
    error: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)


def walk(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield (path, relative) of every entry that is not a folder, in sorted order; links to folders are not followed.

    Names beginning with a dot are left out. A folder whose name ends in an image suffix is an entry of its own, so
    that it is counted as rejected instead of vanishing.
    """
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files + [name for name in folders if name.lower().endswith((".dcm", ".dicom"))]):
            if not name.startswith("."):
                path = Path(place, name)
                yield path, path.relative_to(folder).as_posix()


def folder_sources(folder: Path) -> Iterator[Source]:
    """Yield files labelled by the first folder below the source that contains them."""
    for path, relative in walk(folder):
        parts = relative.split("/")
        if len(parts) < 2:
            if path.suffix.lower() in (".csv", ".tsv", ".txt", ".md", ".json"):
                continue
            yield Source(path, relative, None, error="lies beside the class folders, expected <class>/<file>")
        else:
            yield Source(path, relative, name_text(parts[0]))


def attribute_sources(folder: Path) -> Iterator[Source]:
    """Yield files whose label is read from a DICOM attribute later."""
    for path, relative in walk(folder):
        yield Source(path, relative, None)


def table_sources(
    folder: Path,
    table: Path,
    image: str,
    label: str,
    group: str | None,
    where: Mapping[str, str],
    facts: Mapping[str, str] | None = None,
) -> Iterator[Source]:
    """Yield the files named by a CSV or TSV table.

    Args:
        folder: image paths are relative to it; a path that leaves it is rejected.
        table: a file with a header line; tabulators are recognised by the suffix .tsv.
        image: column of the path.
        label: column of the class name.
        group: column of patient or group, None for none.
        where: column -> value that a row must have to count.
        facts: key of the record's ``meta`` -> column that holds it; empty cells are left out.

    Raises:
        ConfigurationError: the table cannot be read or lacks a column.
    """
    facts = facts or {}
    for number, row in _rows(table, [image, label, *([group] if group else []), *where, *facts.values()]):
        if any((row[column] or "").strip() != str(value) for column, value in where.items()):
            continue
        name, class_name = (row[image] or "").strip(), (row[label] or "").strip()
        path = folder / name if name and "\0" not in name else folder
        relative = name or f"line {number}"
        given = (row[group] or "").strip() if group else None
        error = ""
        if not name or not _inside(folder, path):
            error = "the table names a file outside of the source folder or none"
        elif not class_name:
            error = "the table gives no label"
        elif group and not given:
            error = "the table gives no group"
        told = {key: text for key, column in facts.items() if (text := (row[column] or "").strip())}
        yield Source(path, relative, class_name or None, given or None, error, told)


def _inside(folder: Path, path: Path) -> bool:
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError):
        return False


def _rows(table: Path, columns: list[str]) -> Iterator[tuple[int, dict[str, str]]]:
    delimiter = "\t" if table.suffix.lower() == ".tsv" else ","
    try:
        with table.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, delimiter=delimiter)
            held = reader.fieldnames or []
            missing = [column for column in columns if column not in held]
            if missing:
                raise ConfigurationError(f"{table}: has the columns {', '.join(held)}, expected also {missing[0]!r}")
            yield from enumerate(reader, start=2)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigurationError(f"{table}: cannot be read as a table ({error})") from error


def table_columns(table: Path) -> list[str]:
    """Return the column names of a table."""
    delimiter = "\t" if table.suffix.lower() == ".tsv" else ","
    try:
        with table.open(encoding="utf-8-sig", newline="") as stream:
            return next(csv.reader(stream, delimiter=delimiter), [])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigurationError(f"{table}: cannot be read as a table ({error})") from error
