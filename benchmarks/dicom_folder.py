"""Files per second: `read_ultrasound` and `index` against a plain ``pydicom`` pixel_array loop.

    python benchmarks/dicom_folder.py [--files 2000] [--repeats 3] [--workers 1 2 4]
    python benchmarks/dicom_folder.py --sizes 2000 10000 --workers 1 2    # how `index` grows, on 128 x 128 files

Writes single-frame 640 x 480 ultrasound files to a temporary folder (half grey, half grey stored as RGB), reads them
with all ways in turns, and prints machine, versions, work, medians and spread. The single-process ways are timed in
processor seconds, so that other programs on the machine do not count; `index` in wall-clock seconds, with the
processor time per file of its reading processes and of the one that collects.
"""

from __future__ import annotations

import argparse
import io
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
from machine import processor_name

from meddap_monai.images.indexing.config import IndexConfig
from meddap_monai.images.indexing.stage import index
from meddap_monai.images.reading.dicom import read_ultrasound
from meddap_monai.phantom.simulation import dicom_bytes, simulate_image

KEY = b"benchmark-key-16"


def write_files(folder: Path, count: int) -> list[Path]:
    """Write the files: ten different phantoms with new noise each, every other one as RGB."""
    base = [simulate_image(name, seed, size=(128, 128)) for seed in range(4) for name in ("benign", "malignant")]
    rng = np.random.default_rng(0)
    paths = []
    for number in range(count):
        small = base[number % len(base)]
        image = np.kron(small, np.ones((3, 4), np.uint8)) ^ rng.integers(0, 8, (384, 512), dtype=np.uint8)
        dataset = pydicom.dcmread(io.BytesIO(dicom_bytes(image[None, :128, :128], f"patient {number}", f"9.{number}")))
        screen = np.zeros((480, 640), np.uint8)
        screen[40 : 40 + 384, 60 : 60 + 512] = image
        region = dataset.SequenceOfUltrasoundRegions[0]
        region.RegionLocationMinY0, region.RegionLocationMinX0 = 40, 60
        region.RegionLocationMaxY1, region.RegionLocationMaxX1 = 423, 571
        dataset.Rows, dataset.Columns = 480, 640
        if number % 2:
            dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
            screen = np.repeat(screen[..., None], 3, -1)
        dataset.PixelData = screen.tobytes()
        path = folder / ("benign", "malignant")[number % 2] / f"{number:05d}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        dataset.save_as(path)
        paths.append(path)
    return paths


def write_small(folder: Path, count: int) -> None:
    """Write so many single-frame 128 x 128 files, none a near-duplicate of another, one patient for two of them."""
    base = [simulate_image(name, seed, size=(128, 128)) for seed in range(30) for name in ("benign", "malignant")]
    for number in range(count):
        draw = np.random.default_rng(number)
        other = np.roll(base[(7 * number + 3) % len(base)], number % 97, axis=1)
        image = np.clip(0.6 * base[number % len(base)] + 0.4 * other + draw.integers(-40, 41, (128, 128)), 0, 255)
        path = folder / ("benign", "malignant")[number % 2] / f"{number:06d}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(dicom_bytes(image.astype(np.uint8)[None], f"patient {number // 2}", f"9.{number}"))


def grow(folder: Path, sizes: list[int], workers: list[int]) -> None:
    """Index folders of several sizes, each in a forked process, and print time by part and peak memory."""
    (folder / "key").write_bytes(KEY)
    for size in sizes:
        write_small(folder / f"in{size}", size)
        for count in workers:
            config = IndexConfig(source=folder / f"in{size}", key_file=folder / "key", workers=count)
            process = os.fork()
            if process == 0:
                before = processor_seconds()
                taken = seconds(lambda config=config, out=folder / f"out{size}-{count}": index(config, out))
                own, children = (now - then for now, then in zip(processor_seconds(), before, strict=True))
                whose = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
                peaks = [resource.getrusage(who).ru_maxrss // 1024 for who in whose]
                told = f"index, {size} files of 128 x 128, {count} reading process(es): {size / taken:.0f} files/s; "
                told += f"processor time per file: reading {1000 * children / size:.2f} ms, "
                told += f"collecting {1000 * own / size:.2f} ms; peak memory, MB: {peaks[1]} and {peaks[0]}"
                print(told, flush=True)
                os._exit(0)
            os.waitpid(process, 0)


def plain(paths: list[Path]) -> None:
    """What a script without this package does."""
    for path in paths:
        pydicom.dcmread(path).pixel_array  # noqa: B018


def ours(paths: list[Path]) -> None:
    """The reader, with every check, region and pseudonym, whole frames."""
    for path in paths:
        read_ultrasound(path, key=KEY)


def cropped(paths: list[Path]) -> None:
    """The reader as `index` uses it: cropped to the region, grey in colour as one channel."""
    for path in paths:
        read_ultrasound(path, outside="crop", colour="auto", key=KEY)


def take_turns(paths: list[Path], ways: dict, repeats: int) -> dict[str, list[float]]:
    """Processor seconds per way and repeat; blocks of 100 files go through all ways in turn, to share the cache."""
    names = list(ways)
    times: dict[str, list[float]] = {name: [0.0] * repeats for name in names}
    for repeat in range(repeats):
        for turn, begin in enumerate(range(0, len(paths), 100)):
            block = paths[begin : begin + 100]
            for path in block:
                path.read_bytes()
            for step in range(len(names)):
                name = names[(turn + step) % len(names)]
                times[name][repeat] += seconds(lambda way=ways[name], block=block: way(block), time.process_time)
    return times


def seconds(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    begin = clock()
    work()
    return clock() - begin


def report(name: str, count: int, times: list[float], against: float | None = None) -> float:
    rate = count / statistics.median(times)
    spread = ", ".join(f"{count / value:.0f}" for value in sorted(times))
    ratio = f"   {rate / against:.2f} of plain pydicom" if against else ""
    print(f"{name:34s} {rate:8.1f} files/s   (runs: {spread}){ratio}")
    return rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--sizes", type=int, nargs="*", help="numbers of small files; only how `index` grows with them")
    arguments = parser.parse_args()
    print(f"{processor_name()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    if arguments.sizes:
        with tempfile.TemporaryDirectory() as name:
            grow(Path(name), arguments.sizes, arguments.workers)
        return
    print(f"pydicom {pydicom.__version__}, numpy {np.__version__}, {arguments.files} files of 640 x 480, half RGB")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = write_files(folder / "in", arguments.files)
        times = take_turns(paths, {"plain": plain, "ours": ours, "cropped": cropped}, arguments.repeats)
        base = report("pydicom pixel_array loop", len(paths), times["plain"])
        report("read_ultrasound", len(paths), times["ours"], base)
        report("read_ultrasound, cropped, grey", len(paths), times["cropped"], base)
        (folder / "key").write_bytes(KEY)
        for workers in arguments.workers:
            config = IndexConfig(source=folder / "in", key_file=folder / "key", split="train", workers=workers)
            before = processor_seconds()
            taken = seconds(lambda config=config, out=folder / f"out{workers}": index(config, out))
            report(f"index, {workers} reading process(es)", len(paths), [taken])
            collecting, reading = (
                (after - begin) * 1000 / len(paths) for begin, after in zip(before, processor_seconds(), strict=True)
            )
            print(f"    processor time per file: reading {reading:.2f} ms, collecting {collecting:.2f} ms")


def processor_seconds() -> tuple[float, float]:
    """Of this process and of its ended children."""
    both = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    own, children = (used.ru_utime + used.ru_stime for used in both)
    return own, children


if __name__ == "__main__":
    main()
