"""A worker process of this machine: units come as JSON lines on standard input, answers leave as JSON lines.

Started as ``python -m meddap_monai.engines.worker``; the first line is that of `meddap_monai.engines.task.head_of`.
"""

import os
import signal
import sys

from meddap_monai.engines.task import answering


def main() -> None:
    """Serve units until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a codec prints must not mix with the answers
    with answering(sys.stdin.readline()) as answer:
        for line in sys.stdin:
            answers.write(answer(line) + "\n")
            answers.flush()


if __name__ == "__main__":
    main()
