"""The last act of a training: choose the weights, write the adapter folder, prove that it loads and acts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from meddap_monai import store
from meddap_monai.core.records import Record
from meddap_monai.diffusion.adapters.adapter import load_adapter
from meddap_monai.diffusion.adapters.file import CARD, read_card, save_adapter
from meddap_monai.diffusion.adapting.preparation import Prepared
from meddap_monai.diffusion.adapting.trainer import AdapterTrainer
from meddap_monai.diffusion.bases.base import load_base
from meddap_monai.diffusion.bases.prompt_choice import AUTO
from meddap_monai.diffusion.bases.sample_pictures import grid, save_synthetic
from meddap_monai.images import provenance
from meddap_monai.training.handlers import Validation


def finish_adapter(
    prepared: Prepared, trainer: AdapterTrainer, validation: Validation | None, output: Path, records: Sequence[Record]
) -> dict[str, int]:
    """Write the folder of a finished training and return the counts for ``stage.json``.

    Args:
        prepared: the training's parts.
        trainer: after its run.
        validation: holds the best weights, if there was one.
        output: adapter folder.
        records: all full records, for the hashes of the training images' groups.
    """
    config = prepared.config
    best = validation if validation is not None and validation.best else None
    values = best.best if best is not None and config.keep == "best" else trainer.values()
    trainer.trainable.assign(values)
    sheet = _pictures(prepared, output)
    card = describe(prepared, trainer, best)
    result = trainer.trainable.result(values)
    place = output
    if trainer.trainable.full:
        place = output / "base"
        _write_base(prepared, place, card)
    else:
        save_adapter(output, result, card)
        _check_saved(prepared, output)
    seen = prepared.training if config.method_.drawing is None else []
    provenance.write_train_hashes(place, seen, records, prepared.base.training_images)
    store.write_atomic(place / "card.md", card_text(store_card(place, card), sheet))
    taught = len(prepared.training)
    return {
        "in": len(records),
        "out": taught,
        "rejected": 0,
        "validation": len(prepared.held_out),
        "marked": len(prepared.batches.marked),
        "steps": trainer.state.iteration,
    }


def describe(prepared: Prepared, trainer: AdapterTrainer, best: Validation | None) -> dict[str, Any]:
    """Return ``adapter.json`` without what `save_adapter` adds."""
    config, step = prepared.config, trainer.state.iteration
    sampling, drawing = config.method_.sampling, config.method_.drawing
    own: dict[str, Any] = {"sampling": store.plain(sampling)} if sampling else {}
    own |= {"drawn": len(prepared.training) * drawing[0]} if drawing else {}
    return own | {
        "method": config.method,
        "base": prepared.base.name,
        "base_sha256": prepared.base.sha256,
        "prompts": prepared.table.name if config.prompts == AUTO else config.prompts,
        "prompts_sha256": prepared.table.sha256,
        "class_prompts": prepared.class_prompts,
        "columns": list(config.columns),
        "clip_skip": config.clip_skip or 0,
        "steps": best.best_step if best is not None and config.keep == "best" else step,
        "trained_steps": step,
        "validation_loss": -best.best_score[0] if best is not None else None,
        "batch": config.batch,
        "micro_batch": trainer.micro_batch or None,
        "learning_rate": config.learning_rate,
        "resolution": prepared.size[0],
        "prediction_type": prepared.base.prediction_type,
        "precision": config.precision,
        "seed": config.seed,
        "classes": prepared.classes,
        "images": len(prepared.training),
        "versions": store.versions(),
    }


def store_card(place: Path, card: dict[str, Any]) -> dict[str, Any]:
    """Return the written ``adapter.json``, or the facts of a fully tuned base."""
    return read_card(place) if (place / CARD).is_file() else card


def _pictures(prepared: Prepared, output: Path) -> list[str]:
    """Draw the sample pictures and return their names."""
    if not prepared.config.samples_per_class:
        return []
    names = []
    rows = prepared.draw()
    for name, row in zip(prepared.classes, rows, strict=True):
        safe = "".join(letter if letter.isalnum() else "_" for letter in name)[:60]
        for number, picture in enumerate(row):
            path = output / "samples" / f"{safe}-{number}.png"
            save_synthetic(path, picture, prepared.class_prompts[name])
            names.append(f"samples/{path.name}")
    save_synthetic(output / "samples" / "all.png", np.ascontiguousarray(grid(rows)), "all classes, one row each")
    return names


def _check_saved(prepared: Prepared, output: Path) -> None:
    """Load the adapter through the same door as everyone, on a fresh base: what is saved must load and act."""
    pipeline = load_base(prepared.base)
    load_adapter(pipeline, output)


def _write_base(prepared: Prepared, folder: Path, card: dict[str, Any]) -> None:
    pipeline = prepared.pipeline
    if pipeline.text_encoder is None:
        fresh: Any = load_base(prepared.base)
        pipeline.text_encoder = fresh.text_encoder
    pipeline.vae.to(prepared.device)
    with store.disk_full_errors(folder):
        pipeline.save_pretrained(folder, safe_serialization=True)
    parts = ("unet", "text_encoder", "vae")
    counts = {part: sum(p.numel() for p in getattr(pipeline, part).parameters()) for part in parts}
    facts = prepared.base.card | {
        "resolution": prepared.size[0],
        "prompts": [prepared.table.name],
        "prompts_sha256": {prepared.table.name: prepared.table.sha256},
        "parameters": counts,
        "seed": card["seed"],
        "steps": {"unet": card["steps"]},
        "prediction_type": card["prediction_type"],
        "class_prompts": card["class_prompts"],
        "columns": card["columns"],
        "clip_skip": card["clip_skip"],
        "tuned": card,
    }
    store.write_json(folder / "base.json", facts)


def _material(card: Mapping[str, Any]) -> str:
    if "drawn" in card:
        return f"{card['drawn']} latents drawn by the base for the prompts of {card['images']} records, no image"
    return f"{card['images']} images"


def card_text(card: dict[str, Any], pictures: Sequence[str]) -> str:
    """Return ``card.md``: what the adapter is, from what, and for what it must not be used."""
    facts = [
        ("Method", card["method"]),
        ("Base", f"{card['base']} ({card['base_sha256'][:12]}...)"),
        ("Rank, alpha", f"{card['rank']}, {card['alpha']}" if card.get("rank") else "none"),
        ("Parameters", f"{card['parameters']:,}" if "parameters" in card else "the whole network"),
        (
            "Trained on",
            f"{_material(card)}, {card['trained_steps']} steps of {card['batch']}; kept {card['steps']}",
        ),
        ("Validation loss", "not measured" if card["validation_loss"] is None else f"{card['validation_loss']:.6f}"),
        ("Resolution", f"{card['resolution']} px"),
        ("Seed", card["seed"]),
        ("Weights", card.get("weights_sha256", "base folder")),
    ]
    prompts = "\n".join(f"- {name}: `{prompt}`" for name, prompt in card["class_prompts"].items())
    shown = "\n".join(f"![{name}]({name})" for name in pictures)
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts)
    return (
        f"# Adapter: {card['method']}, {', '.join(card['classes'])}\n\n| | |\n| --- | --- |\n{rows}\n\n"
        f"## Prompts\n{prompts}\n\n## Sample pictures (synthetic, fixed seeds)\n{shown}\n\n"
        "## Use\nFor research on data augmentation. Pictures made with it are synthetic, show no patient and are not "
        "for diagnosis. The hashes of its training images stand in `train_sha256.txt`; stages refuse to be judged on "
        "any of them.\n"
    )
