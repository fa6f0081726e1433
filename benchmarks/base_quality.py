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
from PIL import Image
from skimage.feature import hog
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from meddap_monai import store
from meddap_monai.diffusion.base import base_card, load_base
from meddap_monai.diffusion.image_sampler import ImageSampler
from meddap_monai.diffusion.looks import LOOKS, apply_look
from meddap_monai.diffusion.pictures import draw_pictures
from meddap_monai.diffusion.prompts import PromptTable, load_prompt_table
from meddap_monai.diffusion.views import square
from meddap_monai.evaluation.generative import frechet_distance, kernel_distance
from meddap_monai.evaluation.intervals import wilson
from meddap_monai.records import Record, read_records
from meddap_monai.selection.copies import CopyConfig, Images, calibrate, find_nearest, flag
from meddap_monai.selection.pixels import to_thumbnails

EXTRACTOR = "HOG, 64 px, 8 px cells, 9 orientations, 2 x 2 blocks (1764 numbers), 64 principal components of real train"


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
    card = base_card(given.base)
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
    report["agreement"] = agreement(train, held, synthetic, classes)
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

    def load(split: str) -> dict[str, Any]:
        rows: list[Record] = [r for r in records if r["split"] == split]
        pixels = []
        for row in rows:
            with Image.open(row["image"]) as image:
                pixels.append(square(image, side))
        return {
            "pixels": np.stack(pixels),
            "class": np.array([r["class_name"] for r in rows]),
            "group": np.array([r["patient"] for r in rows]),
        }

    return load("train"), load("val")


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


def features(pixels: np.ndarray) -> np.ndarray:
    """Return HOG features (N, 1764) of pictures."""
    small = [np.asarray(Image.fromarray(p).resize((64, 64), Image.Resampling.BILINEAR)) / 255.0 for p in pixels]
    return np.stack([hog(p, orientations=9, pixels_per_cell=(8, 8), cells_per_block=(2, 2)) for p in small])


def classifier() -> Any:
    """Return HOG's companion: standardised logistic regression, classes weighed equally."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000, class_weight="balanced"))


def with_flips(pixels: np.ndarray) -> np.ndarray:
    """Return pictures and their mirror images."""
    return np.concatenate([pixels, pixels[:, :, ::-1]])


def agreement(train: Any, held: Any, synthetic: Any, classes: list[str]) -> dict[str, Any]:
    """Return, per class, how often a classifier of real training images says the (prompted) class."""
    model = classifier().fit(features(with_flips(train["pixels"])), np.tile(train["class"], 2))
    says = {
        "held_out": model.predict(features(held["pixels"])),
        "synthetic": model.predict(features(synthetic["pixels"])),
    }
    found = {}
    for name in classes:
        real = float((says["held_out"][held["class"] == name] == name).mean())
        made = float((says["synthetic"][synthetic["class"] == name] == name).mean())
        found[name] = {"real": real, "synthetic": made, "count": int((held["class"] == name).sum())}
    means = {key: float(np.mean([found[name][key] for name in classes])) for key in ("real", "synthetic")}
    return {"per_class": found, "balanced": means}


def usefulness(train: Any, held: Any, synthetic: Any, classes: list[str]) -> dict[str, Any]:
    """Return balanced accuracy on held-out real images: trained on real, and on synthetic only."""
    found = {}
    for task, names in {"all": classes, "benign or malignant": ["benign", "malignant"]}.items():
        if not set(names) <= set(classes):
            continue
        keep = np.isin(held["class"], names)
        scores = {}
        for source, data in {"real": train, "synthetic": synthetic}.items():
            mine = np.isin(data["class"], names)
            model = classifier().fit(features(with_flips(data["pixels"][mine])), np.tile(data["class"][mine], 2))
            said = model.predict(features(held["pixels"][keep]))
            scores[source] = float(balanced_accuracy_score(held["class"][keep], said))
        found[task] = scores | {"difference": scores["synthetic"] - scores["real"]}
    return found


def synthetic_accuracy(train: Any, held: Any, synthetic: Any, classes: list[str]) -> dict[str, Any]:
    """Return balanced accuracy of classifiers trained on real training images, on synthetic and on held-out real ones.

    A generator's figure: near 1, pictures are as their prompts say; above the real one, they are easier than reality.
    """
    found = {}
    for task, names in {"all": classes, "benign or malignant": ["benign", "malignant"]}.items():
        if not set(names) <= set(classes):
            continue
        mine = np.isin(train["class"], names)
        model = classifier().fit(features(with_flips(train["pixels"][mine])), np.tile(train["class"][mine], 2))
        found[task] = {}
        for source, data in {"synthetic": synthetic, "real held out": held}.items():
            keep = np.isin(data["class"], names)
            said = model.predict(features(data["pixels"][keep]))
            found[task][source] = float(balanced_accuracy_score(data["class"][keep], said))
    return found


def energy(held: Any, train: Any, synthetic: Any, classes: list[str]) -> dict[str, Any]:
    """Return, per class, synthetic over real: gradient energy, high-frequency energy, mean and spread."""
    real = {key: np.concatenate([held[key], train[key]]) for key in ("pixels", "class")}
    found = {}
    for name in classes:
        ours, theirs = (_energies(data["pixels"][data["class"] == name]) for data in (synthetic, real))
        found[name] = {key: ours[key] / theirs[key] for key in ours}
    return found


def _energies(pixels: np.ndarray) -> dict[str, float]:
    image = pixels.astype(np.float64) / 255
    spectrum = np.abs(np.fft.fft2(image - image.mean((1, 2), keepdims=True))) ** 2
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(image.shape[1]), np.fft.fftfreq(image.shape[2]), indexing="ij"))
    return {
        "horizontal gradient": float(np.abs(np.diff(image, axis=2)).mean()),
        "vertical gradient": float(np.abs(np.diff(image, axis=1)).mean()),
        "high frequency": float(spectrum[:, frequency > 0.25].mean()),
        "mean": float(image.mean()),
        "spread": float(image.std((1, 2)).mean()),
    }


def distances(train: Any, held: Any, synthetic: Any) -> dict[str, Any]:
    """Return FID and KID to held-out real images, beside those of real training images."""
    raw = features(train["pixels"])
    mean = raw.mean(0)
    basis = np.linalg.svd(raw - mean, full_matrices=False)[2][:64].T
    reference = (features(held["pixels"]) - mean) @ basis
    balanced = _like(train, held)
    sets = {"real train": (raw[balanced] - mean) @ basis}
    share = _like(synthetic, held)
    sets["synthetic"] = (features(synthetic["pixels"][share]) - mean) @ basis
    return {
        name: {"fid": float(frechet_distance(value, reference)), "kid": float(kernel_distance(value, reference))}
        for name, value in sets.items()
    }


def _like(data: Any, held: Any) -> np.ndarray:
    """Return indices that repeat `data`'s classes in the held-out proportions."""
    chosen = []
    names, counts = np.unique(held["class"], return_counts=True)
    available = {name: np.flatnonzero(data["class"] == name) for name in names}
    factor = min(len(available[name]) / count for name, count in zip(names, counts, strict=True))
    for name, count in zip(names, counts, strict=True):
        chosen.append(available[name][: max(1, int(factor * count))])
    return np.concatenate(chosen)


def thumbnails(pixels: np.ndarray) -> np.ndarray:
    """Return unit-length 32 px thumbnails without their mean, (N, 1024)."""
    small = np.stack(
        [np.asarray(Image.fromarray(p).resize((32, 32), Image.Resampling.BOX), np.float64) for p in pixels]
    )
    flat = small.reshape(len(small), -1)
    flat -= flat.mean(1, keepdims=True)
    return flat / np.linalg.norm(flat, axis=1, keepdims=True).clip(1e-9)


def copies(train: Any, held: Any, synthetic: Any, classes: list[str]) -> dict[str, Any]:
    """Return how many pictures lie nearer to a training image than 99 % of the real images of other patients do.

    Distances, alignment (mirrored and cropped views too) and thresholds are those of the stage ``select``.
    """
    config = CopyConfig()
    bank = Images(to_thumbnails(train["pixels"][:, None]), None, [str(name) for name in train["group"]])
    limits = calibrate(bank, config)
    found: dict[str, Any] = {
        "thresholds": limits.values,
        "real train": {"flagged": limits.share, "same pictures": len(limits.same_pictures)},
    }
    sets = {"synthetic": synthetic, "real held out": held}
    sets |= {f"synthetic {name}": _only(synthetic, name) for name in classes}
    for name, data in sets.items():
        asked = Images(to_thumbnails(data["pixels"][:, None]), None, [""] * len(data["pixels"]))
        distances = find_nearest(asked, bank, config).distances
        hits, count = int(flag(distances, limits.values).sum()), len(data["pixels"])
        found[name] = {"flagged": hits, "of": count, "share": hits / count, "interval": list(wilson(hits, count))}
        for kind, values in distances.items():
            found[name][kind] = {f"p{q}": float(np.percentile(values, q)) for q in (0, 5, 50)}
    return found


def _only(data: Any, name: str) -> dict[str, Any]:
    return {key: value[data["class"] == name] for key, value in data.items()}


def real_or_synthetic(train: Any, held: Any, synthetic: Any, classes: list[str]) -> dict[str, float]:
    """Return, per class with enough images, the AUC of telling real from synthetic by HOG and by 32 px thumbnails."""
    real = {key: np.concatenate([held[key], train[key]]) for key in ("pixels", "class")}
    found = {}
    for name in classes:
        theirs, ours = (data["pixels"][data["class"] == name] for data in (real, synthetic))
        count = min(len(theirs), len(ours))
        stack = np.concatenate([theirs[:count], ours[:count]])
        labels = np.repeat([0, 1], count)
        folds = StratifiedKFold(5, shuffle=True, random_state=0)
        chance = cross_val_predict(classifier(), features(stack), labels, cv=folds, method="predict_proba")[:, 1]
        found[name] = float(roc_auc_score(labels, chance))
    return found


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
        sheet = np.concatenate([np.concatenate(list(part), axis=1) for part in parts])
        with store.atomic_path(folder / f"{name}.png") as temporary:
            Image.fromarray(sheet).save(temporary, format="PNG")


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
