"""How the processor time of every stage grows with its work: once, 4 times and 16 times as much, and the exponent.

    python benchmarks/growth.py [--output growth.json] [--only index split ...] [--times 3]

Each stage runs in a forked process, so that caches and imports of one size do not help the next; counted is the
processor time of that process and of those it started, the least of several repeats. The exponent is the slope
from 4 to 16 times, where the share of what every run pays once (loading a base, opening a database) is small: with
time ``a + b * work ** e`` it is a little below ``e``. Sizes are small; what a stage does at size is said elsewhere.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import resource
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from machine import processor_name
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from meddap_monai import store
from meddap_monai.classifier.inference import infer
from meddap_monai.classifier.inference_config import InferConfig
from meddap_monai.classifier.stage import classify
from meddap_monai.core.records import iter_split, write_records
from meddap_monai.diffusion.adapting.config import AdaptConfig
from meddap_monai.diffusion.adapting.stage import adapt
from meddap_monai.diffusion.generation.config import GenerateConfig
from meddap_monai.diffusion.generation.stage import generate
from meddap_monai.errors import EmptyClass
from meddap_monai.evaluation.config import EvaluateConfig
from meddap_monai.evaluation.predictions import ClassifierRun
from meddap_monai.evaluation.stage import evaluate
from meddap_monai.images.indexing.config import IndexConfig
from meddap_monai.images.indexing.duplicates import BLOCK, near_duplicates
from meddap_monai.images.indexing.stage import index
from meddap_monai.phantom.simulation import simulate_image
from meddap_monai.selection.copies.config import CopyConfig
from meddap_monai.selection.copies.detection import Images, calibrate, find_nearest
from meddap_monai.selection.filtering.config import SelectConfig
from meddap_monai.selection.filtering.filter_config import FilterConfig
from meddap_monai.selection.filtering.stage import select
from meddap_monai.selection.mixing.config import MixConfig
from meddap_monai.selection.mixing.stage import mix
from tests.classifier_material import TINY
from tests.record_material import CLASSES, as_synthetic, image_record, write_like
from tests.selection.copying import thumbnail
from tools.tiny_base import build_tiny_base

Work = Callable[[], Any]
FACTORS = (1, 4, 16)
CUT = FilterConfig(encoder="resnet10_tiny", mode="scratch", resolution=32, folds=2, steps=4, batch=8)


class Material:
    """What the stages work on, made once and outside of what is counted.

    Args:
        folder: for everything.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def _looks(self) -> dict[bool, list[np.ndarray]]:
        """Whether large -> what all pictures are mixed of."""
        looks = [Image.fromarray(simulate_image(CLASSES[seed % 3], seed, size=(128, 128))) for seed in range(60)]
        sizes = {False: (32, 32), True: (320, 240)}
        return {large: [np.asarray(look.resize(size)) for look in looks] for large, size in sizes.items()}

    def picture(self, number: int, large: bool = False) -> np.ndarray:
        """Return the picture of a number, no near-duplicate of any other; its class is that of the number."""
        looks = self._looks[large]
        own, other = looks[number % 60], looks[(7 * number + 3) % 60]
        noise = np.random.default_rng(number).integers(-40, 41, own.shape)
        return np.clip(0.7 * own + 0.3 * np.roll(other, number % 29, axis=1) + noise, 0, 255).astype(np.uint8)

    def records(self, name: str, training: int, held: int = 6) -> Path:
        """Write so many training images and held ones of both other splits, each of a patient of its own."""
        folder = self.folder / name
        counts = {"train": training, "val": held, "test": held}
        with store.open_stage(folder, "index", counts) as stage:
            rows = []
            for split, count in counts.items():
                for _ in range(count):
                    number = len(rows)
                    facts = {"split": split, "meta": {"frame": 0}}
                    rows.append(image_record(folder, f"i{number}", self.picture(number), CLASSES[number % 3], **facts))
            write_records(folder / "records.jsonl", rows)
            stage.finish({"in": len(rows), "out": len(rows), "rejected": 0}, classes=CLASSES)
        return folder / "records.jsonl"

    def synthetic(self, name: str, records: Path, count: int) -> Path:
        """Write so many synthetic images beside the real ones of `records`."""
        folder = self.folder / name
        rows = []
        for place in range(count):
            number = 100_000 + place
            rows.append(as_synthetic(image_record(folder, f"s{place}", self.picture(number), CLASSES[number % 3])))
        return write_like(records, folder, rows).rename(folder / "generated.jsonl")


def indexing(material: Material, factor: int, out: Path) -> Work:
    source = material.folder / f"files{factor}"
    for number in range(60 * factor):
        path = source / CLASSES[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(material.picture(number, large=True)).save(path, compress_level=1)
    (material.folder / "key").write_bytes(b"k" * 32)
    config = IndexConfig(source=source, key_file=material.folder / "key", workers=0)
    return lambda: index(config, out)


def twins(material: Material, factor: int, _: Path) -> Work:
    count = 512 * factor
    pictures = np.stack([material.picture(number) for number in range(count)])
    return lambda: sum(
        1
        for _ in near_duplicates(
            lambda block: (range(count)[block * BLOCK : (block + 1) * BLOCK], pictures[block * BLOCK :][:BLOCK]), 0.98
        )
    )


def splitting(_: Material, factor: int, __: Path) -> Work:
    members = {
        f"p{number}": [{"id": f"{number}-{image}", "class_name": CLASSES[number % 3]} for image in range(2)]
        for number in range(5000 * factor)
    }
    return lambda: sum(1 for _ in iter_split(members, {"train": 0.6, "val": 0.2, "test": 0.2}, 0))


def adapting(material: Material, factor: int, out: Path) -> Work:
    records, base = material.records(f"adapt{factor}", 6), build_tiny_base(out.parent / "tiny")
    config = AdaptConfig(steps=12 * factor, batch=4, validation_every=0, samples_per_class=0, device="cpu")
    return lambda: adapt(config, out, records=records, base=base)


def encoding(material: Material, factor: int, out: Path) -> Work:
    records, base = material.records(f"encode{factor}", 24 * factor), build_tiny_base(out.parent / "tiny")
    config = AdaptConfig(steps=1, batch=4, validation_every=0, samples_per_class=0, device="cpu")
    return lambda: adapt(config, out, records=records, base=base)


def generating(material: Material, factor: int, out: Path) -> Work:
    records, base = material.records(f"generate{factor}", 6), build_tiny_base(out.parent / "tiny")
    config = GenerateConfig(counts=8 * factor, steps=4, device="cpu", shard_size=8)
    return lambda: generate(config, out, records=records, base=base)


def selecting(material: Material, factor: int, out: Path) -> Work:
    records = material.records(f"select{factor}", 30 * factor)
    generated = material.synthetic(f"generated{factor}", records, 30 * factor)
    config = SelectConfig(filter=CUT, copies=CopyConfig(features="hog"), pictures=False)

    def work() -> None:
        with contextlib.suppress(
            EmptyClass
        ):  # a filter of four steps may believe no image of a class; all is done then
            select(config, out, records=records, generated=generated)

    return work


def copies(material: Material, factor: int, _: Path) -> Work:
    count = 250 * factor
    features = np.random.default_rng(1).standard_normal((2, count, 320)).astype(np.float32)
    features /= np.linalg.norm(features, axis=-1, keepdims=True)
    looks = [np.stack([thumbnail(material.picture(start + n)) for n in range(count)]) for start in (0, 500_000)]
    known = Images(looks[0], features[0], [f"p{number}" for number in range(count)])
    asked = Images(looks[1], features[1], [""] * count)
    return lambda: (calibrate(known, CopyConfig()), find_nearest(asked, known, CopyConfig()))


def mixing(material: Material, factor: int, out: Path) -> Work:
    records = material.records(f"mix{factor}", 100 * factor)
    kept = material.synthetic(f"kept{factor}", records, 100 * factor)
    return lambda: mix(MixConfig(), out, records=records, kept=kept)


def learning(material: Material, factor: int, out: Path) -> Work:
    records = material.records(f"classify{factor}", 12)
    config = replace(TINY, steps=24 * factor, validation_every=24 * factor, checkpoint_every=1000)
    return lambda: classify(config, out, records=records)


def judging(material: Material, factor: int, out: Path) -> Work:
    records = material.records(f"evaluate{factor}", 12, 40 * factor)
    model = classify(replace(TINY, steps=4, validation_every=4), out.parent / "model", records=records)
    runs = [ClassifierRun("real", 0, model, records)]
    config = EvaluateConfig(samples=100, pictures=0, hog=False, generative=False)
    return lambda: evaluate(config, out, runs=runs)


def answering(material: Material, factor: int, out: Path) -> Work:
    records = material.records(f"infer{factor}", 12)
    model = classify(replace(TINY, steps=4, validation_every=4), out.parent / "model", records=records)
    source = material.folder / f"asked{factor}"
    source.mkdir()
    for number in range(40 * factor):
        Image.fromarray(material.picture(number)).save(source / f"{number}.png")
    return lambda: infer(InferConfig(), [model], source, out.with_suffix(".csv"))


STAGES: dict[str, tuple[str, float, Callable[[Material, int, Path], Work]]] = {
    "index": ("60 files of 320 x 240", 1.1, indexing),
    "near-duplicates of index": ("512 pictures", 2.0, twins),
    "split": ("5,000 patients", 1.1, splitting),
    "adapt, steps": ("12 steps", 1.1, adapting),
    "adapt, images": ("24 images", 1.1, encoding),
    "generate": ("24 images", 1.1, generating),
    "select with copies": ("30 real, 30 synthetic", 1.3, selecting),
    "copies alone": ("250 real, 250 synthetic", 1.3, copies),
    "mix": ("100 real, 100 synthetic", 1.1, mixing),
    "classify": ("24 steps", 1.1, learning),
    "evaluate": ("40 test images", 1.1, judging),
    "infer": ("40 files", 1.1, answering),
}
"""Name -> its work at factor 1, the bound of its exponent, and what is run."""


def seconds(work: Work) -> float:
    """Return the processor seconds of `work` in a forked process and of the processes it starts.

    Raises:
        RuntimeError: it failed.
    """
    sys.stdout.flush()
    before = _used()
    process = os.fork()
    if process == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        os._exit(status)
    if os.waitpid(process, 0)[1]:
        raise RuntimeError("the stage failed; its message stands above")
    return _used() - before


def _used() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(name: str, times: int) -> dict[str, Any]:
    """Return processor seconds for 1, 4 and 16 times the work of a stage, and the exponents between them."""
    unit, bound, make = STAGES[name]
    found = []
    for factor in FACTORS:
        taken = []
        for _ in range(times):
            with tempfile.TemporaryDirectory() as folder:
                work = make(Material(Path(folder) / "in"), factor, Path(folder) / "out")
                taken.append(seconds(work))
        found.append(min(taken))
    exponents = [math.log(later / earlier) / math.log(4) for earlier, later in zip(found, found[1:], strict=False)]
    return {"work": unit, "seconds": found, "exponents": exponents, "bound": bound}


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Return the Markdown table."""
    lines = ["| stage | work | 1x, s | 4x, s | 16x, s | exponent, 4x to 16x | bound |", "| --- " * 7 + "|"]
    for name, row in rows.items():
        times = " | ".join(f"{value:.2f}" for value in row["seconds"])
        lines.append(f"| {name} | {row['work']} | {times} | {row['exponents'][-1]:.2f} | {row['bound']} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("growth.json"))
    parser.add_argument("--only", nargs="*", default=[], choices=STAGES)
    parser.add_argument("--times", type=int, default=1, help="repeats; the least counts")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows: dict[str, dict[str, Any]] = store.read_json(options.output)["stages"] if options.output.exists() else {}
    machine = {"processor": processor_name(), "versions": store.versions()}
    for name in options.only or STAGES:
        if name not in rows:
            rows[name] = measure(name, options.times)
            store.write_json(options.output, {"machine": machine, "stages": rows})
            print(name, rows[name], flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
