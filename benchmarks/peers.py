"""This package against what a careful user of other tools has, at equal settings, in turns within one run.

    python benchmarks/peers.py --page docs/performance.md
    python benchmarks/peers.py --only generation --images 1000 --records RECORDS --cache FOLDER

Peers: the loop of diffusers' LoRA example, diffusers' pipeline, MONAI's plain `Dataset` pipeline, a ``pydicom`` loop.
Every loop does a piece of work in each round; a ratio is taken within a round, in processor time of one thread, so that
other programs count little. Peak memory is that of a process of its own that does three pieces. ``--images`` adds KID
to real images; parts that the cache holds are not made again. ``--page`` puts the table between two marks of a page.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from machine import processor_name

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from meddap_monai import store
from meddap_monai.core.records import read_records

PEER = "peer"
MARKS = ("<!-- peers.py: begin -->", "<!-- peers.py: end -->")


@dataclass(frozen=True)
class Work:
    """What both sides do.

    Attributes:
        title: of its rows.
        unit: that is counted per second.
        loops: name -> opens a loop in a folder; the first is the peer. A loop's ``step()`` returns how much it did.
        pieces: steps per round.
    """

    title: str
    unit: str
    loops: dict[str, Callable[[Path], Any]]
    pieces: int = 1


def works(options: argparse.Namespace) -> dict[str, Work]:
    """Return all work by name; what it needs is loaded when a loop is opened."""
    found = {}
    for batch in (8, 1):
        loops: dict[str, Callable[[Path], Any]] = {PEER: partial(_training_peer, options, batch)}
        loops |= {
            f"adapt, {precision}": partial(_training, options, batch, precision) for precision in ("fp32", "bf16")
        }
        loops["published loop, batch 1"] = partial(_published, options)
        title = f"adapter training, batch {batch}"
        found[f"training{batch}"] = Work(title, "images", loops, 3 if batch > 1 else 12)
    drawn: dict[str, Callable[[Path], Any]] = {_row(n): partial(_drawing, options, n) for n in _generation().names()}
    found["generation"] = Work(f"generation, batch {options.batch}", "images", drawn)
    epochs = {PEER: partial(_epochs, True), "classify": partial(_epochs, False)}
    found["classifier"] = Work("classifier, an epoch of 160 images, 128 px", "epochs", epochs)
    reading = {PEER: partial(_reading, "plain"), "read_ultrasound": partial(_reading, "ours")}
    found["dicom"] = Work("DICOM files of 640 x 480", "files", reading)
    return found


# ------------------------------------------------------------------------------------------------------------- loops
def _records(folder: Path) -> list[dict[str, Any]]:
    from adapter_training import simulated_records

    return read_records(simulated_records(folder, 8, 512), full=True)


def _training_peer(options: argparse.Namespace, batch: int, folder: Path) -> Any:
    from peer_training import PeerLoop

    return PeerLoop(options.base, _records(folder), batch)


def _training(options: argparse.Namespace, batch: int, precision: str, folder: Path) -> Any:
    from peer_training import our_loop

    return our_loop(options.base, _records(folder), folder / f"{precision}{batch}", batch, precision)


def _published(options: argparse.Namespace, folder: Path) -> Any:
    from peer_training import AdaptConfig, PublishedLoop

    return PublishedLoop(AdaptConfig(prompts="breast"), options.base, _records(folder), torch.device("cpu"))


def _generation() -> Any:
    import peer_generation

    return peer_generation


class _Drawing:
    def __init__(self, make: Any, batch: int, folder: Path) -> None:
        self.make, self.batch, self.folder, self.seed = make, batch, folder, 0

    def step(self) -> int:
        self.seed += self.batch
        return len(self.make(self.batch, self.seed, self.folder))


def _drawing(options: argparse.Namespace, name: str, folder: Path) -> _Drawing:
    return _Drawing(_generation().makers(options)[name](), options.batch, folder)


def _row(name: str) -> str:
    """Return the name of a generating loop in the table."""
    there = _generation()
    return {there.PEER: PEER, there.PUBLISHED: name}.get(name, f"generate, {name}")


def _epochs(plain: bool, folder: Path) -> Any:
    from peer_classifier import EpochLoop

    return EpochLoop(folder, plain)


class _Reading:
    def __init__(self, read: Callable[[list[Path]], None], paths: list[Path]) -> None:
        self.read, self.paths = read, paths

    def step(self) -> int:
        self.read(self.paths)
        return len(self.paths)


def _reading(way: str, folder: Path) -> _Reading:
    import dicom_folder

    place = folder / "dicom"
    paths = sorted(place.rglob("*.dcm")) or dicom_folder.write_files(place, 100)
    return _Reading(getattr(dicom_folder, way), paths)


# ----------------------------------------------------------------------------------------------------------- measure
def measure(work: Work, rounds: int, folder: Path) -> dict[str, dict[str, Any]]:
    """Return per loop its amount per second of processor time and its ratio to the peer, round by round."""
    opened = {name: make(folder) for name, make in work.loops.items()}
    rates: dict[str, list[float]] = {name: [] for name in opened}
    for loop in opened.values():
        loop.step()
    for _ in range(rounds):
        for name, loop in opened.items():
            begun = time.process_time()
            amount = sum(loop.step() for _ in range(work.pieces))
            rates[name].append(amount / (time.process_time() - begun))
    rows = {}
    for name, values in rates.items():
        ratios = [ours / theirs for ours, theirs in zip(values, rates[PEER], strict=True)]
        rows[name] = {"rate": statistics.median(values), "ratio": statistics.median(ratios)}
        rows[name] |= {"lowest": min(ratios), "highest": max(ratios)}
    return rows


def peak_memory(work: str, loop: str, options: argparse.Namespace) -> int:
    """Return the peak resident memory in MB of a process that opens a loop and does three steps."""
    words = ["--loop", work, loop, "--base", options.base, "--batch", str(options.batch)]
    said = subprocess.check_output([sys.executable, __file__, *words], text=True)
    return int(said.splitlines()[-1])


def _one_loop(options: argparse.Namespace) -> None:
    work, name = options.loop
    with tempfile.TemporaryDirectory() as folder:
        loop = works(options)[work].loops[name](Path(folder))
        for _ in range(3):
            loop.step()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


# ------------------------------------------------------------------------------------------------------------ report
def table(options: argparse.Namespace, found: dict[str, Any]) -> str:
    """Return the machine and a row per loop."""
    packages = ("torch", "diffusers", "monai", "pydicom")
    versions = ", ".join(f"{name} {store.versions()[name]}" for name in packages if name in store.versions())
    lines = [
        f"{processor_name()}, one thread, processor time, {options.rounds} rounds; base `{options.base}`; {versions}.",
        "",
        "| work | loop | per second | times the peer (lowest to highest round) | peak memory, MB | KID, difference |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for title, rows in found.items():
        for name, row in rows.items():
            rate = f"{row['rate']:.2f} {row['unit']}" if "rate" in row else "-"
            ratio = f"{row['ratio']:.2f} ({row['lowest']:.2f} to {row['highest']:.2f})" if "rate" in row else "-"
            cells = [title, name, rate, ratio, str(row.get("memory", "-")), _quality(row.get("quality"))]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _quality(row: dict[str, Any] | None) -> str:
    if row is None:
        return "-"
    low, high = row["kid_difference_low"], row["kid_difference_high"]
    return f"{row['kid']:.3f}" + (f", {low:+.3f} to {high:+.3f}" if low or high else "")


def write_page(page: Path, text: str) -> None:
    """Replace what stands between the marks of a page.

    Raises:
        ValueError: the page has no marks.
    """
    whole = page.read_text()
    before, begin, rest = whole.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not begin or not end:
        raise ValueError(f"{page}: holds no {MARKS[0]} and {MARKS[1]}; write them where the table shall stand")
    store.write_atomic(page, f"{before}{MARKS[0]}\n{text}\n{MARKS[1]}{after}")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", help="training8, training1, generation, classifier, dicom")
    parser.add_argument("--base", default="embedded")
    parser.add_argument("--batch", type=int, default=8, help="of generation")
    parser.add_argument("--rounds", type=int, default=5, help="0: no speed, such as for KID alone")
    parser.add_argument("--no-memory", action="store_true", help="without the processes that show peak memory")
    parser.add_argument("--images", type=int, default=0, help="per loop for KID, 1,000 or more; 0: none")
    parser.add_argument("--records", type=Path, help="records of real images, for KID")
    parser.add_argument("--cache", type=Path, default=Path("runs/peers"), help="keeps images for KID, to go on")
    parser.add_argument("--page", type=Path, help="page that gets the table")
    parser.add_argument("--loop", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.loop:
        _one_loop(options)
        return
    found: dict[str, dict[str, Any]] = {}
    for name, work in works(options).items():
        if options.only and name not in options.only:
            continue
        with tempfile.TemporaryDirectory() as folder:
            rows = measure(work, options.rounds, Path(folder)) if options.rounds else {one: {} for one in work.loops}
        for loop, row in rows.items():
            row["unit"] = work.unit
            if not options.no_memory:
                row["memory"] = peak_memory(name, loop, options)
        found[work.title] = rows
        if name == "generation" and options.images:
            for loop, quality in _generation().measure_quality(options).items():
                rows[_row(loop)]["quality"] = quality
        print(json.dumps({name: rows}), flush=True)
    text = table(options, found)
    print(text)
    if options.page:
        write_page(options.page, text)


if __name__ == "__main__":
    main()
