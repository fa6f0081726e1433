"""From a store elsewhere (``s3://``, ``gs://``, ``https://`` ...) to a folder here, which `index` reads.

Each file is fetched once and known by its SHA-256; a run that was interrupted, or a source that has grown, only fetches
what is new. Names are those of the source and may name people, so the list of them is readable by the owner only.
"""

import contextlib
import hashlib
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec

from meddap_monai import store
from meddap_monai.core.progress import progress
from meddap_monai.engines.engine import current_engine
from meddap_monai.engines.task import Check, Work
from meddap_monai.errors import ConfigurationError, DiskFull, MissingPackage

TASK = "meddap_monai.images.fetching:open_store"
TOGETHER = 16
"""Files of one unit of an engine."""
LEDGER = "private/fetched.jsonl"
_BLOCK = 2**20
_MARKS = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "created")
"""What stores say of the state of a file, the surest first."""


def fetch(source: str, output: Path | str, verify: bool = False) -> dict[str, int]:
    """Fetch all files below a URL into ``<output>/files``; return counts: ``fetched``, ``kept`` and ``failed``.

    Args:
        source: URL of a folder, as fsspec reads it; passwords and keys are those of the store's own client.
        output: folder; ``private/fetched.jsonl`` in it holds name, state, size and SHA-256 of each file, and
            ``private/failed.csv`` why others were not fetched.
        verify: read what was fetched before once more, and fetch again what has another SHA-256.

    Raises:
        ConfigurationError: the URL cannot be listed, or holds no file.
        MissingPackage: the client of the store is not installed.
        ForeignOutput, FolderInUse: see `store.lock_folder`.
    """
    output = Path(output)
    with store.lock_folder(output), store.InterruptFlag() as flag:
        listed = list_store(source)
        (output / "private").mkdir(mode=0o700, exist_ok=True)
        store.sweep(output)
        known = _read_ledger(output / LEDGER)
        wanted = {name: mark for name, mark in listed.items() if not _is_here(output, name, mark, known, verify)}
        failed = _fetch_all(source, output, wanted, flag)
        rows = sorted(failed.items())
        store.write_atomic(output / "private" / "failed.csv", store.csv_text(["file", "reason"], rows), mode=0o600)
    return {"fetched": len(wanted) - len(failed), "kept": len(listed) - len(wanted), "failed": len(failed)}


def list_store(source: str) -> dict[str, str]:
    """Return relative name -> state of every file below a URL."""
    files, root = _open(source)
    try:
        found = files.find(root, detail=True)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{source}: cannot be listed ({error}); check the URL and its credentials") from error
    base = root.rstrip("/")
    listed = {path[len(base) :].lstrip("/") or PurePosixPath(path).name: info for path, info in found.items()}
    if not listed:
        raise ConfigurationError(f"{source}: holds no file, expected images; check the URL")
    return {name: _state(info) for name, info in sorted(listed.items()) if info.get("type") != "directory"}


def _open(source: str) -> tuple[Any, str]:
    try:
        files, root = fsspec.core.url_to_fs(source)
    except ImportError as error:
        raise MissingPackage(f"{source}: {error}; pip install it beside this package") from error
    except ValueError as error:
        raise ConfigurationError(f"{source}: is no URL that can be read ({error}), expected e.g. s3://") from error
    return files, str(root)


def _state(info: Mapping[str, Any]) -> str:
    mark = next((str(info[name]) for name in _MARKS if info.get(name) is not None), "")
    return f"{info.get('size')} {mark}"


def _read_ledger(path: Path) -> dict[str, dict[str, Any]]:
    """Return name -> what is known of a fetched file; a last line that a kill has torn is passed over."""
    known = {}
    for line in store.read_text(path).splitlines() if path.is_file() else ():
        with contextlib.suppress(ValueError):
            found = json.loads(line)
            known[found["name"]] = found
    return known


def _is_here(output: Path, name: str, state: str, known: Mapping[str, Mapping[str, Any]], verify: bool) -> bool:
    one, path = known.get(name), output / "files" / name
    if one is None or one["state"] != state or not path.is_file() or path.stat().st_size != one["size"]:
        return False
    return not verify or store.sha256_file(path) == one["sha256"]


def _fetch_all(source: str, output: Path, wanted: Mapping[str, str], flag: store.InterruptFlag) -> dict[str, str]:
    """Fetch files by the engine in use; return name -> reason of those that failed."""
    failed = {}
    coming = iter(wanted.items())
    units = iter(lambda: list(itertools.islice(coming, TOGETHER)), [])
    settings = {"source": source, "files": str((output / "files").absolute())}
    descriptor = os.open(output / LEDGER, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    with (
        os.fdopen(descriptor, "a", encoding="utf-8") as ledger,
        progress(total=len(wanted), desc="fetch", unit="file") as bar,
    ):
        ledger.write("\n" if ledger.tell() else "")
        check = lambda: flag.raise_if_set("the files that are here are kept")  # noqa: E731
        for _, outcomes in current_engine().map(TASK, units, settings, check=check):
            for outcome in outcomes:
                if "reason" in outcome:
                    failed[outcome["name"]] = outcome["reason"]
                else:
                    ledger.write(json.dumps(outcome | {"state": wanted[outcome["name"]]}) + "\n")
                bar.update()
            ledger.flush()
    return failed


@contextlib.contextmanager
def open_store(settings: Mapping[str, Any], _check: Check) -> Iterator[Work]:
    """Connect once, to fetch lists of files: the task of an engine."""
    files, root = _open(settings["source"])
    target = Path(settings["files"])

    def work(listed: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
        return [_fetch_one(files, root, target, name) for name, _ in listed]

    yield work


def _fetch_one(files: Any, root: str, target: Path, name: str) -> dict[str, Any]:
    """Fetch a file whole or not at all; return its size and SHA-256, or why it was not fetched."""
    place = PurePosixPath(name)
    if place.is_absolute() or ".." in place.parts or "\0" in name or len(os.fsencode(place.name)) > 200:
        return {"name": name, "reason": "its name leads elsewhere, or is too long for a file here"}
    digest, size = hashlib.sha256(), 0
    try:
        alone = root.endswith(f"/{name}") and files.isfile(root)  # to HTTP a folder's page is a file as well
        path = root if alone else f"{root.rstrip('/')}/{name}"
        with (
            files.open(path, "rb") as stream,
            store.atomic_path(target / place, durable=False) as temporary,
            temporary.open("wb") as copy,
        ):
            while block := stream.read(_BLOCK):
                copy.write(block)
                digest.update(block)
                size += len(block)
    except DiskFull:
        raise
    except Exception as error:  # the clients of stores raise what they like
        return {"name": name, "reason": f"{type(error).__name__}: {error}"}
    return {"name": name, "size": size, "sha256": digest.hexdigest()}
