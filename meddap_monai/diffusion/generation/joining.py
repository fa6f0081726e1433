"""From the records of all shards to ``generated.jsonl``, in one pass."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from meddap_monai import store
from meddap_monai.core.records import iter_records
from meddap_monai.diffusion.generation.nearness import count_derived
from meddap_monai.diffusion.generation.shards import SHARD_RECORDS

GENERATED = "generated.jsonl"


def join_records(output: Path, count: int) -> tuple[int, dict[str, int]]:
    """Stream the records of all shards into ``generated.jsonl``; return how many, and `count_derived` of them."""
    made = 0
    with store.atomic_path(output / GENERATED) as temporary, temporary.open("w", encoding="utf-8") as stream:

        def written() -> Iterator[Mapping[str, Any]]:
            nonlocal made
            for number in range(count):
                folder = store.shard_path(output, number)
                for record in iter_records(folder / SHARD_RECORDS):
                    image = Path(record["image"]).name
                    line = record | {"image": f"shards/{folder.name}/{image}"}
                    stream.write(json.dumps(line, sort_keys=True, ensure_ascii=False) + "\n")
                    made += 1
                    yield record["synthetic"]

        derived = count_derived(written())
    return made, derived
