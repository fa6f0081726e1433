"""The embedded base again, from folders, by one command: gather pictures, then pre-train with ``configs/base.yaml``.

    python -m tools.corpus --busbra FOLDER --fetal FOLDER --output runs/base
    python -m tools.corpus ... --sharpen embedded      # only train the decoder of that base on
    torchrun --nproc-per-node 2 -m tools.corpus ...    # two processes divide the UNet's batches

The folders hold an ``index.csv`` each: BUS-BRA (rows of role ``pretrain`` are taken) and the Spanish fetal planes. A
fifth of the patients is held out as split val and never trained on. Simulated images give the class ``normal``.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from PIL import Image

from meddap_monai import store
from meddap_monai.core import resources
from meddap_monai.core.configuration import build
from meddap_monai.core.constraints import Range, settings
from meddap_monai.core.distributed import launched
from meddap_monai.core.ids import read_yaml
from meddap_monai.core.records import Record, pixel_hash, read_records, write_records
from meddap_monai.diffusion.bases.base import Base, load_base, open_base
from meddap_monai.diffusion.pretraining.export import export_base
from meddap_monai.errors import ConfigurationError
from meddap_monai.images.indexing.config import IndexConfig
from meddap_monai.images.indexing.stage import index
from meddap_monai.phantom.scanner import SCANNERS
from meddap_monai.phantom.simulation import simulate_image

if TYPE_CHECKING:
    from meddap_monai.diffusion.pretraining.config import PretrainConfig

SIMULATED = ("benign", "malignant", "normal")
SOURCES = (
    "BUS-BRA, GE Logiq 5 part, rows of role `pretrain`: 312 of 390 images, the rest held out by patient. W. "
    "Gomez-Flores, M. J. Gregorio-Calas, W. C. de Albuquerque Pereira, BUS-BRA: A Breast Ultrasound Dataset "
    "for Assessing Computer-aided Diagnosis Systems, Medical Physics, 2023. Used, modified and distributed "
    "under its licence; the notice stands in LICENSE-BUS-BRA.txt.",
    "Fetal Planes DB, the FU-LoRA fine-tuning subset: 80 of 100 images, the rest held out by patient. X. P. "
    "Burgos-Artizzu et al., Evaluation of deep convolutional neural networks for automatic classification "
    "of common maternal fetal ultrasound planes, Scientific Reports 10, 2020. CC BY 4.0; images were "
    "cropped, resized, mirrored and changed in brightness, contrast and shape.",
    "Simulated breast ultrasound of this package (`meddap_monai.phantom`, scanner `own` only): 114 of 144 "
    "images, the only source of the class `normal`.",
)
"""What the card of a base from these folders says of its data."""


@dataclass(frozen=True)
@settings("corpus")
class CorpusConfig:
    """Where the pictures of a base come from.

    Attributes:
        folders: name -> folder with an ``index.csv``.
        where: name -> columns and the values that rows must have.
        simulated: simulated images per class, scanner "own".
        first_seed: of the simulated images; far from the demo's, so that no demo image is a training image.
        held_out: share of the patients that becomes split val.
        seed: of the split.
        workers: reading processes, see `IndexConfig`.
    """

    folders: dict[str, Path]
    where: dict[str, dict[str, str]]
    simulated: Annotated[int, Range(0, 1_000_000)] = 48
    first_seed: int = 7_000_000
    held_out: Annotated[float, Range(0.0, 0.9)] = 0.2
    seed: int = 0
    workers: int = 1


def gather(config: CorpusConfig, output: Path, overwrite: bool = False) -> Path:
    """Index every folder, add simulated images, and write one records file.

    Args:
        config: see `CorpusConfig`.
        output: stage folder; the parts lie in ``output/parts``.
        overwrite: replace a folder of another configuration.

    Returns:
        ``output/records.jsonl``.
    """
    output = Path(output)
    with store.open_stage(output, "index", config, overwrite=overwrite) as stage:
        if stage.done:
            return output / "records.jsonl"
        shares = {"train": 1.0 - config.held_out, "val": config.held_out}
        records: list[Record] = []
        for name, folder in config.folders.items():
            part = read_records(_index(config, name, folder, output, shares), full=True)
            records += [record | {"patient": f"{name}-{record['patient']}"} for record in part]
        records += _simulate(config, output / "simulated")
        classes = sorted({record["class_name"] for record in records})
        rows = [record | {"label": classes.index(record["class_name"])} for record in records]
        write_records(output / "records.jsonl", rows)
        stage.finish({"in": len(rows), "out": len(rows), "rejected": 0}, classes=classes)
    return output / "records.jsonl"


def _index(config: CorpusConfig, name: str, folder: Path, output: Path, shares: Mapping[str, float]) -> Path:
    settings = IndexConfig(
        source=folder,
        labels="csv",
        where=config.where.get(name, {}),
        fractions=shares,
        seed=config.seed,
        workers=config.workers,
    )
    return index(settings, output / "parts" / name)


def _simulate(config: CorpusConfig, folder: Path) -> list[Record]:
    folder.mkdir(parents=True, exist_ok=True)
    held = round(config.simulated * config.held_out)
    records = []
    for number in range(config.simulated):
        for name in SIMULATED:
            pixels = simulate_image(name, config.first_seed + number, "own")
            path = folder / f"{name}-{number:03d}.png"
            with store.atomic_path(path) as temporary:
                Image.fromarray(pixels).save(temporary, format="PNG")
            records.append(
                {
                    "id": f"simulated-{path.stem}",
                    "image": str(path.resolve()),
                    "label": SIMULATED.index(name),
                    "class_name": name,
                    "patient": f"simulated-{path.stem}",
                    "split": "train" if number < config.simulated - held else "val",
                    "source": "real",
                    "sha256": pixel_hash(pixels),
                    "meta": {"device": SCANNERS["own"].model, "simulated": True},
                }
            )
    return records


def sharpen(
    config: PretrainConfig, base: str | Path | Base, output: Path, *, records: Path, overwrite: bool = False
) -> Path:
    """Train the decoder of a base on (`refinement`, then its corner); everything else of it stays as it is.

    Args:
        config: of pre-training, of which ``refinement``, ``autoencoder#corner_steps`` and ``views`` count; resolution,
            prompts and the shape of the latents must be the base's.
        base: "embedded" or a folder.
        output: stage folder.
        records: records file. What the base has seen counts as split train, other real images as val.
        overwrite: replace a folder of another configuration.

    Returns:
        ``output/base``.

    Raises:
        ConfigurationError: the configuration describes another base.
    """
    from meddap_monai.diffusion.pretraining.job import PretrainJob

    output, base = Path(output), open_base(base)
    inputs = {"records": store.sha256_file(records), "base": base.sha256}
    with store.open_stage(output, "pretrain", config, inputs, overwrite) as stage:
        if stage.done:
            return output / "base"
        rows, seen = read_records(records, full=True), base.train_hashes
        known = [row if row["meta"].get("simulated") else _as_seen(row, seen) for row in rows]
        write_records(output / "records.jsonl", known)
        pipeline: Any = load_base(base)
        _check_same(config, base, pipeline)
        job = PretrainJob(config, output, output / "records.jsonl")
        for part in ("tokenizer", "text_encoder", "vae", "unet", "scheduler"):
            setattr(job, part, getattr(pipeline, part))
        job.pca = None
        with job.interrupt:
            job.finish_decoder()
        folder = export_base(job, sharpened=base)
        stage.finish({"in": len(rows), "out": len(job.training), "rejected": 0})
    return folder


def _check_same(config: PretrainConfig, base: Base, pipeline: Any) -> None:
    """Raise `ConfigurationError` unless a configuration fits a base that `pretrain` made."""
    card, shape = base.card, pipeline.vae.config
    latents = (config.resolution // config.autoencoder.factor, config.autoencoder.latents)
    wanted = {"resolution": config.resolution, "prompts": list(config.prompts), "side and number of latents": latents}
    found = {
        "resolution": card.get("resolution"),
        "prompts": card.get("prompts"),
        "side and number of latents": (pipeline.unet.config.sample_size, shape.latent_channels),
    }
    for name, value in wanted.items():
        if found[name] != value:
            raise ConfigurationError(
                f"{base.name}: its {name}: {found[name]}, the configuration's: {value}; expected the configuration "
                "that the base was made with (it stands in base.json)"
            )


def _as_seen(row: Record, seen: frozenset[str]) -> Record:
    return row | {"split": "train" if row["sha256"] in seen else "val"}


def main() -> None:
    """Gather and pre-train; a second call goes on where the first one stopped."""
    from meddap_monai.diffusion.pretraining.config import PretrainConfig
    from meddap_monai.diffusion.pretraining.stage import pretrain

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--busbra", type=Path, required=True, help="folder of the BUS-BRA images with index.csv")
    parser.add_argument("--fetal", type=Path, required=True, help="folder of the fetal planes with index.csv")
    parser.add_argument("--output", type=Path, default=Path("runs/base"))
    parser.add_argument("--config", type=Path, help="with another `pretrain` section than configs/base.yaml")
    parser.add_argument("--sharpen", metavar="BASE", help="only train this base's decoder on")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    given = parser.parse_args()
    folders = {"busbra": given.busbra, "fetal": given.fetal}
    records = given.output / "corpus" / "records.jsonl"
    first = launched().rank == 0
    if first:  # the others wait in `pretrain` until the first one has opened its folder
        gather(CorpusConfig(folders, {"busbra": {"role": "pretrain"}}), records.parent)
    settings = read_yaml(given.config or resources.find("configs/base.yaml"))["pretrain"]
    config = build(PretrainConfig, {"sources": SOURCES} | settings | {"device": given.device}, "pretrain")
    if given.sharpen:
        if first:  # the decoder is one process's work
            print(sharpen(config, given.sharpen, given.output / "sharpen", records=records))
    else:
        print(pretrain(config, given.output / "pretrain", records=records))


if __name__ == "__main__":
    main()
