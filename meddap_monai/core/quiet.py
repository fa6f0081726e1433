"""Libraries that say less."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def quiet(*libraries: Any) -> Iterator[None]:
    """Without the progress bars and notes of libraries; afterwards they are as they were.

    Args:
        libraries: the modules ``diffusers.utils.logging`` or ``transformers.utils.logging``.
    """
    before = [(library, library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, level, bars in before:
            library.set_verbosity(level)
            if bars:
                library.enable_progress_bar()
