"""Libraries that say less."""

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def quiet(*libraries: Any, bars: bool = False) -> Iterator[None]:
    """Without the notes of libraries; afterwards they are as they were.

    Args:
        libraries: the modules ``diffusers.utils.logging`` or ``transformers.utils.logging``.
        bars: leave their progress bars.
    """
    before = [(library, library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        if not bars:
            library.disable_progress_bar()
    try:
        yield
    finally:
        for library, level, shown in before:
            library.set_verbosity(level)
            if shown:
                library.enable_progress_bar()
