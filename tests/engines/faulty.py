"""A task of generate whose worker ends by SIGKILL in the middle of its first shard, once in a run."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from meddap_monai.diffusion.generation import stage
from meddap_monai.diffusion.generation.shards import ShardMaker


@contextlib.contextmanager
def open_shards(settings: Any, check: Any) -> Iterator[Any]:
    """Open what `generate` opens; ``killed`` beside the output says that a worker has died already."""
    mark, write = Path(settings["output"]).parent / "killed", ShardMaker._write

    def once(self: ShardMaker, folder: Path, *arguments: Any) -> Any:
        records = write(self, folder, *arguments)
        with contextlib.suppress(FileExistsError):
            mark.touch(exist_ok=False)
            assert list(folder.glob("*.png")), "in the middle"
            os.kill(os.getpid(), signal.SIGKILL)
        return records

    ShardMaker._write = once
    with stage.open_shards(settings, check) as work:
        yield work
