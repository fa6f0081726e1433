"""How good a base is, each figure against real images of other patients; two bases on the same ones.

    python benchmarks/base_quality.py --records corpus/records.jsonl --base embedded --base runs/base --output quality

Agreement of a classifier trained on real images with the prompted class, gradient and high-frequency energy, what
adjectives do; FID, KID, precision, recall and coverage, probes trained on synthetic and tested on real, and a
real-or-synthetic classifier, each in features of an image encoder and of HOG (both named in the output); copies;
devices that are recognised, where the base knows words for them; blinded contact sheets. A base is written as in
``drawing.Drawer``: ``embedded+runs/distilled/adapter`` has adapters. With two bases the last is held to what a new base
must reach against the first (``acceptance``).

Pictures are kept in the output folder, so a second call goes on where the first one stopped. In the records, split
train is "training" and split val are the held-out patients; of these only patients that no base saw are taken.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import judging
import numpy as np
import torch
from acceptance import check, table
from drawing import Drawer
from judging import joined, write_sheet
from judging_encoder import EXTRACTOR, blinded, device_agreement, encode, likeness
from real_images import classes_of, organs, real_sets, seen_by, table_of

from meddap_monai import store
from meddap_monai.diffusion.generation.config import GenerateConfig
from meddap_monai.diffusion.pretraining.appearance import LOOKS, apply_look
from meddap_monai.selection.filtering.frozen_features import unit_length

ADJECTIVES, DEVICES = 500, 700
"""First numbers of the random streams of those pictures."""


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Read the command line, measure, write quality.json, acceptance.md and the contact sheets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=Path, required=True)
    parser.add_argument("--base", action="append", help="once or twice; the first is the one to be bettered")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--per-class", type=int, default=40)
    parser.add_argument("--scheduler", help="without one, steps and guidance: as `generate` draws by default")
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--half", action="store_true", help="compute in bfloat16")
    parser.add_argument("--simulated-device", default="Phantom A", help="meta.device of simulated images")
    parser.add_argument("--adjectives", action="store_true", help="also what adjectives do")
    given = parser.parse_args(arguments)
    said = {name: getattr(given, name) for name in ("scheduler", "guidance", "steps")}
    config = GenerateConfig(precision="bf16" if given.half else "fp32", **said)
    bases = given.base or ["embedded"]
    drawers = [Drawer(name, given.output / "pictures", config, given.seed) for name in bases]
    report = measure(drawers, given)
    store.write_json(given.output / "quality.json", report)
    store.write_atomic(given.output / "acceptance.md", table(report["acceptance"]))
    print_report(report)
    print(table(report["acceptance"]))
    return report


def measure(drawers: Sequence[Drawer], given: argparse.Namespace) -> dict[str, Any]:
    """Return every figure of every base, and what the last one reaches against the first."""
    bases = [drawer.base for drawer in drawers]
    side = min(base.resolution for base in bases)
    train, held, records = real_sets(given.records, bases, side, given.simulated_device)
    classes = classes_of(train, held, bases)
    report: dict[str, Any] = {
        "classes": classes,
        "side": side,
        "per_class": given.per_class,
        "threads": torch.get_num_threads(),
        "real": {"train": len(train["class"]), "held_out": len(held["class"])},
        "extractors": [EXTRACTOR, judging.EXTRACTOR],
        "bases": {},
    }
    for drawer in drawers:
        seen = seen_by(drawer.base, records, side)
        report["bases"][drawer.name] = of_base(drawer, train, held, seen, classes, given)
        drawer.close()
    figures = list(report["bases"].values())
    report["acceptance"] = check(figures[-1], figures[0] if len(figures) > 1 else None)
    return report


def of_base(
    drawer: Drawer, train: Any, held: Any, seen: Any, classes: list[str], given: argparse.Namespace
) -> dict[str, Any]:
    """Return every figure of one base."""
    side, folder = train["pixels"].shape[-1], given.output / _safe(drawer.name)

    def draw(prompt: str, count: int, stream: int) -> np.ndarray:
        return judging.to_side(drawer.pictures(prompt, count, stream), side)

    made = [
        draw(table_of(name, drawer.base).prompt(name), given.per_class, number) for number, name in enumerate(classes)
    ]
    synthetic = {"pixels": np.concatenate(made), "class": np.repeat(classes, given.per_class)}
    real = joined(held, train)
    save_sheets(folder, classes, made, train)
    blinded(folder, real, synthetic, classes)
    groups = organs(classes, drawer.base)
    found: dict[str, Any] = {"sampling": [drawer.config.schedulers, drawer.config.steps_, drawer.config.guidance_]}
    if drawer.drawn:
        found["images_per_second"] = drawer.drawn / drawer.seconds
    found["agreement"] = judging.agreement(joined(train, held), synthetic, classes)
    found["usefulness"] = judging.usefulness(train, held, synthetic, classes)
    found["usefulness by encoder"] = judging.usefulness(train, held, synthetic, classes, encode)
    found["synthetic_accuracy"] = judging.synthetic_accuracy(train, held, synthetic, classes)
    found["energy"] = judging.energy(held, train, synthetic, classes)
    found["distance"] = judging.distances(train, held, synthetic)
    found["distance by encoder"] = likeness(train, held, synthetic, groups | {"all": classes})
    found["copies"] = judging.copies(
        seen or train, held, synthetic, classes, lambda pixels: unit_length(encode(pixels))
    )
    found["real_or_synthetic_auc"] = judging.real_or_synthetic(train, held, synthetic, classes)
    found["real_or_synthetic_auc by encoder"] = judging.real_or_synthetic(train, held, synthetic, classes, encode)
    known = (drawer.base.card.get("words") or {}).get("device") or {}
    found["device agreement"] = device_agreement(
        real,
        classes,
        lambda name, device: draw(
            f"{table_of(name, drawer.base).prompt(name)} {known[device]}",
            given.per_class,
            DEVICES + 50 * classes.index(name) + sorted(known).index(device),
        ),
        known,
    )
    if given.adjectives:
        found["adjectives"] = adjectives(drawer, draw, train)
    return found


# -------------------------------------------------------------------------------------------------- words and pictures
def adjectives(drawer: Drawer, draw: Any, train: Any) -> dict[str, Any]:
    """Return mean and spread of pictures per adjective, and of real images changed the same way."""
    words = table_of("benign", drawer.base)
    real = train["pixels"][np.isin(train["class"], list(words.classes))][:48] / np.float32(255)
    found = {}
    for number, name in enumerate(["none", *sorted(set(LOOKS) & set(words.adjectives))]):
        made = draw(words.prompt(next(iter(words.classes)), name), 8, ADJECTIVES + number) / 255.0
        wanted = np.stack([apply_look(image, name) for image in real])
        found[name] = {
            "synthetic": [float(made.mean()), float(made.std((1, 2)).mean())],
            "real": [float(wanted.mean()), float(wanted.std((1, 2)).mean())],
        }
    return found


def save_sheets(folder: Path, classes: list[str], made: list[np.ndarray], train: Any) -> None:
    """Write ``base_samples.png`` and ``base_real.png``: a row per class."""
    folder.mkdir(parents=True, exist_ok=True)
    each = min(10, *(len(pixels) for pixels in made), *((train["class"] == name).sum() for name in classes))
    write_sheet(folder / "base_samples.png", [pixels[:each] for pixels in made])
    write_sheet(folder / "base_real.png", [train["pixels"][train["class"] == name][:each] for name in classes])


def _safe(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-." else "_" for letter in name).strip("_")[-80:]


def print_report(report: dict[str, Any], indent: str = "") -> None:
    """Print the figures as they stand in the file, rounded."""
    for key, value in report.items():
        if isinstance(value, dict) and key != "acceptance":
            print(f"{indent}{key}")
            print_report(value, indent + "    ")
        elif key != "acceptance":
            print(f"{indent}{key}", _rounded(value))


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return round(value, 3) if isinstance(value, float) else value


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
