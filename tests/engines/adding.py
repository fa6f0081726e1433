"""A task that adds numbers; a unit says itself what happens to its worker."""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from meddap_monai.errors import BadBase, FolderInUse


@contextlib.contextmanager
def open_numbers(settings: Any, _check: Any) -> Iterator[Any]:
    """Add ``settings["add"]`` to each item; a text is what goes wrong, ``once`` of it is a folder of marks."""
    asked: list[Any] = []

    def work(item: Any) -> Any:
        asked.append(item)
        if item in ("crash", "busy") and _first(settings, item):
            if item == "crash":
                os._exit(7)
            raise FolderInUse("another process is writing here")
        if item == "fail":
            raise ValueError("this unit cannot be worked on")
        if item == "bad":
            raise BadBase("no base")
        if item == "slow" and _first(settings, item):
            time.sleep(600)
        value = settings["add"] + (item if isinstance(item, int) else 0)
        return {"sum": value, "asked": len(asked), "threads": os.environ.get("OMP_NUM_THREADS")}

    yield work


def _first(settings: Any, item: str) -> bool:
    """Tell whether an item comes for the first time; always, where nothing remembers."""
    mark = Path(settings.get("once") or "/dev/null", item)
    try:
        mark.touch(exist_ok=False)
    except OSError as error:
        return not isinstance(error, FileExistsError)
    return True
