"""``stage.json``: what a folder was made of, and whether a run is skipped, goes on, starts or is refused."""

import contextlib
import dataclasses
import importlib.metadata
import os
import platform
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from meddap_monai.errors import ForeignOutput, StageError
from meddap_monai.store.documents import read_json
from meddap_monai.store.files import is_left_behind, plain, sha256_file, sha256_text, sweep, write_json
from meddap_monai.store.process import lock_folder

STAGES = ("index", "cluster", "pretrain", "adapt", "generate", "select", "mix", "classify", "evaluate")
COST = "cost.json"
"""Beside ``stage.json``: what a run cost, which is all that may differ between two runs of one configuration."""
_PACKAGES = ("meddap-monai", "torch", "monai", "diffusers", "peft", "transformers", "pydicom")


@dataclasses.dataclass
class Stage:
    """One opened output folder: what it was asked for and whether that is already there."""

    folder: Path
    document: dict[str, Any]
    done: bool = False

    def finish(
        self,
        counts: Mapping[str, int],
        classes: list[str] | None = None,
        cost: Mapping[str, Any] | None = None,
        **extra: Any,
    ) -> None:
        """Write ``stage.json`` as done.

        Args:
            counts: items ``in``, ``out`` and ``rejected``; further counts are allowed.
            classes: class names in the order of their integer labels.
            cost: what may differ between two runs, for ``cost.json``: the machine, speed, memory.
            extra: what else a reader of the folder should know (JSON); equal in every run of this configuration.
        """
        missing = {"in", "out", "rejected"} - set(counts)
        if missing:
            raise StageError(f"{self.folder}: stage counts need in, out and rejected, missing {sorted(missing)}")
        self.document.update(counts=dict(counts), state="done", **plain(extra))
        if classes is not None:
            self.document["classes"] = list(classes)
        self.note_cost(cost or {})
        write_json(self.folder / "stage.json", self.document)
        self.done = True

    def __post_init__(self) -> None:
        self._started = time.monotonic()
        self._spent = read_cost(self.folder).get("seconds", 0.0)

    def note_cost(self, cost: Mapping[str, Any]) -> None:
        """Write ``cost.json``: working seconds over all resumes, the machine and `cost`."""
        seconds = round(self._spent + time.monotonic() - self._started, 3)
        write_json(self.folder / COST, {"seconds": seconds, "machine": this_machine(), **plain(cost)})


def check_inputs(stage: str, inputs: Mapping[str, Any]) -> None:
    """Raise `StageError` unless every ``Path`` among the inputs of a stage exists."""
    for name, value in inputs.items():
        if isinstance(value, Path) and not value.exists():
            raise StageError(
                f"{value}: does not exist, but {stage} needs it ({name}); run the stage that makes it first"
            )


@contextlib.contextmanager
def open_stage(
    folder: Path | str,
    stage: str,
    configuration: Any,
    inputs: Mapping[str, Path | str | None] | None = None,
    overwrite: bool = False,
) -> Iterator[Stage]:
    """Lock `folder` for one stage and decide: skip (``.done``), go on, start, or refuse.

    What a killed writer left half written is swept away before the stage goes on. A run that is refused before it has
    written anything, such as one whose records are missing or damaged, leaves no ``stage.json``, so that the same
    command works once its inputs are there.

    Args:
        folder: output folder of the stage.
        stage: one of `STAGES`.
        configuration: dataclass or mapping; with the inputs' hashes it identifies the run.
        inputs: name -> file (hashed) or folder (its ``stage.json`` is hashed) or plain text such as a base's name. A
            ``Path`` must exist.
        overwrite: throw away a folder of another configuration instead of refusing it.

    Raises:
        StageError: an input is missing; nothing is touched.
        ForeignOutput: the folder holds something else than this run; nothing is touched.
        FolderInUse: another process writes here.
    """
    if stage not in STAGES:
        raise StageError(f"{stage!r} is not a stage; expected one of {', '.join(STAGES)}")
    folder = Path(folder)
    check_inputs(stage, inputs or {})
    wanted = {
        "stage": stage,
        "configuration": plain(configuration),
        "inputs": {name: _fingerprint(value) for name, value in sorted((inputs or {}).items()) if value is not None},
    }
    with lock_folder(folder):
        _refuse_links(folder)
        found = _read_stage(folder, stage)
        same = found is not None and all(found.get(key) == value for key, value in wanted.items())
        if same and found is not None and found.get("state") == "done":
            yield Stage(folder, found, done=True)
            return
        if not same:
            _make_room(folder, wanted, found, overwrite)
        sweep(folder)
        document = wanted | {"state": "running", "versions": versions()}
        write_json(folder / "stage.json", document)
        opened = Stage(folder, document)
        try:
            yield opened
        finally:
            if not opened.done and _holds_nothing(folder):
                _clear(folder)
            elif not opened.done:
                with contextlib.suppress(OSError, StageError):
                    opened.note_cost({})


def _holds_nothing(folder: Path) -> bool:
    """Whether a stage has written nothing beside its ``stage.json`` and what it cost."""
    files = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return all(path in (folder / "stage.json", folder / "cost.json") or path.name == ".lock" for path in files)


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
    if not os.path.lexists(path):
        return None
    return read_json(path, ForeignOutput, f"it is no stage.json of this package, choose an empty folder for {stage}")


def _refuse_links(folder: Path) -> None:
    """Raise `ForeignOutput` when something in the folder lies elsewhere: a run writes there and clears it."""
    for entry in sorted(folder.iterdir()):
        if entry.is_symlink():
            raise ForeignOutput(
                f"{entry}: is a symbolic link; a run would write and delete where it leads. Move what it leads to into "
                f"{folder}, or make the whole output folder a link"
            )


def _make_room(folder: Path, wanted: dict[str, Any], found: dict[str, Any] | None, overwrite: bool) -> None:
    others = [entry for entry in folder.iterdir() if entry.name != ".lock" and not is_left_behind(entry)]
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
    _clear(folder)


def _clear(folder: Path) -> None:
    """Remove everything but the lock."""
    for entry in folder.iterdir():
        if entry.name != ".lock":
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()


def _difference(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    if found.get("stage") != wanted["stage"]:
        return f"stage {found.get('stage')!r}, expected {wanted['stage']!r}"
    for part in ("configuration", "inputs"):
        keys, old, new = "", found.get(part) or {}, wanted[part]
        while isinstance(old, dict) and isinstance(new, dict) and old != new:
            key = min(key for key in set(old) | set(new) if old.get(key) != new.get(key))
            keys, old, new = f"{keys}#{key}" if keys else f" {key}", old.get(key), new.get(key)
        if old != new:
            return f"another run of {wanted['stage']}: {part}{keys} was {old!r}, now {new!r}"
    return "another run"


def read_stage(folder: Path | str) -> dict[str, Any]:
    """Return the ``stage.json`` of a folder.

    Raises:
        StageError: there is none, or it is no JSON object with texts as classes.
    """
    path = Path(folder) / "stage.json"
    document = read_json(path, advice="run the stage that makes this folder first")
    classes = document.get("classes", ["any"])
    if not isinstance(classes, list) or not classes or not all(isinstance(name, str) and name for name in classes):
        raise StageError(f"{path}: classes is {classes!r:.80}, expected a list of names; run the stage again")
    for name in ("configuration", "inputs", "counts"):
        if not isinstance(document.get(name, {}), dict):
            raise StageError(f"{path}: {name} is {document[name]!r:.80}, expected an object; run the stage again")
    if document.get("stage", STAGES[0]) not in STAGES:
        raise StageError(f"{path}: stage is {document['stage']!r:.80}, expected one of {', '.join(STAGES)}")
    for name, value in document.get("counts", {}).items():
        if not isinstance(value, int) or value < 0:
            raise StageError(f"{path}: counts {name} is {value!r:.80}, expected a whole number; run the stage again")
    return document


def read_cost(folder: Path | str) -> dict[str, Any]:
    """Return ``cost.json`` of a stage folder, such as ``{"seconds": 12.5}``; empty where there is none.

    Raises:
        StageError: it is no JSON object, or its seconds are no number of at least 0.
    """
    path = Path(folder) / COST
    if not os.path.lexists(path):
        return {}
    cost = read_json(path, advice="delete it; only the record of the time spent is lost")
    seconds = cost.get("seconds", 0.0)
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds < 1e12:
        raise StageError(f"{path}: seconds is {seconds!r:.80}, expected a number of at least 0; delete the file")
    return cost


def this_machine() -> str:
    """Return a pseudonym of this machine, which tells nothing of its name."""
    return sha256_text(f"{platform.node()} {platform.machine()} {os.cpu_count()}")[:12]


def versions() -> dict[str, str]:
    """Return the installed versions of the packages that decide results, without importing them."""
    found = {}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
