"""The worker process of `index`: tasks come as JSON lines on standard input, outcomes leave as JSON lines.

Started as ``python -m meddap_monai.images.worker``; the first line holds the settings.
"""

from __future__ import annotations

import json
import os
import signal
import sys

from meddap_monai.errors import MeddapError
from meddap_monai.images.accept import Acceptance, accept


def main() -> None:
    """Serve tasks until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a codec prints must not mix with the answers
    how = Acceptance(**json.loads(sys.stdin.readline()))
    for line in sys.stdin:
        try:
            outcome = accept(json.loads(line), how)
        except MeddapError as error:
            outcome = {"stop": type(error).__name__, "message": str(error)}
        answers.write(json.dumps(outcome) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
