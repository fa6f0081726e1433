"""One process at work in a folder: the lock that keeps others out, and the flag that a signal raises."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from meddap_monai.errors import FolderInUse, ForeignOutput, Interrupted
from meddap_monai.store.files import unusable

_HOLDER = re.compile(r"process (\d+) on (.+)")
_LOCK_WAIT = 1.0
_NAME_WAIT = 0.8
"""Seconds more that a holder, stalled between taking the lock and writing its name, is given."""


@contextlib.contextmanager
def lock_folder(folder: Path | str) -> Iterator[None]:
    """Hold the only right to write into `folder`.

    The lock is the operating system's (``flock``), so a killed holder loses it at once and needs no clean-up.

    Raises:
        FolderInUse: another living process holds it; the message says which. Raised within 2 seconds.
        ForeignOutput: ``.lock`` is no lock of this package; it is left as it is.
        StageError: the folder cannot be made or written into.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    except (OSError, ValueError) as error:
        raise unusable(folder, error) from error
    try:
        _check_lock(descriptor, folder)
        _take_lock(descriptor, folder)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        try:
            yield
        finally:
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _check_lock(descriptor: int, folder: Path) -> None:
    """Raise `ForeignOutput` unless the open ``.lock`` is what this package writes: its content is going to be cut."""
    found = os.fstat(descriptor)
    ours = stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and found.st_size <= 400
    text = os.pread(descriptor, 401, 0).decode(errors="replace") if ours else "foreign"
    if text and _HOLDER.fullmatch(text) is None:
        raise ForeignOutput(
            f"{folder / '.lock'}: is no lock of this package, which a run would overwrite; choose another output folder"
        )


def _take_lock(descriptor: int, folder: Path) -> None:
    started = time.monotonic()
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            waited, holder = time.monotonic() - started, _holder(descriptor)
            if waited > (_LOCK_WAIT if holder else _LOCK_WAIT + _NAME_WAIT):
                raise FolderInUse(
                    f"{folder}: {holder or 'another process'} is writing here; wait for it, stop it, or choose another "
                    "output folder"
                ) from error
            time.sleep(0.05)


def _holder(descriptor: int) -> str:
    """Return what the holder wrote about itself; "" when it has not yet, or when a dead one before it wrote this."""
    text = os.pread(descriptor, 200, 0).decode(errors="replace")
    found = _HOLDER.fullmatch(text)
    if found is None or found[2] != socket.gethostname():
        return text
    try:
        os.kill(int(found[1]), 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass  # another user's process lives
    return text


class InterruptFlag:
    """Turn SIGINT and SIGTERM into a flag, so that a loop stops at the end of its step or shard with a checkpoint.

    A signal that arrives after the last check raises `Interrupted` at the end of the ``with``. Outside the main thread,
    where Python forbids handlers, the signals keep their usual meaning.
    """

    def __init__(self) -> None:
        self.is_set = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> InterruptFlag:
        """Install the handlers."""
        with contextlib.suppress(ValueError):
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._set)
        return self

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        """Restore the handlers that were there before; raise `Interrupted` for a signal after the last check."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if failed is None:
            self.raise_if_set("what is finished is kept")

    def _set(self, _number: int, _frame: FrameType | None) -> None:
        self.is_set = True

    def raise_if_set(self, what: str) -> None:
        """Raise `Interrupted` once a signal has arrived; `what` says what was saved."""
        if self.is_set:
            raise Interrupted(f"interrupted: {what}; run the same command again to go on")
