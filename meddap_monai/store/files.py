"""Files and shards that appear whole or not at all, what a killed writer leaves behind, and hashes."""

import contextlib
import dataclasses
import errno
import hashlib
import json
import math
import os
import re
import resource
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from meddap_monai.errors import DiskFull, IrregularFile, MeddapError, StageError
from meddap_monai.store.regular import regular_file

_TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.")
_NO_ROOM = 2**20
"""A disk with fewer free bytes than these, after an error while writing, is full."""


def _beside(final: Path) -> Path:
    """Return a new temporary name in the folder of `final`."""
    return final.with_name(f".{uuid.uuid4().hex}.{final.name[-80:]}")


def is_left_behind(path: Path) -> bool:
    """Tell by its name whether a file or folder is the temporary one of a writer, killed before its rename."""
    return _TEMPORARY.match(path.name) is not None


def sweep(folder: Path) -> None:
    """Remove what killed writers left anywhere in `folder`; its lock must be held.

    Shards are not looked into: a shard has its name only since it is whole, and there can be millions of files.
    """
    for place, folders, names in os.walk(folder):
        if os.path.basename(place) == "shards":
            folders[:] = [name for name in folders if not name.isdecimal()]
        for path in [Path(place, name) for name in (*folders, *names) if _TEMPORARY.match(name)]:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


# ------------------------------------------------------------------------------------------------------------ files
def write_atomic(path: Path | str, data: bytes | str, mode: int = 0o644) -> Path:
    """Write a whole file so that readers see the old one or the new one, never a part.

    Raises:
        DiskFull: no space is left; an old file of that name is untouched.
    """
    payload = data.encode(errors="backslashreplace") if isinstance(data, str) else data
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
    temporary = _beside(final)
    try:
        with disk_full_errors(final, needs, temporary):
            final.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            if durable:
                _flush(temporary)
            os.replace(temporary, final)
            if durable:
                _flush(final.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def disk_full_errors(path: Path, needs: int | None = None, written: Path | None = None) -> Iterator[None]:
    """Raise `DiskFull` for whatever a writer raises when the disk is full.

    Python's own writers say ENOSPC. torch and safetensors have errors of their own, so after those the disk is asked.

    Args:
        path: what is written.
        needs: its bytes, where they are known beforehand.
        written: where it is written; default: `path`.
    """
    try:
        yield
    except MeddapError:
        raise
    except Exception as error:
        said = error.errno in (errno.ENOSPC, errno.EDQUOT) if isinstance(error, OSError) else _room(path) < _NO_ROOM
        if said:
            raise disk_full(path, needs, _size(written or path)) from error
        if _too_large(error, written or path):
            limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
            raise StageError(
                f"{path}: files may have at most {limit:,} bytes here (ulimit -f); nothing that was there is lost. "
                "Raise the limit and run the same command again"
            ) from error
        if isinstance(error, OSError) and error.filename is not None and Path(error.filename) in _places(path, written):
            raise unusable(path, error) from error
        raise


def _places(path: Path, written: Path | None) -> set[Path]:
    return {path, *path.parents} | ({written, *written.parents} if written else set())


def _too_large(error: Exception, written: Path) -> bool:
    """Tell whether a file met the limit on the size of files; torch and safetensors do not say so themselves."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno == errno.EFBIG
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    met = _size(written) >= limit or f"os error {errno.EFBIG}" in str(error)
    return limit != resource.RLIM_INFINITY and met


def unusable(path: Path, error: OSError | ValueError) -> StageError:
    """Return the error for a place that cannot be written: read-only, no folder, a name that is too long."""
    reason = getattr(error, "strerror", None) or str(error)
    code = getattr(error, "errno", None)
    if code == errno.EEXIST:
        reason = "it is a file, expected a folder"
    if code == errno.ELOOP:
        reason = "a symbolic link stands where a file of this package belongs"
    return StageError(f"{path}: cannot be written ({reason}); choose an output folder that can be")


def disk_full(path: Path, needs: int | None = None, written: int = 0) -> DiskFull:
    """Return the error for a full disk.

    Args:
        path: what could not be written.
        needs: its bytes, where they are known beforehand.
        written: otherwise the bytes that fitted.
    """
    wanted = f"{needs:,} bytes" if needs is not None else f"more than {written:,} bytes"
    return DiskFull(
        f"{path}: the disk is full: {wanted} needed, {_room(path):,} bytes free. Nothing that was "
        "there is lost; free some space and run the same command again, it goes on from here"
    )


def _room(path: Path) -> int:
    """Return the free bytes of the disk that a path lies on, or will lie on."""
    folder = next(parent for parent in (path, *path.absolute().parents) if parent.is_dir())
    return shutil.disk_usage(folder).free


def _size(path: Path) -> int:
    """Return the bytes of a file or of all files of a folder; 0 where there is nothing."""
    return sum(entry.stat().st_size for entry in (path, *path.rglob("*")) if entry.is_file())


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ---------------------------------------------------------------------------------------------------------- folders
@contextlib.contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Yield a temporary folder that becomes `path`, which must not exist, by one rename, or vanishes on an error.

    Raises:
        DiskFull: no space is left.
    """
    final = Path(path)
    temporary = _beside(final)
    try:
        with disk_full_errors(final, written=temporary):
            temporary.mkdir(parents=True)
            yield temporary
            for entry in temporary.rglob("*"):
                if entry.is_file():
                    _flush(entry)
            os.rename(temporary, final)
            _flush(final.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def commit_shard(folder: Path | str, number: int) -> contextlib.AbstractContextManager[Path]:
    """Return `atomic_folder` of ``<folder>/shards/<number>``."""
    return atomic_folder(shard_path(folder, number))


def shard_path(folder: Path | str, number: int) -> Path:
    """Return the folder of one shard."""
    return Path(folder) / "shards" / f"{number:06d}"


def shards_done(folder: Path | str) -> set[int]:
    """Return the numbers of all shards that were committed, from one listing."""
    place = Path(folder) / "shards"
    return {int(name) for name in os.listdir(place) if name.isdecimal()} if place.is_dir() else set()


def shard_done(folder: Path | str, number: int) -> bool:
    """Tell whether a shard was committed."""
    return shard_path(folder, number).is_dir()


# --------------------------------------------------------------------------------------------------- JSON and hashes
def write_json(path: Path | str, document: Any) -> Path:
    """Write `document` as JSON with sorted keys and a final newline, atomically."""
    return write_atomic(path, json.dumps(plain(document), indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def plain(value: Any) -> Any:
    """Return `value` with dataclasses, paths and tuples turned into what JSON knows; NaN and infinities become None.

    Half characters, as in file names that are no UTF-8, are written with backslashes: JSON readers refuse them.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value).encode(errors="backslashreplace").decode() if isinstance(value, (str, Path)) else value


def sha256_text(text: str) -> str:
    """Return the hexadecimal SHA-256 of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_file(path: Path | str) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes, read in blocks.

    Raises:
        StageError: it is missing or out of reach.
        IrregularFile: see `regular_file`.
    """
    try:
        with regular_file(path).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except IrregularFile:
        raise
    except OSError as error:
        raise StageError(
            f"{path}: cannot be read ({error.strerror}); run the stage that makes it first, or correct the path"
        ) from error


def hash_configuration(configuration: Any) -> str:
    """Return a hash that is equal for equal configurations, whatever the order of their keys."""
    return sha256_text(json.dumps(plain(configuration), sort_keys=True))
