"""How good a base is, each figure against real images of other patients.

Agreement of a classifier trained on real images with the prompted class, gradient and high-frequency energy, FID and
KID on HOG features (named in the output; no downloaded network), trained on synthetic and tested on real, what
adjectives do, nearest training images, and a real-or-synthetic classifier.

    python benchmarks/base_quality.py --records index/records.jsonl --base embedded --output quality

Pictures are kept in the output folder, so a second call goes on where the first one stopped.
The records are those the base was trained from: split train is "training", split val are the held-out patients.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from judging import (
    EXTRACTOR,
    agreement,
    copies,
    distances,
    energy,
    joined,
    read_set,
    real_or_synthetic,
    synthetic_accuracy,
    usefulness,
    write_sheet,
)

from meddap_monai import store
from meddap_monai.core.records import read_records
from meddap_monai.diffusion.bases.base import load_base, open_base
from meddap_monai.diffusion.bases.prompts import PromptTable, load_prompt_table
from meddap_monai.diffusion.bases.sample_pictures import draw_pictures
from meddap_monai.diffusion.generation.sampler import ImageSampler
from meddap_monai.diffusion.pretraining.appearance import LOOKS, apply_look


def main() -> None:
    """Read the command line, measure, write quality.json and the contact sheets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=Path, required=True)
    parser.add_argument("--base", default="embedded")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--per-class", type=int, default=40)
    parser.add_argument("--guidance", type=float, default=2.5)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--half", action="store_true", help="compute in bfloat16")
    parser.add_argument("--simulated-device", default="Phantom A", help="meta.device of simulated images")
    given = parser.parse_args()
    report = measure(given)
    given.output.mkdir(parents=True, exist_ok=True)
    store.write_json(given.output / "quality.json", report)
    print_report(report)


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Return every figure."""
    card = open_base(given.base).card
    side = int(card["resolution"])
    tables = [load_prompt_table(name) for name in card["prompts"]]
    train, held = real_sets(given.records, given.simulated_device, side)
    classes = sorted(str(name) for name in set(train["class"]))
    pipeline: Any = load_base(given.base)
    begun = time.monotonic()
    made = {
        name: generate(pipeline, table_of(name, tables).prompt(name), given.per_class, number, given)
        for number, name in enumerate(classes)
    }
    seconds = time.monotonic() - begun
    pixels = np.concatenate([made[name] for name in classes])
    synthetic = {"pixels": pixels, "class": np.repeat(classes, given.per_class)}
    save_sheets(given.output, classes, made, train)
    report: dict[str, Any] = {
        "base": str(given.base),
        "guidance": given.guidance,
        "steps": given.steps,
        "per_class": given.per_class,
        "images_per_second": len(pixels) / seconds,
        "threads": torch.get_num_threads(),
        "real": {"train": len(train["class"]), "held_out": len(held["class"])},
        "extractor": EXTRACTOR,
    }
    report["agreement"] = agreement(joined(train, held), synthetic, classes)
    report["usefulness"] = usefulness(train, held, synthetic, classes)
    report["synthetic_accuracy"] = synthetic_accuracy(train, held, synthetic, classes)
    report["energy"] = energy(held, train, synthetic, classes)
    report["distance"] = distances(train, held, synthetic)
    report["copies"] = copies(train, held, synthetic, classes)
    report["real_or_synthetic_auc"] = real_or_synthetic(train, held, synthetic, classes)
    report["adjectives"] = adjectives(pipeline, tables[0], train, given)
    return report


def real_sets(path: Path, device: str, side: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return training and held-out real pictures: pixels (N, side, side) uint8, class and group names."""
    records = [r for r in read_records(path, full=True) if (r.get("meta") or {}).get("device") != device]

    train, held = ([record for record in records if record["split"] == split] for split in ("train", "val"))
    return read_set(train, side), read_set(held, side)


def table_of(class_name: str, tables: list[PromptTable]) -> PromptTable:
    """Return the prompt table that words a class."""
    return next(table for table in tables if class_name in table.classes)


def generate(pipeline: Any, prompt: str, count: int, stream: int, given: argparse.Namespace) -> np.ndarray:
    """Return `count` grey pictures (count, side, side) uint8 of one prompt, drawn or from the last call."""
    path = given.output / "pictures" / f"{stream}.npy"
    if path.is_file():
        return np.load(path)
    sampler = ImageSampler(pipeline)
    seeds = [given.seed * 1_000_000 + stream * 10_000 + number for number in range(count)]
    batches = []
    for start in range(0, count, 8):
        part = seeds[start : start + 8]
        with torch.autocast("cpu", torch.bfloat16, enabled=given.half):
            made = draw_pictures(pipeline, [prompt] * len(part), part, sampler.size, given.steps, given.guidance)
        batches.append(np.stack([np.asarray(item) for item in made]))
    pixels = np.concatenate(batches)
    grey = np.rint(pixels.mean(-1)).astype(np.uint8) if pixels.ndim == 4 else pixels
    with store.atomic_path(path) as temporary, temporary.open("wb") as opened:
        np.save(opened, grey)
    return grey


def adjectives(pipeline: Any, table: PromptTable, train: Any, given: argparse.Namespace) -> dict[str, Any]:
    """Return mean and spread of pictures per adjective, and of real images changed the same way."""
    real = train["pixels"][np.isin(train["class"], list(table.classes))][:48] / np.float32(255)
    found = {}
    for number, name in enumerate(["none", *sorted(set(LOOKS) & set(table.adjectives))]):
        prompt = table.prompt(next(iter(table.classes)), name)
        made = generate(pipeline, prompt, 8, 500 + number, given) / 255.0
        wanted = np.stack([apply_look(image, name) for image in real])
        found[name] = {
            "synthetic": [float(made.mean()), float(made.std((1, 2)).mean())],
            "real": [float(wanted.mean()), float(wanted.std((1, 2)).mean())],
        }
    return found


def save_sheets(folder: Path, classes: list[str], made: dict[str, np.ndarray], train: Any) -> None:
    """Write ``base_samples.png`` and ``base_real.png``: a row per class."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = {"base_samples": [made[name][:10] for name in classes]}
    rows["base_real"] = [train["pixels"][train["class"] == name][:10] for name in classes]
    for name, parts in rows.items():
        write_sheet(folder / f"{name}.png", parts)


def print_report(report: dict[str, Any]) -> None:
    """Print the figures as they stand in the file, rounded."""
    for key, value in report.items():
        if isinstance(value, dict):
            print(key)
            for name, item in value.items():
                print("   ", name, _rounded(item))
        else:
            print(key, value)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return round(value, 3) if isinstance(value, float) else value


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
