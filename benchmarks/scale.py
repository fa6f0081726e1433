"""What a run of millions asks of its driver: the real planner and bookkeeping, with workers that only pass the time.

    python benchmarks/scale.py --images 10000000 --files 1000000 --workers 1000

Plan, shards, listing and journal are those of the package, in a temporary folder; the workers of the simulation live in
virtual time. Printed as JSON: seconds of the driver, bytes, peak memory, and how long the whole takes beside the best.
"""

from __future__ import annotations

import argparse
import base64
import heapq
import json
import random
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
from machine import processor_name

from meddap_monai import store
from meddap_monai.diffusion.bases.prompt_choice import table_for
from meddap_monai.diffusion.generation import plan, planning
from meddap_monai.diffusion.generation.config import GenerateConfig
from meddap_monai.engines.backlog import Backlog, Unit
from meddap_monai.images.indexing.duplicates import BLOCK, Groups, near_duplicates
from meddap_monai.images.indexing.journal import open_journal
from meddap_monai.images.indexing.ledger import Ledger
from meddap_monai.images.indexing.sources import Source

CLASSES = ["benign", "malignant", "normal"]
MEAN, FAILING, SLOW = 60.0, 0.01, 0.005
"""Seconds of a shard, share of units that lose their worker, share of workers ten times slower than others."""
HANGS = 7
"""The worker that never answers."""


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return (seconds of CPU, result): other programs beside it do not count."""
    started = time.process_time()
    found = work()
    return round(time.process_time() - started, 3), found


def peak() -> int:
    """Return the peak memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def simulate(items: Iterator[Any], workers: int, twice: bool, seed: int = 0) -> dict[str, Any]:
    """Let fake workers empty a backlog in virtual time; one of them hangs for days.

    Args:
        items: of the units.
        workers: at work at a time.
        twice: see `Backlog`.
        seed: of durations and losses.
    """
    rng, now = random.Random(seed), [0.0]
    backlog = Backlog(items, attempts=5, twice=twice, clock=lambda: now[0])
    slowness = [10.0 if rng.random() < SLOW else 1.0 for _ in range(workers)]
    events: list[tuple[float, int, bool, Unit]] = []
    idle, spent, lost, done, most = list(range(workers)), 0.0, 0, 0, 0

    def start(worker: int, unit: Unit) -> None:
        nonlocal spent
        seconds = rng.lognormvariate(np.log(MEAN), 0.2) * slowness[worker]
        dies = rng.random() < FAILING
        seconds *= rng.random() if dies else 1
        seconds = 1e6 if worker == HANGS and not dies else seconds
        spent += seconds
        heapq.heappush(events, (now[0] + seconds, worker, dies, unit))

    started = time.process_time()
    while True:
        while idle and (unit := backlog.take()) is not None:
            start(idle.pop(), unit)
        most = max(most, len(events))
        if not events or backlog.done:
            break
        now[0], worker, dies, unit = heapq.heappop(events)
        idle.append(worker)
        if dies:
            backlog.lose(unit, "was lost")
            lost += 1
        else:
            done += sum(1 for _ in backlog.settle(unit, '{"outcome": null}'))
    best = done * MEAN * np.exp(0.02) / sum(1 / slow for slow in slowness)
    return {
        "units": done,
        "workers_lost": lost,
        "virtual_hours": round(now[0] / 3600, 3),
        "times_the_best": round(now[0] / best, 3),
        "most_at_work": most,
        "driver_ms_per_unit": round(1000 * (time.process_time() - started) / max(1, done), 3),
    }


def plan_of(images: int, folder: Path, workers: int) -> dict[str, Any]:
    """Measure the plan of `generate` and a run over it."""
    config = GenerateConfig(counts=-(-images // len(CLASSES)))
    wanted = planning.PlanInputs(CLASSES, dict.fromkeys(CLASSES, 30), {}, (224, 224))
    path = folder / "plan.csv"
    rows = planning.make_plan(config, table_for("auto", CLASSES), wanted)
    written, count = timed(lambda: plan.write_plan(path, rows))
    counted, _ = timed(lambda: plan.count_rows(path))

    def items() -> Iterator[Any]:
        for number, part in plan.shards(plan.read_plan(path), config.shard_size):
            yield {"shard": number, "rows": [astuple(row) for row in part]}

    shards = -(-count // config.shard_size)
    return {
        "rows": count,
        "bytes": path.stat().st_size,
        "write_s": written,
        "count_s": counted,
        "run": simulate(items(), workers, twice=True),
        "run_without_second_tries": simulate(iter(range(shards)), workers, twice=False),
        "shards": shards,
        "peak_mb": peak(),
    }


def listing_of(shards: int, folder: Path) -> dict[str, float]:
    """Measure what it costs to see which shards are there, and to sweep the folder when a run goes on."""
    for number in range(shards):
        place = store.shard_path(folder, number)
        place.mkdir(parents=True)
        (place / "records.jsonl").touch()
    one_by_one, _ = timed(lambda: [store.shard_done(folder, number) for number in range(shards)])
    together, found = timed(lambda: store.shards_done(folder))
    swept, _ = timed(lambda: store.sweep(folder))
    assert len(found) == shards
    return {"one_by_one_s": one_by_one, "one_listing_s": together, "sweep_s": swept}


def index_of(files: int, folder: Path) -> dict[str, Any]:
    """Measure the journal and the ledger of `index`, without the reading."""
    small = base64.b64encode(bytes(1024)).decode()

    def sources() -> Iterator[Source]:
        for n in range(files):
            yield Source(Path(f"/nowhere/{n // 1000}/{n}.dcm"), f"{n // 1000}/{n}.dcm", CLASSES[n % 3], None)

    def outcome(n: int) -> dict[str, Any]:
        item = {"id": f"{n:020x}", "class_name": CLASSES[n % 3], "patient": f"p{n // 10}", "sha256": f"{n:064x}"}
        return {
            "relative": f"{n // 1000}/{n}.dcm",
            "items": [item | {"meta": {"frame": 0, "deidentified": True}, "thumbnail": small}],
        }

    with open_journal(folder / "private" / "journal.sqlite") as journal:
        listed, _ = timed(lambda: journal.set_sources(sources()))
        added, _ = timed(lambda: [journal.add(outcome(n)) for n in range(files)] and None)
        filled, ledger = timed(lambda: Ledger(journal))
        copies, _ = timed(lambda: ledger.drop_duplicates(Groups()))
        starts = ledger._block_starts()
        loads = [timed(lambda n=n: ledger._thumbnails(starts, n))[0] for n in (0, len(starts) // 2, len(starts) - 1)]
        records, _ = timed(lambda: sum(1 for _ in ledger.records(CLASSES)))
    size = (folder / "private" / "journal.sqlite").stat().st_size
    return {
        "files": files,
        "list_s": listed,
        "take_outcomes_s": added,
        "fill_s": filled,
        "duplicates_s": copies,
        "load_a_block_of_thumbnails_s": round(statistics.mean(loads), 4),
        "records_s": records,
        "journal_bytes": size,
        "peak_mb": peak(),
    }


def near_duplicates_of(files: int) -> dict[str, float]:
    """Measure one pair of blocks of thumbnails; the pairs grow with the square of the files."""
    rng = np.random.default_rng(0)
    blocks = [rng.integers(0, 255, (BLOCK, 32, 32), dtype=np.uint8) for _ in range(4)]
    load = lambda n: ([str(i) for i in range(BLOCK)], blocks[n]) if n < 4 else ([], np.zeros((0, 32, 32), np.uint8))  # noqa: E731
    seconds, _ = timed(lambda: sum(1 for _ in near_duplicates(load, 0.98)))
    number = -(-files // BLOCK)
    return {
        "seconds_per_pair": round(seconds / 10, 4),
        "hours": round(seconds / 10 * number * (number + 1) / 2 / 3600, 2),
    }


def main(arguments: list[str] | None = None) -> None:
    """Print the measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000_000)
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=1000)
    options = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="scale"))
    try:
        found: dict[str, Any] = {
            "processor": processor_name(),
            "plan": plan_of(options.images, folder, options.workers),
        }
        found["listing"] = listing_of(found["plan"]["shards"], folder / "out")
        found["index"] = index_of(options.files, folder / "index")
        found["near_duplicates"] = near_duplicates_of(options.files)
    finally:
        shutil.rmtree(folder)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
