"""Short names for the TensorBoard runs of a study: a folder of links, so that a name fits beside its chart."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

BOARD = "tensorboard"


@contextlib.contextmanager
def linked_curves(study: Path, folder: Path) -> Iterator[None]:
    """Link a stage's event files under ``<study>/tensorboard`` while it runs and, where it wrote any, for good.

    ``seed_0/classify/real/tensorboard`` becomes ``seed_0/real``: the name of a chart says the stage. The link is
    relative, so a study can be moved. Where a file system has no links there are none, and nothing else changes.

    Args:
        study: folder of the study.
        folder: of the stage, inside of it; need not exist yet.
    """
    first, *rest = folder.relative_to(study).parts
    names = [first, "-".join(part for part in rest if part != "classify")]
    link = study.joinpath(BOARD, *filter(None, names))
    with contextlib.suppress(OSError):
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(folder / BOARD, link.parent), target_is_directory=True)
    try:
        yield
    finally:
        if link.is_symlink() and not link.exists():
            link.unlink(missing_ok=True)
