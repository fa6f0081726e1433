"""Time and memory of the copy check and the rules; ``selection.py speed`` runs it."""

from __future__ import annotations

import argparse
import resource
import time
from platform import python_version
from typing import Any

import numpy as np
import torch
from machine import processor_name

from meddap_monai.phantom.simulation import simulate_image
from meddap_monai.phantom.tissue import CLASSES
from meddap_monai.selection.copies.config import CopyConfig
from meddap_monai.selection.copies.detection import Images, Nearest, calibrate, find_nearest, flag
from meddap_monai.selection.filtering.crossfit import FilterPredictions
from meddap_monai.selection.filtering.rules import RULES, Evidence, RuleConfig
from tests.selection.copying import KINDS, plant, thumbnail

PLANTED = 500
"""Of the synthetic images, edited copies of real ones, every kind in turn."""


def speed(options: argparse.Namespace) -> dict[str, Any]:
    """Time calibration, copy check and rules for `count` real and `count` synthetic images, arrays in memory."""
    count, rng = options.count, np.random.default_rng(0)
    base = np.stack([thumbnail(simulate_image(CLASSES[n % 3], n, size=(64, 64))) for n in range(500)])
    base = base.astype(np.float16)
    shift = rng.integers(-20, 21, (2, count))

    def spread(rows: np.ndarray, moves: np.ndarray) -> np.ndarray:
        return np.stack([np.roll(base[row], move, axis=(0, 1)) for row, move in zip(rows, moves, strict=True)])

    real = spread(rng.integers(500, size=count), np.stack([shift[0], shift[1]], axis=1))
    own = spread(rng.integers(500, size=count), np.stack([shift[1], shift[0]], axis=1))
    planted = np.arange(min(PLANTED, count)) * (count // min(PLANTED, count))
    for number, row in enumerate(planted):
        pixels = (real[row].astype(np.float32) * 255).astype(np.uint8)
        own[row] = thumbnail(plant(pixels, KINDS[number % len(KINDS)], rng))
    features = rng.standard_normal((2, count, 320), dtype=np.float32)
    features /= np.linalg.norm(features, axis=-1, keepdims=True)
    known = Images(real, features[0], [f"p{n}" for n in range(count)])
    asked = Images(own, features[1], [""] * count)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    clock = [(time.perf_counter(), time.process_time())]
    thresholds = calibrate(known, CopyConfig())
    clock.append((time.perf_counter(), time.process_time()))
    nearest = find_nearest(asked, known, CopyConfig())
    clock.append((time.perf_counter(), time.process_time()))
    evidence = _invented_evidence(count, rng)
    clock.append((time.perf_counter(), time.process_time()))
    for rule in RULES.values():
        rule(evidence, RuleConfig())
    clock.append((time.perf_counter(), time.process_time()))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, cpu = np.diff(np.array(clock), axis=0).T
    parts = {"calibration": 0, "copy check": 1, "all rules": 3}
    found: dict[str, Any] = {f"{name}, s": f"{wall[n]:.1f} wall, {cpu[n]:.1f} processor" for name, n in parts.items()}
    total = [sum(kind[n] for n in parts.values()) for kind in (wall, cpu)]
    found |= {
        "images": f"{count} synthetic against {count} real",
        "together, s": f"{total[0]:.1f} wall, {total[1]:.1f} processor",
        "peak memory, MB": f"{peak / 1024:.0f} (before: {before / 1024:.0f})",
        "planted copies that come as near as in an exhaustive search": _as_near(asked, known, nearest, planted),
        "flagged": int(flag(nearest.distances, thresholds.values).sum()),
    }
    print(f"{processor_name()}, {options.threads} thread(s), torch {torch.__version__}, Python {python_version()}")
    print("\n| work | value |\n| --- | --- |")
    print("\n".join(f"| {name} | {value} |" for name, value in found.items()))
    return found


def _as_near(asked: Images, known: Images, nearest: Nearest, planted: np.ndarray) -> str:
    """Return how many planted copies lose nothing by inverted lists."""
    index = known.pictures.index
    if hasattr(index, "nprobe"):
        index.nprobe = index.nlist
    copies = Images(asked.thumbnails[planted], None, [""] * len(planted))
    whole = find_nearest(copies, known, CopyConfig(distances=("correlation",)))
    equal = nearest.distances["correlation"][planted] <= whole.distances["correlation"] + 1e-5
    return f"{int(equal.sum())} of {len(planted)}"


def _invented_evidence(count: int, rng: np.random.Generator) -> Evidence:
    def predicted(truth: np.ndarray) -> FilterPredictions:
        features = (np.eye(64)[truth] + 0.3 * rng.standard_normal((5, len(truth), 64))).astype(np.float32)
        features /= np.linalg.norm(features, axis=-1, keepdims=True)
        logits = 3 * np.eye(3)[truth] + rng.standard_normal((5, 2, len(truth), 3))
        return FilterPredictions(logits.astype(np.float32), features)

    labels = np.arange(count) % 3
    one, two = predicted(labels), predicted(labels)
    return Evidence(labels, one, one.features, labels, two, two.features, np.arange(count) // 3 % 5, 1.0)
