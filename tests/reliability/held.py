"""What this process holds at present, as R28 counts it. Linux only: read from /proc."""

import os
from pathlib import Path

HERE = Path("/proc/self")


def resident_bytes() -> int:
    pages = int((HERE / "statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def open_files() -> list[str]:
    """Return what the open descriptors point to, sorted.

    TensorBoard's writer opens its file anew for every flush, in a thread of its own: whether that file, or a
    descriptor that is closed while we look, is seen is chance, so neither counts.
    """
    targets = []
    for descriptor in (HERE / "fd").iterdir():
        try:
            targets.append(os.readlink(descriptor))
        except FileNotFoundError:
            continue
    return sorted(target for target in targets if "events.out.tfevents" not in target)
