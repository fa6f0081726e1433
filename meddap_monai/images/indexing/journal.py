"""What an index run has already read, so that an interrupted run or a grown folder only reads what is new."""

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
from meddap_monai.images.indexing.masks import pair_of
from meddap_monai.images.indexing.sources import Source

_KEPT = """
CREATE TABLE IF NOT EXISTS files (name TEXT PRIMARY KEY, mark TEXT, error TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS images (
    image INTEGER PRIMARY KEY, name TEXT, frame INTEGER, id TEXT, class_name TEXT, patient TEXT, sha256 TEXT,
    meta TEXT, thumbnail BLOB);
CREATE INDEX IF NOT EXISTS images_of_file ON images (name, frame);
"""
_THIS_RUN = """
CREATE TEMP TABLE wanted (
    place INTEGER PRIMARY KEY, name TEXT UNIQUE, mark TEXT, task TEXT, error TEXT,
    file TEXT, label TEXT, party TEXT, facts TEXT, pair TEXT, is_mask INTEGER);
CREATE INDEX wanted_file ON wanted (file);
CREATE INDEX wanted_pair ON wanted (pair);
CREATE TEMP VIEW unread AS
    SELECT place, task FROM wanted LEFT JOIN files USING (name) WHERE files.mark IS NOT wanted.mark;
"""
_CONTRADICTION = """
UPDATE wanted SET error = 'the file occurs under several {0}' WHERE error = '' AND file IN (
    SELECT file FROM wanted WHERE error = '' GROUP BY file HAVING count(DISTINCT ifnull({1}, '')) > 1)
"""
_SETTLE = (
    _CONTRADICTION.format("classes", "label"),
    _CONTRADICTION.format("groups", "party"),
    _CONTRADICTION.format("centres or devices", "facts"),
    """
UPDATE wanted SET error = 'the file is listed a second time' WHERE error = '' AND place > (
    SELECT min(place) FROM wanted AS other WHERE other.file = wanted.file AND other.error = '')
""",
)
_MASKS = """
UPDATE wanted SET error = 'is a mask, by its name, of an image that is there; set masks to keep to take it as an image'
WHERE error = '' AND is_mask AND pair IN (SELECT pair FROM wanted WHERE NOT is_mask AND pair != '')
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

    def set_sources(self, sources: Iterable[Source], masks: str = "reject") -> str:
        """Set the sources of this run; return a hash of them and of the state of their files.

        Of a file that is listed twice, under other spellings of its path or through links too, one is taken where
        label, group and facts agree, and none where they do not. Masks beside their images are left out.

        Args:
            sources: what to read.
            masks: "keep" takes masks as images.
        """
        for place, source in enumerate(sources, start=1):
            stamp, file = stamp_of(source.path)
            facts = json.dumps(sorted(source.facts.items()))
            mark = json.dumps([stamp, source.label, source.group, facts])
            task = dataclasses.asdict(source) | {"path": str(source.path)}
            said = (source.label, source.group, facts, *pair_of(source.relative))
            self._set_source(place, source.relative, mark, task, source.error, file, *said)
        for statement in (*_SETTLE, *([_MASKS] if masks == "reject" else [])):
            self.database.execute(statement)
        self.database.execute("UPDATE wanted SET mark = mark || error")
        listing = hashlib.sha256()
        for name, mark in self.database.execute("SELECT name, mark FROM wanted ORDER BY place"):
            listing.update(f"{name} {mark}\n".encode())
        return listing.hexdigest()

    def _set_source(self, place: int, relative: str, mark: str, task: dict[str, Any], *rest: Any) -> None:
        """Insert a source; where its name is there already, it gets a number behind a zero byte, as no file has."""
        insert = f"INSERT OR IGNORE INTO wanted VALUES (?, {', '.join('?' * 10)})"
        for name in (relative, f"{relative}\0{place}"):
            values = (place, json.dumps(name), mark, json.dumps(task | {"relative": name}), *rest)
            if self.database.execute(insert, values).rowcount:
                return

    def masks(self) -> int:
        """Return how many sources were left out as masks."""
        query = "SELECT count(*) FROM wanted WHERE is_mask AND error LIKE 'is a mask%'"
        return int(self.database.execute(query).fetchone()[0])

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
            "INSERT INTO images VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                (name, item["meta"]["frame"], item["id"], item["class_name"], item["patient"], item["sha256"])
                + (json.dumps(item["meta"]), base64.b64decode(item["thumbnail"]))
                for item in outcome.get("items", ())
            ),
        )
        error = outcome.get("error", "")
        self.database.execute("REPLACE INTO files SELECT name, mark, ? FROM wanted WHERE name = ?", (error, name))
        if time.monotonic() - self._committed > _COMMIT_EVERY:
            self.database.commit()
            self._committed = time.monotonic()

    def mark_unread(self, names: Iterable[str]) -> int:
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


def stamp_of(path: Path) -> tuple[str, str | None]:
    """Return size and modification time of a file, which stand for its content between runs, and what tells it.

    The latter is device and inode, equal for every spelling of a path and every link; None for a missing file.
    """
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return "missing", None
    return f"{found.st_size}:{found.st_mtime_ns}", f"{found.st_dev}:{found.st_ino}"
