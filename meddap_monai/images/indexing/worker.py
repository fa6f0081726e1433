"""The worker process of `index`: tasks come as JSON lines on standard input, outcomes leave as JSON lines.

Started as ``python -m meddap_monai.images.indexing.worker``; the first line holds the settings:
``{"how": fields of Acceptance, "memory": MB per file}``.
"""

import contextlib
import json
import os
import resource
import signal
import sys
from pathlib import Path

from meddap_monai.errors import MeddapError
from meddap_monai.images.indexing.accept import Acceptance, accept


def limit_memory(megabytes: int) -> None:
    """Let this process take so much address space beyond what it has; more is a ``MemoryError``, or ends a codec.

    Systems that do not tell their address space (no ``/proc``) or cannot limit it are left as they are.
    """
    with contextlib.suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        most = pages * resource.getpagesize() + megabytes * 10**6
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def main() -> None:
    """Serve tasks until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a codec prints must not mix with the answers
    settings = json.loads(sys.stdin.readline())
    how = Acceptance(**settings["how"])
    limit_memory(settings["memory"])
    for line in sys.stdin:
        try:
            outcome = accept(json.loads(line), how)
        except MeddapError as error:
            outcome = {"stop": type(error).__name__, "message": str(error)}
        answers.write(json.dumps(outcome) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
