"""What an index run has already read, so that an interrupted run or a grown folder only reads what is new."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from meddap_monai import store


class Journal:
    """Outcomes by source file, appended one line at a time; a line cut short by a crash is dropped.

    A line is only valid for the size and time stamp that its file had. The file lies in the private folder, because
    it names source paths.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._places: dict[str, tuple[str, int]] = {}
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        end = self._load()
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(descriptor, end)
        self._stream: IO[bytes] = os.fdopen(descriptor, "r+b")
        self._end = end

    def _load(self) -> int:
        """Find the last line of each source; return where the whole lines end."""
        end = 0
        if not self.path.exists():
            return end
        with self.path.open("rb") as stream:
            for line in stream:
                try:
                    if not line.endswith(b"\n"):
                        break
                    entry = json.loads(line)
                    self._places[entry["relative"]] = (entry["stamp"], end)
                except (ValueError, KeyError):
                    break
                end += len(line)
        return end

    def knows(self, relative: str, stamp: str) -> bool:
        """Tell whether this state of a source was read already."""
        return self._places.get(relative, ("", 0))[0] == stamp

    def add(self, stamp: str, outcome: dict[str, Any]) -> None:
        """Append an outcome."""
        line = json.dumps(outcome | {"stamp": stamp}, sort_keys=True).encode() + b"\n"
        try:
            self._stream.seek(self._end)
            self._stream.write(line)
            self._stream.flush()
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise store.disk_full(self.path, len(line)) from error
            raise
        self._places[outcome["relative"]] = (stamp, self._end)
        self._end += len(line)

    def get(self, relative: str) -> dict[str, Any]:
        """Return the outcome of a source."""
        self._stream.seek(self._places[relative][1])
        found: dict[str, Any] = json.loads(self._stream.readline())
        return found

    def outcomes(self, relatives: list[str]) -> Iterator[dict[str, Any]]:
        """Yield the outcomes of sources, in the order given."""
        for relative in relatives:
            yield self.get(relative)

    def close(self) -> None:
        """Flush to disk and close."""
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()


def stamp_of(path: Path) -> str:
    """Return size and modification time of a file, which stand for its content between runs."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return "missing"
    return f"{found.st_size}:{found.st_mtime_ns}"
