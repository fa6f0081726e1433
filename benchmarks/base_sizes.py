"""Small bases of several sizes, trained for equal work and judged alike: picture side, factor, latent channels.

Each base has the same text encoder and widths of the UNet, `--unet-steps` steps of 16 at 16 x 16 latents (more steps of
fewer latents, for equal work) and `--decoder-steps` steps of equally many pixels. Agreement and usefulness are judged
by HOG at 64 px, which treats every size alike. Energies are synthetic over real, once at the base's own side and once
at 128 px, synthetic images enlarged, against real images of that size.

    python benchmarks/base_sizes.py --busbra FOLDER --fetal FOLDER --output runs/sizes

A second call goes on where the first one stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from drawing import Drawer
from judging import agreement, distances, energy, joined, usefulness, write_sheet
from PIL import Image
from real_images import real_sets, table_of

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from meddap_monai import store
from meddap_monai.core import resources
from meddap_monai.core.configuration import build
from meddap_monai.diffusion.generation.config import GenerateConfig
from meddap_monai.diffusion.pretraining.config import PretrainConfig
from meddap_monai.diffusion.pretraining.stage import pretrain
from meddap_monai.phantom.scanner import SCANNERS
from tools.corpus import CorpusConfig, gather

SIZES = {
    "128 px, factor 8, 16 channels": {"resolution": 128, "channels": [16, 32, 64, 64], "latents": 16},
    "128 px, factor 8, 8 channels": {"resolution": 128, "channels": [16, 32, 64, 64], "latents": 8},
    "64 px, factor 4, 4 channels": {"resolution": 64, "channels": [16, 64, 64], "latents": 4},
    "96 px, factor 8, 16 channels": {"resolution": 96, "channels": [16, 32, 64, 64], "latents": 16},
}
SHOWN = 128
"""Side in pixels at which all are compared."""


def main() -> None:
    """Read the command line, train and judge every size, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--busbra", type=Path, required=True, help="folder of the BUS-BRA images with index.csv")
    parser.add_argument("--fetal", type=Path, required=True, help="folder of the fetal planes with index.csv")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--unet-steps", type=int, default=1500)
    parser.add_argument("--decoder-steps", type=int, default=600)
    parser.add_argument("--per-class", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    folders = {"busbra": given.busbra, "fetal": given.fetal}
    records = gather(CorpusConfig(folders, {"busbra": {"role": "pretrain"}}), given.output / "corpus")
    report = {name: judge_size(size, records, given) for name, size in SIZES.items()}
    store.write_json(given.output / "sizes.json", report)
    print_table(report)


def judge_size(size: dict[str, Any], records: Path, given: Namespace) -> dict[str, Any]:
    """Train one size and return its figures, from disk when they are there already."""
    config = configuration(size, given)
    output = given.output / f"{size['resolution']}_{config.autoencoder.factor}_{size['latents']}"
    if (output / "figures.json").is_file():
        return json.loads((output / "figures.json").read_text())
    begun = time.process_time()
    base = pretrain(config, output / "pretrain", records=records)
    figures = {"cpu_minutes": (time.process_time() - begun) / 60} | judge(base, config, records, output, given)
    store.write_json(output / "figures.json", figures)
    return figures


def configuration(size: dict[str, Any], given: Namespace) -> PretrainConfig:
    """Return the embedded base's configuration in another size, with as much work in all sizes."""
    settings = yaml.safe_load(resources.find("configs/base.yaml").read_text())["pretrain"]
    factor = 2 ** (len(size["channels"]) - 1)
    area = (size["resolution"] // factor) ** 2
    settings["autoencoder"] |= {"channels": size["channels"], "latents": size["latents"], "corner_steps": 0}
    settings["autoencoder"] |= {"steps": given.decoder_steps}
    settings["unet"] |= {"steps": given.unet_steps * 16**2 // area, "changed_share": 0.0}
    settings["views"] |= {"changed": 0}
    settings |= {"resolution": size["resolution"], "refinement": {}, "seed": given.seed}
    return build(PretrainConfig, settings, "pretrain")


def judge(base: Path, config: PretrainConfig, records: Path, output: Path, given: Namespace) -> dict[str, Any]:
    """Return a base's figures."""
    drawer = Drawer(str(base), output / "pictures", GenerateConfig(precision="bf16"), given.seed)
    train, held, _ = real_sets(records, [drawer.base], config.resolution, SCANNERS["own"].model)
    classes = sorted(str(name) for name in set(train["class"]))
    made = [
        drawer.pictures(table_of(name, drawer.base).prompt(name), given.per_class, number)
        for number, name in enumerate(classes)
    ]
    drawer.close()
    synthetic = {"pixels": np.concatenate(made), "class": np.repeat(classes, given.per_class)}
    write_sheet(output / "samples.png", (_resized(part[:8]) for part in made))
    whole_train, whole_held, _ = real_sets(records, [drawer.base], SHOWN, SCANNERS["own"].model)
    shown = synthetic | {"pixels": _resized(synthetic["pixels"])}
    return {
        "agreement": agreement(joined(train, held), synthetic, classes)["balanced"],
        "usefulness": usefulness(train, held, synthetic, classes),
        "distance": distances(train, held, synthetic),
        "energy": energy(held, train, synthetic, classes),
        "energy_shown": energy(whole_held, whole_train, shown, classes),
    }


def _resized(pixels: np.ndarray) -> np.ndarray:
    return np.stack([np.asarray(Image.fromarray(p).resize((SHOWN, SHOWN), Image.Resampling.BICUBIC)) for p in pixels])


def print_table(report: dict[str, Any]) -> None:
    """Print a row per size as Markdown; energies are means over the classes."""
    heads = ["size", "CPU min", "agreement", "trained on it: all", "benign/malignant", "FID"]
    heads += ["gradient", "at 128 px", "high frequency", "at 128 px"]
    print(f"| {' | '.join(heads)} |\n|{' --- |' * len(heads)}")
    for name, found in report.items():
        scores = [found["agreement"]["synthetic"]]
        scores += [found["usefulness"][task]["synthetic"] for task in ("all", "benign or malignant")]
        scores.append(found["distance"]["synthetic"]["fid"])
        for kind in ("horizontal gradient", "high frequency"):
            scores += [np.mean([row[kind] for row in found[at].values()]) for at in ("energy", "energy_shown")]
        print(f"| {name} | {found['cpu_minutes']:.0f} | {' | '.join(f'{score:.2f}' for score in scores)} |")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
