"""The only module that writes results: atomic files, the lock of an output folder, ``stage.json`` and shards.

Needs the standard library only, so that a process that just takes a lock starts fast. The promises are those of
``docs/contracts.md``: no partial file ever stands under a final name, one writer per folder, a finished stage is
skipped, an unfinished one goes on, a folder of another configuration is refused.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import signal
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from meddap_monai.errors import DiskFull, FolderInUse, ForeignOutput, Interrupted, StageError

STAGES = ("index", "cluster", "pretrain", "adapt", "generate", "select", "mix", "classify", "evaluate")
_PACKAGES = ("meddap-monai", "torch", "monai", "diffusers", "peft", "transformers", "pydicom")
_LOCK_WAIT = 1.0
_LEFT_BEHIND = re.compile(r"\.[0-9a-f]{32}\.")
"""Temporary file of a writer that was killed before its rename."""


# ----------------------------------------------------------------------------------------------------------- files
def write_atomic(path: Path | str, data: bytes | str, mode: int = 0o644) -> Path:
    """Write a whole file so that readers see the old one or the new one, never a part.

    Raises:
        DiskFull: no space is left; an old file of that name is untouched.
    """
    payload = data.encode() if isinstance(data, str) else data
    with atomic_path(path, needs=len(payload)) as temporary:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(payload)
    return Path(path)


@contextlib.contextmanager
def atomic_path(path: Path | str, needs: int | None = None, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success flush it to disk and rename it over `path`.

    For libraries that save by file name (``safetensors.save_file``, ``torch.save``, ``PIL.Image.save``).

    Args:
        path: the final name; its folder is made when missing.
        needs: bytes that will be written, for the message when the disk is full.
        durable: False leaves the flushing to the caller (thousands of small files, one ``os.sync`` at the end).
    """
    final = Path(path)
    temporary = final.with_name(f".{uuid.uuid4().hex}.{final.name[-80:]}")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if durable:
            _flush(temporary)
        os.replace(temporary, final)
        if durable:
            _flush(final.parent)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise disk_full(final, needs) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def disk_full(path: Path, needs: int | None = None) -> DiskFull:
    """Return the error for a full disk, with the path and the bytes that are missing."""
    folder = path if path.is_dir() else path.parent
    free = shutil.disk_usage(folder).free if folder.is_dir() else 0
    wanted = f"{needs:,} bytes" if needs is not None else "more space"
    return DiskFull(
        f"{path}: the disk is full: {wanted} needed, {free:,} bytes free. Nothing that was there is lost; free some "
        "space and run the same command again, it goes on from here"
    )


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path | str, document: Any) -> Path:
    """Write `document` as JSON with sorted keys and a final newline, atomically."""
    return write_atomic(path, json.dumps(plain(document), indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def plain(value: Any) -> Any:
    """Return `value` with dataclasses, paths and tuples turned into what JSON knows."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def sha256_text(text: str) -> str:
    """Return the hexadecimal SHA-256 of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_file(path: Path | str) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes, read in blocks."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def hash_configuration(configuration: Any) -> str:
    """Return a hash that is equal for equal configurations, whatever the order of their keys."""
    return sha256_text(json.dumps(plain(configuration), sort_keys=True))


# ------------------------------------------------------------------------------------------------------------ lock
@contextlib.contextmanager
def lock_folder(folder: Path | str) -> Iterator[None]:
    """Hold the only right to write into `folder`.

    The lock is the operating system's (``flock``), so a killed holder loses it at once and needs no clean-up.

    Raises:
        FolderInUse: another living process holds it; the message says which. Raised within 2 seconds.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _take_lock(descriptor, folder)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _take_lock(descriptor: int, folder: Path) -> None:
    deadline = time.monotonic() + _LOCK_WAIT
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                holder = os.pread(descriptor, 200, 0).decode(errors="replace") or "another process"
                raise FolderInUse(
                    f"{folder}: {holder} is writing here; wait for it, stop it, or choose another output folder"
                ) from error
            time.sleep(0.05)


# ----------------------------------------------------------------------------------------------------------- stage
@dataclasses.dataclass
class Stage:
    """One opened output folder: what it was asked for and whether that is already there."""

    folder: Path
    document: dict[str, Any]
    done: bool = False

    def finish(self, counts: Mapping[str, int], classes: list[str] | None = None, **extra: Any) -> None:
        """Write ``stage.json`` as done.

        Args:
            counts: items ``in``, ``out`` and ``rejected``; further counts are allowed.
            classes: class names in the order of their integer labels.
            extra: what else a reader of the folder should know (JSON).
        """
        missing = {"in", "out", "rejected"} - set(counts)
        if missing:
            raise StageError(f"{self.folder}: stage counts need in, out and rejected, missing {sorted(missing)}")
        self.document.update(counts=dict(counts), state="done", **plain(extra))
        self.document["seconds"] = round(self.document["seconds"] + time.monotonic() - self._started, 3)
        if classes is not None:
            self.document["classes"] = list(classes)
        write_json(self.folder / "stage.json", self.document)
        self.done = True

    def __post_init__(self) -> None:
        self._started = time.monotonic()


@contextlib.contextmanager
def open_stage(
    folder: Path | str,
    stage: str,
    configuration: Any,
    inputs: Mapping[str, Path | str | None] | None = None,
    overwrite: bool = False,
) -> Iterator[Stage]:
    """Lock `folder` for one stage and decide: skip (``.done``), go on, start, or refuse.

    Args:
        folder: output folder of the stage.
        stage: one of `STAGES`.
        configuration: dataclass or mapping; with the inputs' hashes it identifies the run.
        inputs: name -> file (hashed) or folder (its ``stage.json`` is hashed) or plain text such as a base's name.
        overwrite: throw away a folder of another configuration instead of refusing it.

    Raises:
        ForeignOutput: the folder holds something else than this run; nothing is touched.
        FolderInUse: another process writes here.
    """
    if stage not in STAGES:
        raise StageError(f"{stage!r} is not a stage; expected one of {', '.join(STAGES)}")
    folder = Path(folder)
    wanted = {
        "stage": stage,
        "configuration": plain(configuration),
        "inputs": {name: _fingerprint(value) for name, value in sorted((inputs or {}).items()) if value is not None},
    }
    with lock_folder(folder):
        found = _read_stage(folder, stage)
        same = found is not None and all(found.get(key) == value for key, value in wanted.items())
        if same and found is not None and found.get("state") == "done":
            yield Stage(folder, found, done=True)
            return
        if not same:
            _make_room(folder, wanted, found, overwrite)
        seconds = found.get("seconds", 0.0) if same and found else 0.0
        document = wanted | {"state": "running", "versions": versions(), "seconds": seconds}
        write_json(folder / "stage.json", document)
        opened = Stage(folder, document)
        try:
            yield opened
        finally:
            if not opened.done:
                opened.document["seconds"] = round(seconds + time.monotonic() - opened._started, 3)
                with contextlib.suppress(OSError, StageError):
                    write_json(folder / "stage.json", opened.document)


def _fingerprint(value: Path | str) -> Any:
    path = Path(value)
    if isinstance(value, str) and not path.exists():
        return value
    if path.is_file():
        return sha256_file(path)
    for name in ("adapter.json", "base.json", "model_index.json", "records.jsonl", "generated.jsonl", "stage.json"):
        if (path / name).is_file():
            return sha256_file(path / name)
    return str(value)


def _read_stage(folder: Path, stage: str) -> dict[str, Any] | None:
    path = folder / "stage.json"
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise ForeignOutput(
            f"{path}: not a stage.json of this package ({error}); choose an empty folder for {stage}"
        ) from error
    return found if isinstance(found, dict) else {}


def _make_room(folder: Path, wanted: dict[str, Any], found: dict[str, Any] | None, overwrite: bool) -> None:
    others = [entry for entry in folder.iterdir() if entry.name != ".lock" and not _LEFT_BEHIND.match(entry.name)]
    if not others:
        return
    if found is None:
        raise ForeignOutput(
            f"{folder}: holds {len(others)} entries (such as {others[0].name!r}) but no stage.json, so it was not made "
            "by this package; choose an empty folder. It is never overwritten"
        )
    if not overwrite:
        raise ForeignOutput(
            f"{folder}: holds {_difference(found, wanted)}; choose another output folder, or allow it with "
            "overwrite=True (command line: --overwrite)"
        )
    for entry in others:
        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()


def _difference(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    if found.get("stage") != wanted["stage"]:
        return f"stage {found.get('stage')!r}, expected {wanted['stage']!r}"
    for part in ("configuration", "inputs"):
        old, new = found.get(part) or {}, wanted[part]
        for key in sorted(set(old) | set(new)):
            if old.get(key) != new.get(key):
                return f"another run of {wanted['stage']}: {part} {key} was {old.get(key)!r}, now {new.get(key)!r}"
    return "another run"


def read_stage(folder: Path | str) -> dict[str, Any]:
    """Return the ``stage.json`` of a folder.

    Raises:
        StageError: there is none, or it is not JSON.
    """
    path = Path(folder) / "stage.json"
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        raise StageError(f"{path}: cannot be read ({error}); run the stage that makes this folder first") from error


def versions() -> dict[str, str]:
    """Return the installed versions of the packages that decide results, without importing them."""
    found = {}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


# ---------------------------------------------------------------------------------------------------------- shards
@contextlib.contextmanager
def commit_shard(folder: Path | str, number: int) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``<folder>/shards/<number>`` by one rename, or vanishes on an error."""
    final = shard_path(folder, number)
    temporary = final.with_name(f".{final.name}.{uuid.uuid4().hex}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for entry in temporary.iterdir():
            if entry.is_file():
                _flush(entry)
        os.rename(temporary, final)
        _flush(final.parent)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise disk_full(final) from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def shard_path(folder: Path | str, number: int) -> Path:
    """Return the folder of one shard."""
    return Path(folder) / "shards" / f"{number:06d}"


def shard_done(folder: Path | str, number: int) -> bool:
    """Tell whether a shard was committed."""
    return shard_path(folder, number).is_dir()


# ------------------------------------------------------------------------------------------------------- interrupt
class InterruptFlag:
    """Turn SIGINT and SIGTERM into a flag, so that a loop stops at the end of its step or shard with a checkpoint.

    Outside the main thread, where Python forbids handlers, the signals keep their usual meaning.
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

    def __exit__(self, *_: object) -> None:
        """Restore the handlers that were there before."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _set(self, _number: int, _frame: FrameType | None) -> None:
        self.is_set = True

    def raise_if_set(self, what: str) -> None:
        """Raise `Interrupted` once a signal has arrived; `what` says what was saved."""
        if self.is_set:
            raise Interrupted(f"interrupted: {what}; run the same command again to go on")
