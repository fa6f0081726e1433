"""What an index run has already read, so that an interrupted run or a grown folder only reads what is new."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from meddap_monai import store
from meddap_monai.errors import StageError
from meddap_monai.images.sources import Source

_KEPT = """
CREATE TABLE IF NOT EXISTS files (name TEXT PRIMARY KEY, mark TEXT, error TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS images (
    image INTEGER PRIMARY KEY, name TEXT, frame INTEGER, id TEXT, class_name TEXT, patient TEXT, sha256 TEXT,
    whole INTEGER, meta TEXT, thumbnail BLOB);
CREATE INDEX IF NOT EXISTS images_of_file ON images (name, frame);
"""
_THIS_RUN = """
CREATE TEMP TABLE wanted (place INTEGER PRIMARY KEY, name TEXT UNIQUE, mark TEXT, task TEXT, error TEXT);
CREATE TEMP VIEW unread AS
    SELECT place, task FROM wanted LEFT JOIN files USING (name) WHERE files.mark IS NOT wanted.mark;
"""
_COMMIT_EVERY = 0.5


class Journal:
    """Outcomes by source file in a small database, so that memory does not grow with the folder.

    An outcome is only valid for the size and time stamp that its file had. The database lies in the private folder,
    because it names source paths. It survives a killed process, which loses at most the last half second; it is not
    flushed to disk before the end of a run.

    Attributes:
        database: tables ``files`` and ``images`` (kept), ``wanted`` (sources of this run, in order).
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        self.database = sqlite3.connect(path)
        self._committed = time.monotonic()
        self.database.execute("PRAGMA synchronous = OFF")
        self.database.executescript(_KEPT + _THIS_RUN)

    def want(self, sources: Iterable[Source]) -> str:
        """Set the sources of this run; return a hash of them and of the state of their files."""
        listing = hashlib.sha256()
        for source in sources:
            name = json.dumps(source.relative)
            mark = json.dumps([stamp_of(source.path), source.label, source.group, *source.facts.items()])
            task = dataclasses.asdict(source) | {"path": str(source.path)}
            self.database.execute(
                "INSERT INTO wanted (name, mark, task, error) VALUES (?, ?, ?, ?) ON CONFLICT (name) DO UPDATE "
                "SET mark = excluded.mark, task = excluded.task, error = excluded.error",
                (name, mark, json.dumps(task), source.error),
            )
            listing.update(f"{name} {mark}\n".encode())
        return listing.hexdigest()

    def note_errors(self) -> None:
        """Take the sources that were refused before they were opened as read."""
        self.database.execute("DELETE FROM images WHERE name IN (SELECT name FROM wanted WHERE error != '')")
        self.database.execute("REPLACE INTO files SELECT name, mark, error FROM wanted WHERE error != ''")

    def count(self, table: str) -> int:
        """Return the number of rows of a table."""
        return int(self.database.execute(f"SELECT count(*) FROM {table}").fetchone()[0])

    def unread(self) -> Iterator[dict[str, Any]]:
        """Yield the task of every wanted source whose present state was not read; one query each, for `add` writes."""
        place = 0
        query = "SELECT place, task FROM unread WHERE place > ? ORDER BY place LIMIT 1"
        while found := self.database.execute(query, (place,)).fetchone():
            place = found[0]
            yield json.loads(found[1])

    def add(self, outcome: Mapping[str, Any]) -> None:
        """Take the outcome of a source; see `accept`."""
        name = json.dumps(outcome["relative"])
        self.database.execute("DELETE FROM images WHERE name = ?", (name,))
        self.database.executemany(
            "INSERT INTO images VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                (name, item["meta"]["frame"], item["id"], item["class_name"], item["patient"], item["sha256"])
                + (item["whole"], json.dumps(item["meta"]), base64.b64decode(item["thumbnail"]))
                for item in outcome.get("items", ())
            ),
        )
        error = outcome.get("error", "")
        self.database.execute("REPLACE INTO files SELECT name, mark, ? FROM wanted WHERE name = ?", (error, name))
        if time.monotonic() - self._committed > _COMMIT_EVERY:
            self.database.commit()
            self._committed = time.monotonic()

    def forget(self, names: Iterable[str]) -> int:
        """Have files read again; return how many."""
        found = self.database.executemany("DELETE FROM files WHERE name = ?", ((name,) for name in names))
        return max(0, found.rowcount)


@contextlib.contextmanager
def open_journal(path: Path) -> Iterator[Journal]:
    """Open a journal; one that is damaged, as after a power cut, is begun anew.

    Raises:
        DiskFull: no space is left.
        StageError: SQLite cannot use the path, such as one of more than some 500 bytes.
    """
    try:
        if not _is_sound(path):
            path.unlink()
        journal = Journal(path)
        try:
            yield journal
        finally:
            journal.database.commit()
            journal.database.close()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
            raise store.disk_full(path) from error
        raise StageError(f"{path}: cannot be used ({error}); choose an output folder with a shorter path") from error


def _is_sound(path: Path) -> bool:
    if not path.exists():
        return True
    with contextlib.closing(sqlite3.connect(path)) as database:
        try:
            return bool(database.execute("PRAGMA quick_check(1)").fetchone() == ("ok",))
        except sqlite3.DatabaseError:
            return False


def stamp_of(path: Path) -> str:
    """Return size and modification time of a file, which stand for its content between runs."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return "missing"
    return f"{found.st_size}:{found.st_mtime_ns}"
