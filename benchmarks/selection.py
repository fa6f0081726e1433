"""Evidence for the selection stage; every number in docs/results_selection.md comes from here.

    python benchmarks/selection.py speed [--count 10000] [--threads 1]
    python benchmarks/selection.py simulated [--train 100]
    python benchmarks/selection.py busi --data ../shared/data/busi [--draws 3]
    python benchmarks/selection.py copies --data ../shared/data/busi

Each prints one table (Markdown) and, with ``--json FILE``, writes its numbers.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from selection_speed import speed

from meddap_monai.classifier.folds import assign_folds
from meddap_monai.classifier.scoring import fit_temperature
from meddap_monai.core.records import Record, draw_split, pixel_hash
from meddap_monai.phantom.simulation import simulate_image
from meddap_monai.phantom.tissue import CLASSES
from meddap_monai.selection.copies.config import CopyConfig
from meddap_monai.selection.copies.detection import Images, calibrate, find_nearest, flag
from meddap_monai.selection.filtering.filter_config import FilterConfig
from meddap_monai.selection.filtering.fitted import fit_judge
from meddap_monai.selection.filtering.rules import RULES, Evidence, RuleConfig
from meddap_monai.selection.pixels import read_squares
from meddap_monai.statistics.shares import wilson
from tests.selection.copying import KINDS, plant, thumbnail


# ------------------------------------------------------------------------------------------------------ wrong labels
def detect(
    config: FilterConfig,
    training: Sequence[Record],
    images: np.ndarray,
    asked: np.ndarray,
    truth: np.ndarray,
    seed: int,
) -> dict[str, dict[str, float]]:
    """Give 30 % of held-out images wrong labels and return how well each rule tells them from the rest.

    Args:
        config: of the filter.
        training: M real records.
        images: (M, 1, S, S) uint8, theirs.
        asked: (N, 1, S, S) uint8, of other patients.
        truth: (N,) int, their true labels.
        seed: of folds, networks and wrong labels.
    """
    rng = np.random.default_rng(seed)
    classes = len(CLASSES)
    wrong = rng.random(len(truth)) < 0.3
    labels = np.where(wrong, (truth + rng.integers(1, classes, len(truth))) % classes, truth)
    fold = assign_folds(training, config.folds, seed)
    seeds = [1000 * seed + number for number in range(int(fold.max()) + 1)]
    judge = fit_judge(config, training, images, fold, classes, seeds)
    known, own = judge.predict(training, images), judge.predict([], asked)
    real_labels = np.array([record["label"] for record in training])
    temperature = fit_temperature(known.out_of_fold(fold).astype(np.float64), real_labels)
    evidence = Evidence(labels, own, own.features, real_labels, known, known.features, fold, temperature)
    found = {}
    for name, rule in RULES.items():
        verdict = rule.judge(evidence, RuleConfig())
        score = verdict.scores[name]
        edges = {share: np.quantile(score[~wrong], share) for share in (0.05, 0.15)}
        found[name] = {
            "auc": _auc(score, ~wrong),
            "removed at 5 % loss": float((score[wrong] < edges[0.05]).mean()),
            "removed at 15 % loss": float((score[wrong] < edges[0.15]).mean()),
            "removed by default": float((~verdict.keep[wrong]).mean()),
            "lost by default": float((~verdict.keep[~wrong]).mean()),
        }
    found["filter"] = {"out-of-fold accuracy": float((known.out_of_fold(fold).argmax(axis=1) == real_labels).mean())}
    return found


def _auc(score: np.ndarray, right: np.ndarray) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(right, score))


def report_detection(runs: list[dict[str, dict[str, float]]]) -> dict[str, Any]:
    """Print mean and standard deviation over draws."""
    table: dict[str, Any] = {}
    columns = list(runs[0]["probability"])
    print("| rule | " + " | ".join(columns) + " |\n|" + " --- |" * (len(columns) + 1))
    for name in RULES:
        row = {}
        for column in columns:
            values = [run[name][column] for run in runs]
            row[column] = [
                round(float(np.mean(values)), 3),
                round(float(np.std(values, ddof=min(1, len(values) - 1))), 3),
            ]
        table[name] = row
        print(f"| {name} | " + " | ".join(f"{mean:.3f} +- {sd:.3f}" for mean, sd in row.values()) + " |")
    accuracy = [run["filter"]["out-of-fold accuracy"] for run in runs]
    print(
        f"\nout-of-fold accuracy of the filter: {np.mean(accuracy):.3f} +- {np.std(accuracy):.3f} ({len(runs)} draws)"
    )
    return {"rules": table, "out_of_fold_accuracy": accuracy}


def simulated(options: argparse.Namespace) -> dict[str, Any]:
    """R25 on the simulated set, several draws; and R24 with its numbers."""
    runs, config = [], FilterConfig(encoder=options.encoder, mode=options.mode, resolution=options.resolution)
    for draw in range(options.draws):
        first = 100_000 * (draw + 1)
        training, images, _ = _simulated(options.train, first, config.resolution)
        _, asked, asked_truth = _simulated(200, first + 50_000, config.resolution)
        runs.append(detect(config, training, images, asked, asked_truth, draw))
    found = report_detection(runs)
    found["copies"] = _simulated_copies()
    return found


def _simulated(per_class: int, first: int, size: int) -> tuple[list[Record], np.ndarray, np.ndarray]:
    records, images = [], []
    for label, name in enumerate(CLASSES):
        for number in range(per_class):
            pixels = simulate_image(name, first + 5_000 * label + number)
            images.append(np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR))[None])
            item = f"{name}-{number}"
            records.append({"id": item, "label": label, "class_name": name, "patient": item, "source": "real"})
    return records, np.stack(images), np.array([record["label"] for record in records])


def _simulated_copies(count: int = 500, held_out: int = 1000, planted: int = 1000) -> dict[str, Any]:
    pixels = [simulate_image(CLASSES[n % 3], n) for n in range(count + held_out)]
    return copy_rates(pixels, [f"p{n}" for n in range(len(pixels))], np.arange(len(pixels)) < count, planted)


# ------------------------------------------------------------------------------------------------------------ copies
def copy_rates(pixels: list[np.ndarray], groups: list[str], training: np.ndarray, planted: int) -> dict[str, Any]:
    """Plant copies of training images; print what share is caught and how many held-out images are flagged."""
    config = CopyConfig(distances=("correlation", "tiles"))
    small = np.stack([thumbnail(one) for one in pixels])
    rows = np.flatnonzero(training)
    known = Images(small[rows], None, [groups[row] for row in rows])
    thresholds = calibrate(known, config)
    rng = np.random.default_rng(0)
    found: dict[str, Any] = {
        "training": len(rows),
        "thresholds": {name: round(value, 4) for name, value in thresholds.values.items()},
        "same pictures under two groups": len(thresholds.same_pictures),
        "real to real": _quantiles(thresholds.real_distances),
    }
    total = 0
    for kind in KINDS:
        sources = rng.choice(rows, planted // len(KINDS))
        copies = np.stack([thumbnail(plant(pixels[source], kind, rng)) for source in sources])
        nearest = find_nearest(Images(copies, None, [""] * len(copies)), known, config)
        caught = int(flag(nearest.distances, thresholds.values).sum())
        total += caught
        found[f"caught: {kind}"] = f"{caught} of {len(sources)}"
    low, high = wilson(total, planted)
    found["caught"] = f"{total} of {planted} ({total / planted:.3f}, {low:.3f} to {high:.3f})"
    others = Images(small[~training], None, [groups[row] for row in np.flatnonzero(~training)])
    nearest = find_nearest(others, known, config)
    flagged = int(flag(nearest.distances, thresholds.values).sum())
    low, high = wilson(flagged, len(others.groups))
    count = len(others.groups)
    found["held-out flagged"] = f"{flagged} of {count} ({flagged / count:.3f}, {low:.3f} to {high:.3f})"
    twins = int((nearest.distances["correlation"] < 1 - config.same_picture).sum())
    found["of these correlation above 0.95"] = twins
    found["held-out to training"] = _quantiles(nearest.distances)
    print("\n| copies | value |\n| --- | --- |\n" + "\n".join(f"| {name} | {value} |" for name, value in found.items()))
    return found


def _quantiles(distances: dict[str, np.ndarray]) -> dict[str, list[float]]:
    return {name: np.percentile(value, [1, 5, 50, 95]).round(3).tolist() for name, value in distances.items()}


# -------------------------------------------------------------------------------------------------------------- BUSI
def read_busi(data: Path) -> list[Record]:
    """Return full records of BUSI without images that stand in two classes."""
    with (data / "index.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["cross_class_duplicate"] == "0"]
    records = []
    for row in rows:
        pixels = np.asarray(Image.open(data / row["image"]).convert("L"))
        records.append(
            {"id": Path(row["image"]).stem, "image": str(data / row["image"]), "label": CLASSES.index(row["label"])}
            | {"class_name": row["label"], "patient": row["group"], "split": "train", "source": "real"}
            | {"sha256": pixel_hash(pixels)}
        )
    return records


def busi(options: argparse.Namespace) -> dict[str, Any]:
    """ROC of wrong-label detection on BUSI: 30 images per class train the filter, the rest are asked about."""
    records = read_busi(options.data)
    runs = []
    for draw in range(options.draws):
        drawn = draw_split(records, options.train, 10, draw)
        training = [record for record in drawn if record["split"] == "train"]
        asked = [record for record in drawn if record["split"] == "test"]
        config = FilterConfig(encoder=options.encoder, mode=options.mode, resolution=options.resolution)
        images, others = (read_squares(part, config.resolution) for part in (training, asked))
        runs.append(detect(config, training, images, others, np.array([record["label"] for record in asked]), draw))
    return report_detection(runs)


def copies(options: argparse.Namespace) -> dict[str, Any]:
    """Copy distances on BUSI: half of the groups as training images, planted copies, the other half held out."""
    records = read_busi(options.data)
    names = sorted({record["patient"] for record in records})
    chosen = set(np.random.default_rng(0).permutation(names)[: len(names) // 2])
    pixels = [np.asarray(Image.open(record["image"]).convert("L")) for record in records]
    training = np.array([record["patient"] in chosen for record in records])
    groups = [record["patient"] for record in records]
    whole = Images(np.stack([thumbnail(one) for one in pixels]), None, groups)
    twins = int((find_nearest(whole, whole, CopyConfig()).distances["correlation"] < 0.05).sum())
    print(f"{twins} of {len(records)} images correlate above 0.95 with an image of another group")
    return copy_rates(pixels, groups, training, 500)


def main() -> None:
    """Run one benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "simulated", "busi", "copies"])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/busi"))
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--train", type=int, default=None, help="training images per class")
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--encoder", default=FilterConfig.encoder)
    parser.add_argument("--mode", default=FilterConfig.mode)
    parser.add_argument("--resolution", type=int, default=FilterConfig.resolution)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    options.train = options.train or {"simulated": 100}.get(options.what, 30)
    torch.set_num_threads(options.threads)
    runs = {"speed": speed, "simulated": simulated, "busi": busi, "copies": copies}
    found = runs[options.what](options)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
