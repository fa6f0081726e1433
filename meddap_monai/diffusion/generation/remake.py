"""Make a shard again from its records, and say how near the new images come to the old ones.

On the CPU in float32 with the recorded versions and threads they are equal byte for byte; elsewhere the largest
difference is measured and reported.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from meddap_monai import store
from meddap_monai.core.configuration import build
from meddap_monai.core.records import iter_records
from meddap_monai.diffusion.bases.base import EMBEDDED, Base, open_base
from meddap_monai.diffusion.generation import plan
from meddap_monai.diffusion.generation.config import GenerateConfig
from meddap_monai.diffusion.generation.shards import PLAN, SHARD_RECORDS, ShardMaker
from meddap_monai.diffusion.generation.stage import guided_by, open_sampler, request_of
from meddap_monai.errors import ForeignOutput, StageError
from meddap_monai.images.reading.opening import open_image


@dataclass(frozen=True)
class Difference:
    """One image beside its remake.

    Attributes:
        id: of the record.
        equal: whether the files are equal byte for byte.
        levels: largest difference of a pixel in grey levels, 0 to 255.
    """

    id: str
    equal: bool
    levels: int


def remake_shard(
    generated: Path | str,
    number: int,
    destination: Path | str,
    *,
    records: Path | str,
    base: str | Path | Base = EMBEDDED,
    adapters: Sequence[Path | str] = (),
) -> list[Difference]:
    """Make one shard of a finished run again, with the batch that was in use, and compare.

    Args:
        generated: output folder of ``generate``.
        number: of the shard (the record's ``synthetic.shard``).
        destination: another folder; gets ``shards/<number>/``.
        records: the records file that ``generate`` was given.
        base: the base it was given.
        adapters: the adapters it was given.

    Raises:
        ForeignOutput: records, base or adapters are not those of the run.
        StageError: there is no such run or shard.
    """
    generated, base = Path(generated), open_base(base)
    document = store.read_stage(generated)
    config = build(GenerateConfig, document.get("configuration", {}), f"{generated}: configuration")
    request = request_of(config, Path(destination), Path(records), base, adapters)
    for name in sorted(set(request.inputs) | set(document.get("inputs", {}))):
        if request.inputs.get(name) != document.get("inputs", {}).get(name):
            raise ForeignOutput(
                f"{generated}: was made with another {name.split('_')[0]}; give the one it was made with"
            )
    if not store.shard_done(generated, number):
        raise StageError(f"{generated}: has no shard {number}; see synthetic.shard in {generated / 'generated.jsonl'}")
    old = list(iter_records(store.shard_path(generated, number) / SHARD_RECORDS))
    rows = next(
        rows for found, rows in plan.shards(plan.read_plan(generated / PLAN), config.shard_size) if found == number
    )
    made = old[0]["synthetic"]
    with (
        open_sampler(guided_by(request.config, generated), base, request.adapters) as sampler,
        store.InterruptFlag() as flag,
    ):
        check = functools.partial(flag.raise_if_set, f"shard {number} is not made again")
        ShardMaker(request, sampler, check, batch=made["batch"], sliced=made["sliced"]).make(number, rows)
    new = iter_records(store.shard_path(destination, number) / SHARD_RECORDS)
    return [_compare(before, after) for before, after in zip(old, new, strict=True)]


def _compare(before: dict, after: dict) -> Difference:
    one, two = (np.asarray(open_image(record["image"]), dtype=int) for record in (before, after))
    equal = Path(before["image"]).read_bytes() == Path(after["image"]).read_bytes()
    levels = np.abs(one - two).max()
    return Difference(before["id"], equal, int(levels))
