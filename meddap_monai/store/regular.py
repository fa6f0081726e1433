"""What a path must be before it is opened: a regular file, and no link out of the folder that names it."""

import errno
import os
import stat
from pathlib import Path

from meddap_monai.errors import IrregularFile

ALLOW_LINKS = "MEDDAP_ALLOW_LINKS"
"""Environment variable; 1 lets links lead out of the folder of the records that name them."""


def regular_file(path: Path | str) -> Path:
    """Return the path of a file whose opening never waits: no directory, named pipe, socket or device.

    Raises:
        IrregularFile: it is something else; ``strerror`` says what it is and what was expected.
        OSError: it is missing or out of reach.
    """
    path = Path(path)
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        raise IrregularFile(errno.EINVAL, f"is {file_kind(mode)}, expected a regular file", str(path))
    return path


def file_kind(mode: int) -> str:
    """Name what stands at a path, from its ``st_mode``."""
    kinds = {
        stat.S_IFREG: "a regular file",
        stat.S_IFDIR: "a directory",
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "not a regular file")


def name_text(path: Path | str) -> str:
    """Return the name of a file or folder as text: its bytes in UTF-8, whatever the locale is.

    Where they are no UTF-8, it is what the locale reads, and what is no text even then is written with backslashes.
    """
    try:
        return os.fsencode(path).decode("utf-8")
    except UnicodeDecodeError:
        return str(path).encode("utf-8", "backslashreplace").decode()


def links_out(path: Path | str, folder: Path | str | None = None) -> bool:
    """Tell whether a symbolic link makes a path end outside of the folder where it seems to lie.

    Args:
        path: of a file.
        folder: of the records that name it; where the path does not lie below it (or None is given), the file's own.

    Returns:
        False as well when the environment allows such links (`ALLOW_LINKS`).
    """
    if os.environ.get(ALLOW_LINKS) == "1":
        return False
    if folder is None and not os.path.islink(path):
        return False
    path = Path(os.path.abspath(path))
    home = path.parent if folder is None else Path(os.path.abspath(folder))
    if not path.is_relative_to(home):
        home = path.parent
    return not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(home))
