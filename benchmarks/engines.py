"""What a second worker brings to `generate` on CPUs: shards per second of one process and of two workers, in one run.

    python benchmarks/engines.py --engine ray --shards 40

The rate is that between the third shard and the last, when all workers have opened the base. Other programs beside it
take time from both: `load` says how many there were, and `bound` what the CPU seconds spent would allow on idle cores.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import tempfile
from pathlib import Path
from typing import Any

from machine import processor_name

from meddap_monai.diffusion.generation.config import GenerateConfig
from meddap_monai.diffusion.generation.stage import generate
from meddap_monai.engines.config import EngineConfig
from meddap_monai.engines.engine import use_engine
from meddap_monai.images.indexing.config import IndexConfig
from meddap_monai.images.indexing.stage import index
from meddap_monai.phantom.simulation import write_phantom_study


def measure(output: Path, records: Path, engine: EngineConfig, shards: int, steps: int) -> dict[str, Any]:
    """Generate with an engine; return its rate, the load of the machine and the CPU seconds of a shard."""
    before = _cpu()
    config = GenerateConfig(counts={"benign": 4 * shards}, shard_size=4, batch=4, steps=steps, scheduler="ddim")
    with use_engine(engine):
        generate(config, output, records=records)
    made = sorted(path.stat().st_mtime for path in (output / "shards").iterdir())
    return {
        "shards_per_second": round((len(made) - 3) / (made[-1] - made[2]), 4),
        "cpu_seconds_per_shard": round((_cpu() - before) / shards, 3),
        "load": round(os.getloadavg()[0], 1),
    }


def _cpu() -> float:
    """CPU seconds of this process and of those of its children that have ended."""
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in spent)


def main(arguments: list[str] | None = None) -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=("local", "ray"), default="local")
    parser.add_argument("--shards", type=int, default=40)
    parser.add_argument("--steps", type=int, default=15)
    options = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="engines"))
    try:
        write_phantom_study(folder / "in", patients_per_class=2, images_per_patient=2, seed=3)
        records = index(IndexConfig(source=folder / "in", split="train"), folder / "index")
        asked = options.shards, options.steps
        one = measure(folder / "one", records, EngineConfig(), *asked)
        two = measure(folder / "two", records, EngineConfig(name=options.engine, workers=2), *asked)
    finally:
        shutil.rmtree(folder)
    times = two["shards_per_second"] / one["shards_per_second"]
    found = {"processor": processor_name(), "cpus": os.cpu_count(), "engine": options.engine, "one": one, "two": two}
    if options.engine == "local":  # Ray's processes are no children
        found["bound"] = round(2 * one["cpu_seconds_per_shard"] / two["cpu_seconds_per_shard"], 3)
    print(json.dumps(found | {"times": round(times, 3)}, indent=1))


if __name__ == "__main__":
    main()
