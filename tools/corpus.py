"""An embedded base again, from folders, by one command: gather pictures, then pre-train.

    python -m tools.corpus --busbra FOLDER --fetal FOLDER --output runs/base
    python -m tools.corpus --busbra ... --fetal ... --fetal-head ... --muscle ... --lung ... --config configs/base3.yaml
    python -m tools.corpus ... --sharpen embedded      # only train the decoder of that base on
    torchrun --nproc-per-node 2 -m tools.corpus ...    # two processes divide the UNet's batches

The folders hold an ``index.csv`` each, see `SOURCES`. A fifth of the patients of each is held out as split val and
never trained on. Simulated images give the class ``normal``: BUS-BRA has no such image and no boxes, and what lies
beside the lesions that `lesion_boxes` finds is deep tissue and shadow, which would make ``normal`` a word for depth.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from PIL import Image

from meddap_monai import store
from meddap_monai.core import resources
from meddap_monai.core.configuration import build
from meddap_monai.core.constraints import Range, settings
from meddap_monai.core.distributed import launched
from meddap_monai.core.ids import read_yaml
from meddap_monai.core.records import Record, pixel_hash, read_records, write_records
from meddap_monai.core.seeds import derive_seed
from meddap_monai.diffusion.bases.base import Base, load_base, open_base
from meddap_monai.diffusion.pretraining.export import export_base
from meddap_monai.errors import ConfigurationError
from meddap_monai.images.indexing.config import IndexConfig
from meddap_monai.images.indexing.stage import index
from meddap_monai.images.reading.recorded import open_recorded
from meddap_monai.phantom.scanner import SCANNERS
from meddap_monai.phantom.simulation import simulate_image
from tools.corpus_sources import SIMULATED_LINE, SOURCES, Source
from tools.lesion_boxes import lesion_box

if TYPE_CHECKING:
    from meddap_monai.diffusion.pretraining.config import PretrainConfig

SIMULATED = ("benign", "malignant", "normal")


@dataclass(frozen=True)
@settings("corpus")
class CorpusConfig:
    """Where the pictures of a base come from.

    Attributes:
        folders: name of `SOURCES` -> folder with an ``index.csv``.
        simulated: simulated images per class, scanner "own".
        first_seed: of the simulated images; far from the demo's, so that no demo image is a training image.
        held_out: share of the patients that becomes split val.
        seed: of the split.
        split_of: a base whose split is kept: of a folder of which it has seen something, the patients it has seen train
            and the rest is held out, so that both bases are judged on the same patients; empty: none.
        workers: reading processes, see `IndexConfig`.
    """

    folders: dict[str, Path]
    simulated: Annotated[int, Range(0, 1_000_000)] = 48
    first_seed: int = 7_000_000
    held_out: Annotated[float, Range(0.0, 0.9)] = 0.2
    seed: int = 0
    split_of: str = ""
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
    seen = open_base(config.split_of).train_hashes if config.split_of else frozenset()
    with store.open_stage(output, "index", config, overwrite=overwrite) as stage:
        if stage.done:
            return output / "records.jsonl"
        shares = {"train": 1.0 - config.held_out, "val": config.held_out}
        records: list[Record] = []
        for name, folder in config.folders.items():
            part = read_records(_index(config, name, folder, output, shares), full=True)
            found = [record | {"patient": f"{name}-{record['patient']}"} for record in part]
            if known := {record["patient"] for record in found if record["sha256"] in seen}:
                found = [record | {"split": "train" if record["patient"] in known else "val"} for record in found]
            elif SOURCES[name].few_patients:
                found = _hold_out(found, config)
            records += [_with_facts(record, SOURCES[name]) for record in found]
        records += _simulate(config, output / "simulated")
        classes = sorted({record["class_name"] for record in records})
        rows = [record | {"label": classes.index(record["class_name"])} for record in records]
        write_records(output / "records.jsonl", rows)
        stage.finish({"in": len(rows), "out": len(rows), "rejected": 0}, classes=classes)
    return output / "records.jsonl"


def _index(config: CorpusConfig, name: str, folder: Path, output: Path, shares: Mapping[str, float]) -> Path:
    source, table = SOURCES[name], output / "parts" / f"{name}.csv"
    head, *rows = (
        cells for _, cells in store.read_csv(folder / "index.csv", ConfigurationError, "give another folder")
    )
    if source.devices:
        place = head.index("device")
        rows = [[*row[:place], source.devices[row[place]], *row[place + 1 :]] for row in rows]
    with store.atomic_path(table) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        store.write_rows(stream, head, rows)
    settings = IndexConfig(
        source=folder,
        labels="csv",
        table=table.resolve(),
        where=source.where,
        classes=source.classes,
        device_column="device" if source.devices else None,
        columns=source.columns,
        fractions=shares,
        split="train" if source.few_patients else "",
        seed=config.seed,
        workers=config.workers,
    )
    return index(settings, output / "parts" / name)


def _hold_out(records: list[Record], config: CorpusConfig) -> list[Record]:
    """Hold patients out of each class on each device; one who alone shows it stays, or nobody would have shown it."""
    patients: dict[tuple[str, str], set[str]] = {}
    for record in records:
        patients.setdefault(_shows(record), set()).add(record["patient"])
    held: set[str] = set()
    for _, own in sorted(patients.items()):
        order = sorted(own, key=lambda name: derive_seed(config.seed, "corpus/held_out", name))
        held |= set(order[: int(config.held_out * len(own) + 0.5)])
    return [record | {"split": "val" if record["patient"] in held else "train"} for record in records]


def _shows(record: Record) -> tuple[str, str]:
    return record["class_name"], str((record.get("meta") or {}).get("device", ""))


def _with_facts(record: Record, source: Source) -> Record:
    """Return a record whose ``meta`` says all that is known of its picture."""
    meta = {**(record.get("meta") or {}), **source.facts}
    if source.lesions:
        box = lesion_box(np.asarray(open_recorded(record).convert("L")))
        meta["lesion_box"] = [round(float(edge), 1) for edge in box]
    return record | {"meta": meta}


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
    for name in SOURCES:
        option, needed = f"--{name.replace('_', '-')}", name in ("busbra", "fetal")
        parser.add_argument(option, type=Path, required=needed, help="folder of these images with index.csv")
    parser.add_argument("--output", type=Path, default=Path("runs/base"))
    parser.add_argument("--config", type=Path, help="with another `pretrain` section than configs/base.yaml")
    parser.add_argument("--sharpen", metavar="BASE", help="only train this base's decoder on")
    parser.add_argument("--split-of", metavar="BASE", default="", help="hold out the patients that this base did")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    given = parser.parse_args()
    folders = {name: getattr(given, name) for name in SOURCES if getattr(given, name)}
    records = given.output / "corpus" / "records.jsonl"
    first = launched().rank == 0
    if first:  # the others wait in `pretrain` until the first one has opened its folder
        gather(CorpusConfig(folders, split_of=given.split_of), records.parent)
    settings = read_yaml(given.config or resources.find("configs/base.yaml"))["pretrain"]
    lines = (*(SOURCES[name].line for name in folders), SIMULATED_LINE)
    config = build(PretrainConfig, {"sources": lines} | settings | {"device": given.device}, "pretrain")
    if given.sharpen:
        if first:  # the decoder is one process's work
            print(sharpen(config, given.sharpen, given.output / "sharpen", records=records))
    else:
        print(pretrain(config, given.output / "pretrain", records=records))


if __name__ == "__main__":
    main()
