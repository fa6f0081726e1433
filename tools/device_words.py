"""Does the word of a device act? Devices are told apart on real images, then asked for in synthetic ones.

    python -m tools.device_words --base runs/base3/pretrain/base --records runs/base3/corpus/records.jsonl

A classifier of devices (logistic regression on features of an encoder) learns real images. For each class that a device
was seen with, the base draws images with the device's word ("asked") and without any ("silent"): what both recognise
alike, the class has said already.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from meddap_monai.core.records import Record, read_records
from meddap_monai.core.seeds import derive_seed
from meddap_monai.diffusion.bases.base import load_base, open_base
from meddap_monai.diffusion.bases.prompt_choice import tables_for
from meddap_monai.diffusion.bases.sample_pictures import draw_pictures
from meddap_monai.diffusion.bases.words import ending
from meddap_monai.encoders.extractors import build_extractor
from meddap_monai.errors import ConfigurationError
from meddap_monai.images.framing import crop_top
from meddap_monai.images.reading.recorded import open_recorded

ENCODER = "efficientnet_lite0"
FOLDS = 5


def features(pixels: np.ndarray, encoder: str = ENCODER) -> np.ndarray:
    """Return the encoder's features (N, D) of grey pictures (N, H, W) uint8."""
    return build_extractor(encoder, 1, pixels.shape[-1]).extract(pixels[:, None])[0]


def device_agreement(
    real: np.ndarray, devices: Sequence[str], patients: Sequence[str], synthetic: Mapping[str, np.ndarray]
) -> dict[str, dict[str, float]]:
    """Return for each device the share of its real and of its synthetic images that a classifier recognises.

    A real image is asked of the classifier that has not seen its patient; one of a device that a single patient shows,
    of the one that has not seen that fifth of the device's images, which flatters it.

    Args:
        real: (N, D) features of real images.
        devices: N names.
        patients: N names.
        synthetic: device that was asked for -> (M, D) features.

    Returns:
        device -> ``real``, ``patients`` (how many show it) and, where it was asked for, ``synthetic``.
    """
    names, owners = np.asarray(devices), np.asarray(patients, dtype=object)
    shown_by = {name: len(set(owners[names == name])) for name in sorted(set(devices))}
    for name, count in shown_by.items():
        if count == 1:
            rows = np.flatnonzero(names == name)
            owners[rows] = [f"{owners[row]}/{place % FOLDS}" for place, row in enumerate(rows)]
    told = np.empty(len(names), dtype=object)
    for train, test in GroupKFold(FOLDS).split(real, names, owners):
        told[test] = _fit(real[train], names[train]).predict(real[test])
    whole = _fit(real, names)
    report: dict[str, dict[str, float]] = {}
    for name, count in shown_by.items():
        report[name] = {"real": float((told[names == name] == name).mean()), "patients": float(count)}
        if name in synthetic:
            report[name]["synthetic"] = float((whole.predict(synthetic[name]) == name).mean())
    return report


def _fit(known: np.ndarray, names: np.ndarray) -> Any:
    classifier = LogisticRegression(C=0.01, max_iter=3000, class_weight="balanced")
    return make_pipeline(StandardScaler(), classifier).fit(known, names)


def read_real(records: Sequence[Record], side: int) -> np.ndarray:
    """Return the plain crops (N, side, side) uint8 that a base of this resolution learns from."""
    return np.stack([np.asarray(crop_top(open_recorded(row).convert("L"), side, side)) for row in records])


def draw(pipeline: Any, prompt: str, count: int, side: int, seed: int) -> np.ndarray:
    """Return grey pictures (count, side, side) uint8 of one prompt by the defaults of `generate`."""
    seeds = [derive_seed(seed, "tools/device_words", prompt, number) for number in range(count)]
    parts = [
        draw_pictures(
            pipeline, [prompt] * len(seeds[start : start + 8]), seeds[start : start + 8], (side, side), 15, 2.5
        )
        for start in range(0, count, 8)
    ]
    return np.rint(np.concatenate(parts).mean(-1)).astype(np.uint8)


def measure(base: str, records: Path, count: int, seed: int = 0) -> dict[str, Any]:
    """Return `device_agreement` of a base: with each device's word, and of the same prompts with none.

    Args:
        base: see `open_base`; it has words of devices.
        records: of the corpus it was trained on; only real images with a device that it has a word for count.
        count: pictures per class and device.
        seed: of the pictures.
    """
    opened = open_base(base)
    words, side = opened.words, opened.resolution
    rows = [row for row in read_records(records, full=True) if not row["meta"].get("simulated")]
    rows = [row for row in rows if row["meta"].get("device") in words.get("device", {})]
    if not rows:
        raise ConfigurationError(f"{records}: no real image of a device that {base} has a word for; give its corpus")
    tables = tables_for(opened.card["prompts"], [row["class_name"] for row in rows])
    wordings = {name: table.prompt(name) for table in tables for name in table.classes}
    classes: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        classes[row["meta"]["device"]].add(row["class_name"])
    pipeline: Any = load_base(opened)
    asked: dict[str, list[np.ndarray]] = defaultdict(list)
    silent: dict[str, list[np.ndarray]] = defaultdict(list)
    for device, names in sorted(classes.items()):
        for name in sorted(names):
            said = wordings[name] + ending({"device": device}, words)
            asked[device].append(draw(pipeline, said, count, side, seed))
            silent[device].append(draw(pipeline, wordings[name], count, side, seed))
    real, devices = features(read_real(rows, side)), [row["meta"]["device"] for row in rows]
    patients = [row["patient"] for row in rows]
    report = {}
    for name, drawn in (("asked", asked), ("silent", silent)):
        made = {device: features(np.concatenate(parts)) for device, parts in drawn.items()}
        report[name] = device_agreement(real, devices, patients, made)
    return report


def main() -> None:
    """Print the report as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, help="folder of a base with words of devices")
    parser.add_argument("--records", type=Path, required=True, help="records of the corpus that it was trained on")
    parser.add_argument("--count", type=int, default=24, help="pictures per class and device")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(json.dumps(measure(given.base, given.records, given.count, given.seed), indent=2))


if __name__ == "__main__":
    main()
