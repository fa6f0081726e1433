"""Progress where people see it: a bar in a terminal, a widget in Jupyter, and plain lines in a file or a log."""

import sys
import time
from typing import Any, TextIO

from tqdm.auto import tqdm as bar
from tqdm.std import tqdm

EVERY = 10.0
"""Seconds between two lines of a file."""
_LINE = "{desc}: {n_fmt} of {total_fmt} {unit}s, {percentage:.0f} % [{elapsed}, left {remaining}, {rate_fmt}{postfix}]"
_OPEN = "{desc}: {n_fmt} {unit}s [{elapsed}, {rate_fmt}{postfix}]"


class Lines(tqdm):  # type: ignore[misc]
    """Progress as whole lines: one each `EVERY` seconds and one at the end; nothing is erased, no cursor is moved."""

    def __init__(self, iterable: Any = None, **options: Any) -> None:
        self._told = time.monotonic()
        total = options.get("total", len(iterable) if hasattr(iterable, "__len__") else None)
        form = _OPEN if total is None else _LINE
        if options.get("unit", "").endswith("ch"):
            form = form.replace("{unit}s", "{unit}es")
        super().__init__(iterable, **options | {"mininterval": EVERY, "maxinterval": EVERY, "bar_format": form})

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:  # noqa: ARG002
        """Write a line when it is time for one."""
        if time.monotonic() - self._told >= EVERY:
            self._tell()
        return True

    def clear(self, nolock: bool = False) -> None:
        """Leave what is written."""

    def close(self) -> None:
        """Write the last line."""
        if not self.disable:  # type: ignore[has-type]
            self.disable = True
            self._decr_instances(self)
            self._tell()

    def _tell(self) -> None:
        self._told = time.monotonic()
        self.fp.write(f"{self}\n")
        self.fp.flush()


def progress(iterable: Any = None, **options: Any) -> Any:
    """Return the progress of a loop, or of calls of ``update``; the arguments are tqdm's.

    A program that is watched gets a bar (standard error is a terminal, or a Jupyter notebook that has widgets); any
    other gets `Lines`.
    """
    return (bar if is_watched() else Lines)(iterable, **options)


def is_watched() -> bool:
    """Tell whether a bar can be drawn."""
    return any(cls.__name__ == "tqdm_notebook" for cls in bar.__mro__) or bool(sys.stderr and sys.stderr.isatty())


def say(text: str, stream: TextIO | None = None) -> None:
    """Print a line, on standard output unless told otherwise, without tearing a bar."""
    tqdm.write(text, file=stream)
