"""What to index: a walk through a folder tree, or the rows of a table, each with its label."""

import contextlib
import csv
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from meddap_monai.errors import ConfigurationError
from meddap_monai.store import name_text, read_text, regular_file


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


def walk(folder: Path, follow_links: bool = False) -> Iterator[tuple[Path, str, str]]:
    """Yield (path, relative, error) of every entry that is not a folder, in sorted order, files before folders.

    Names beginning with a dot are left out. What cannot be walked is an entry of its own with an error, so that it is
    counted instead of vanishing: a folder that cannot be listed, a folder whose name ends in an image suffix (no error
    here; it cannot be opened later), and a link that is not followed.

    Args:
        folder: the source.
        follow_links: follow links to files and folders outside of the source. Links that stay inside of it always are.
            A link to a folder is followed once, not again below another link, so that loops end.
    """
    root = folder.resolve()
    waiting = [(folder, False)]
    while waiting:
        place, linked = waiting.pop()
        try:
            with os.scandir(place) as found:
                entries = sorted((entry for entry in found if not entry.name.startswith(".")), key=lambda one: one.name)
        except OSError as error:
            yield place, place.relative_to(folder).as_posix(), f"cannot be listed ({error.strerror})"
            continue
        below = []
        for entry in entries:
            path, is_link, is_folder = Path(entry.path), entry.is_symlink(), _is_folder(entry)
            refused = _refused_link(path, root, linked, follow_links) if is_link else ""
            if is_folder and not refused:
                below.append((path, linked or is_link))
            if not is_folder or refused or entry.name.lower().endswith((".dcm", ".dicom")):
                yield path, path.relative_to(folder).as_posix(), refused
        waiting.extend(reversed(below))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link into a loop of links
        return False


def _refused_link(path: Path, root: Path, linked: bool, follow_links: bool) -> str:
    """Why a link is not followed, or ""."""
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):
        return "is a link to nothing"
    if not follow_links and not target.is_relative_to(root):
        return "is a link out of the source folder; set follow_links where its target can be trusted"
    if target.is_dir() and (linked or path.parent.resolve().is_relative_to(target)):
        return "is a link to a folder, below another link or back to a folder that contains it; it is not followed"
    return ""


def folder_sources(folder: Path, follow_links: bool = False) -> Iterator[Source]:
    """Yield files labelled by the first folder below the source that contains them."""
    for path, relative, error in walk(folder, follow_links):
        parts = relative.split("/")
        if error:
            yield Source(path, relative, None, error=error)
        elif len(parts) < 2:
            if path.suffix.lower() in (".csv", ".tsv", ".txt", ".md", ".json"):
                continue
            yield Source(path, relative, None, error="lies beside the class folders, expected <class>/<file>")
        else:
            yield Source(path, relative, name_text(parts[0]))


def attribute_sources(folder: Path, follow_links: bool = False) -> Iterator[Source]:
    """Yield files whose label is read from a DICOM attribute later."""
    for path, relative, error in walk(folder, follow_links):
        yield Source(path, relative, None, error=error)


@dataclass(frozen=True)
class Table:
    """Which columns of a CSV or TSV file say what.

    Attributes:
        path: a file with a header line; tabulators are recognised by the suffix .tsv.
        image: column of the path, relative to the source folder.
        label: column of the class name.
        group: column of patient or group, None for none.
        where: column -> value that a row must have to count.
        facts: key of the record's ``meta`` -> column that holds it; empty cells are left out.
    """

    path: Path
    image: str
    label: str
    group: str | None = None
    where: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)

    def check_columns(self) -> None:
        """Raise `ConfigurationError` when the table cannot be read, or lacks a column or has it twice."""
        held = table_columns(self.path)
        group = [self.group] if self.group else []
        for column in (self.image, self.label, *group, *self.where, *self.facts.values()):
            if held.count(column) != 1:
                wanted = f"{column!r} only once" if column in held else f"also {column!r}"
                raise ConfigurationError(f"{self.path}: has the columns {', '.join(held)}, expected {wanted}")


def table_sources(folder: Path, table: Table, follow_links: bool = False) -> Iterator[Source]:
    """Yield the files named by a table of checked columns; a path that leaves the folder, also by a link, is rejected.

    Raises:
        ConfigurationError: the table cannot be read.
    """
    root = folder.resolve()
    for number, row in _rows(table.path):
        if any((row[column] or "").strip() != str(value) for column, value in table.where.items()):
            continue
        name, class_name = (row[table.image] or "").strip(), (row[table.label] or "").strip()
        given = (row[table.group] or "").strip() if table.group else None
        told = {key: text for key, column in table.facts.items() if (text := (row[column] or "").strip())}
        path = folder / name if name and "\0" not in name else folder
        relative, error = name or f"line {number}", ""
        if row.get(None):
            error = f"line {number} of the table has more cells than there are columns"
        elif path == folder or not _inside(root, name, follow_links):
            error = "the table names a file outside of the source folder or none"
        elif not class_name:
            error = "the table gives no label"
        elif table.group and not given:
            error = "the table gives no group"
        yield Source(path, relative, class_name or None, given or None, error, told)


def _inside(root: Path, name: str, follow_links: bool) -> bool:
    """Whether a path of a table stays in the source folder; with `follow_links`, links in it may lead out."""
    if follow_links:
        return not os.path.isabs(name) and not os.path.normpath(name).startswith("..")
    try:
        return (root / name).resolve().is_relative_to(root)
    except (OSError, ValueError, RuntimeError):
        return False


def _rows(table: Path) -> Iterator[tuple[int, dict[str | None, str]]]:
    """Number of the line and cells by column of each row; cells beyond the columns stand under None."""
    with _opened(table) as reader:
        yield from ((reader.line_num, row) for row in reader)


def table_columns(table: Path) -> list[str]:
    """Return the column names of a table.

    Raises:
        ConfigurationError: the table cannot be read.
    """
    with _opened(table) as reader:
        return list(reader.fieldnames or ())


@contextlib.contextmanager
def _opened(table: Path) -> Iterator[csv.DictReader]:
    line, advice = 0, "give a CSV or TSV file with a header line"
    try:
        with regular_file(table).open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, delimiter="\t" if table.suffix.lower() == ".tsv" else ",", strict=True)
            try:
                yield reader
            finally:
                line = reader.reader.line_num
    except UnicodeDecodeError:
        read_text(table, ConfigurationError, advice)
        raise
    except csv.Error as error:
        raise ConfigurationError(f"{table}, line {line}: is no table ({error}); {advice}") from error
    except OSError as error:
        raise ConfigurationError(f"{table}: cannot be read as a table ({error.strerror}); {advice}") from error
