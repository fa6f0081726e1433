"""Several processes run one study: stages that can divide their work do, the others are the first process's alone.

`pretrain`, `adapt`, `generate` and `classify` find the process group that is made here and share their work; it must be
one group for the whole study, because a second one under the same ``torchrun`` meets the first one's leftovers in its
store.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from meddap_monai.classifier.parallel import work_alone
from meddap_monai.core.distributed import Ranks, join_ranks


class Crew:
    """The processes of one study."""

    def __init__(self, ranks: Ranks | None = None) -> None:
        self.ranks = ranks or Ranks()

    def alone(self, work: Callable[[], Path]) -> Path:
        """Let the first process do `work`; return its result in every process.

        Raises:
            StageError: in the other processes when the first one failed; that one raises its own error.
        """
        found: Path | None = None
        if self.ranks.rank == 0:
            try:
                with work_alone():
                    found = work()
            except BaseException as error:
                self.ranks.agree(f"{type(error).__name__}: {error}")
                raise
        self.ranks.agree(None)
        result: Path = self.ranks.share(found)
        return result


@contextlib.contextmanager
def join_crew() -> Iterator[Crew]:
    """Join the processes that ``torchrun`` started, for as long as the study lasts; alone when there is none."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Crew()
        return
    import torch

    with join_ranks(gpu=torch.cuda.is_available()) as ranks:
        yield Crew(ranks)
