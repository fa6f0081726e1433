"""A distilled adapter against the usual path of the same base: KID, diversity within a class, speed.

    python benchmarks/few_steps.py --records corpus/records.jsonl --base embedded --adapter runs/distilled/adapter \
        --output few

Both draw the same number of images from the same seeds, classes as often as real ones. "No worse": the 95 % bootstrap
interval of the difference of KID includes 0 or favours the adapter. Diversity: mean distance of all pairs of a class in
the encoder's features, averaged over classes, as a ratio.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from drawing import Drawer
from judging import joined, write_sheet
from judging_encoder import EXTRACTOR, encode
from kernel_distance import compare
from real_images import classes_of, real_sets, table_of
from scipy.spatial.distance import pdist, squareform

from meddap_monai import store
from meddap_monai.diffusion.generation.config import GenerateConfig

REPLICATES = 500


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Read the command line, measure, write ``few_steps.json`` and a contact sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=Path, required=True)
    parser.add_argument("--base", default="embedded")
    parser.add_argument("--adapter", required=True, help="folder, or 'distilled' for the one beside the base's weights")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    report = measure(given)
    store.write_json(given.output / "few_steps.json", report)
    print(json.dumps(report, indent=1))
    return report


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Return every figure."""
    usual = GenerateConfig(precision=given.precision, distilled=False)
    beside = given.adapter == "distilled"
    few = GenerateConfig(precision=given.precision, distilled=beside)
    drawers = {
        "usual": Drawer(given.base, given.output / "pictures", usual, given.seed),
        "distilled": Drawer(
            given.base if beside else f"{given.base}+{given.adapter}", given.output / "pictures", few, given.seed
        ),
    }
    base = drawers["usual"].base
    side = base.resolution
    train, held, _ = real_sets(given.records, [base], side)
    real, classes = joined(train, held), classes_of(train, held, [base])
    counts = {name: round(given.images * float((real["class"] == name).mean())) for name in classes}
    found: dict[str, Any] = {"real": len(real["class"]), "images": sum(counts.values()), "extractor": EXTRACTOR}
    features, within = {}, {}
    for name, drawer in drawers.items():
        made = {
            one: drawer.pictures(table_of(one, base).prompt(one), counts[one], number)
            for number, one in enumerate(classes)
        }
        vectors = {one: encode(pixels) for one, pixels in made.items()}
        features[name] = np.concatenate(list(vectors.values()))
        within[name] = vectors
        found[name] = speed(drawer)
        write_sheet(given.output / f"{name}.png", [pixels[:10] for pixels in made.values()])
        drawer.close()
    found["kid"] = compare(features, encode(real["pixels"]), "usual")
    of_real = {one: encode(real["pixels"][real["class"] == one]) for one in classes}
    found["diversity"] = diversity(within["distilled"], within["usual"], of_real)
    return found | {"threads": torch.get_num_threads()} | ratios(found)


def speed(drawer: Drawer) -> dict[str, Any]:
    """Return how a drawer drew, and how fast; 0 images where they were there already."""
    config = drawer.config
    told: dict[str, Any] = {"scheduler": config.scheduler, "steps": config.steps, "guidance": config.guidance}
    told |= {"drawn": drawer.drawn}
    if drawer.drawn:
        told["images_per_second"] = drawer.drawn / drawer.seconds
        told["processor_seconds_per_image"] = drawer.processor / drawer.drawn
    return told


def ratios(found: dict[str, Any]) -> dict[str, float]:
    """Return how many times less processor time an image of the distilled path needs."""
    keys = [found[name].get("processor_seconds_per_image") for name in ("usual", "distilled")]
    return {"processor_time_ratio": keys[0] / keys[1]} if all(keys) else {}


def diversity(ours: dict[str, np.ndarray], usual: dict[str, np.ndarray], real: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return the ratio of mean pairwise distances within a class, its bootstrap interval, and per class.

    Args:
        ours: class -> (N, D) features.
        usual: likewise.
        real: likewise.
    """
    draw = np.random.default_rng(0)
    per_class, replicates = {}, []
    for name in ours:
        distances = [pdist(vectors[name]) for vectors in (ours, usual, real)]
        means = [float(values.mean()) for values in distances]
        per_class[name] = {"ratio": means[0] / means[1], "usual over real": means[1] / means[2]}
        replicates.append(_mean_distances(ours[name], draw) / _mean_distances(usual[name], draw))
    low, high = np.quantile(np.mean(replicates, axis=0), (0.025, 0.975))
    ratio = float(np.mean([values["ratio"] for values in per_class.values()]))
    return {"ratio": ratio, "low": float(low), "high": float(high), "per_class": per_class}


def _mean_distances(vectors: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Return the bootstrap (REPLICATES,) of the mean distance of pairs; an image is never paired with itself."""
    pairs, count = squareform(pdist(vectors)), len(vectors)
    weights = draw.multinomial(count, np.full(count, 1 / count), size=REPLICATES).astype(float)
    total = weights.sum(1) ** 2 - (weights**2).sum(1)
    return np.einsum("bi,bi->b", weights @ pairs, weights) / total


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
