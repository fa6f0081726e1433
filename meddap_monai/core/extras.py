"""How an optional package is installed: by name, since the package itself stands on no index."""

import importlib.metadata
import re
import shlex


def install(extra: str) -> str:
    """Return the command that installs the packages of an extra, such as ``pip install 'timm>=1.0'``.

    They are read from what is installed; a bare checkout, which has no such list, is installed itself.
    """
    try:
        needed = importlib.metadata.requires("meddap-monai") or []
    except importlib.metadata.PackageNotFoundError:
        needed = []
    marked = re.compile(rf"(.+?)\s*;\s*extra == ['\"]{extra}['\"]")
    names = sorted(found[1] for text in needed if (found := marked.fullmatch(text)))
    return f"pip install {' '.join(map(shlex.quote, names)) if names else shlex.quote(f'.[{extra}]')}"
