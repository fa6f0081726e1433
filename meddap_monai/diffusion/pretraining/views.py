"""Training pictures of a base: square crops of the records' images, changed as their captions say."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from meddap_monai.core.progress import progress
from meddap_monai.core.records import Record
from meddap_monai.core.seeds import derive_seed
from meddap_monai.diffusion.bases.prompts import PromptTable
from meddap_monai.diffusion.pretraining.appearance import LOOKS, apply_look
from meddap_monai.diffusion.pretraining.parts import ViewsConfig
from meddap_monai.errors import ConfigurationError
from meddap_monai.images.reading.recorded import open_recorded


@dataclass(frozen=True)
class Views:
    """Pictures in memory.

    Attributes:
        pixels: (N, H, W) uint8.
        captions: N sentences; empty without one.
        groups: N names of what sampling balances: class and scanner model.
        ids: N record ids.
        changed: (N,) bool, whether an adjective changed the picture.
    """

    pixels: np.ndarray
    captions: list[str]
    groups: list[str]
    ids: list[str]
    changed: np.ndarray


def cut_views(
    records: Sequence[Record], tables: Sequence[PromptTable], resolution: int, config: ViewsConfig, seed: int
) -> Views:
    """Cut every view of every record; equal arguments give equal pictures.

    A class that only simulated images show takes the plain sentence for every second view, so that its plain prompt
    means something too.

    Args:
        records: full records.
        tables: prompt tables whose classes caption the records.
        resolution: side of the pictures in pixels.
        config: see `ViewsConfig`.
        seed: of the crops, flips and adjectives.

    Raises:
        ConfigurationError: see `captioning_tables`.
    """
    pixels, captions, groups, ids, changed = [], [], [], [], []
    captioning = captioning_tables({record["class_name"] for record in records}, tables, config)
    real = {record["class_name"] for record in records if _device(record) not in config.device_template}
    for record in progress(records, desc="views", unit="image", mininterval=5.0):
        image = open_recorded(record).convert("L")
        device = _device(record)
        for number in range(config.clean + config.changed):
            draw = np.random.default_rng(derive_seed(seed, "pretrain/view", record["id"], number))
            table = captioning[record["class_name"]]
            adjective = _adjective(table, draw) if number >= config.clean else "none"
            pixels.append(_cut(image, resolution, config, draw if number else None, adjective))
            plain = record["class_name"] not in real and number % 2 == 1
            template = 0 if plain else config.device_template.get(device, 0)
            captions.append(_caption(record["class_name"], table, adjective, template))
            simulated = device in config.device_template
            groups.append(f"{record['class_name']}/{device if simulated else 'real'}")
            ids.append(record["id"])
            changed.append(adjective != "none")
    return Views(np.stack(pixels), captions, groups, ids, np.array(changed))


def captioning_tables(
    class_names: Iterable[str], tables: Sequence[PromptTable], config: ViewsConfig
) -> dict[str, PromptTable | None]:
    """Return the prompt table that captions each class; without captions, none does.

    Raises:
        ConfigurationError: no table knows a class, or several do.
    """
    if config.captions == "none":
        return dict.fromkeys(class_names)
    found: dict[str, PromptTable | None] = {}
    for name in class_names:
        knowing = [table for table in tables if name in table.classes]
        if len(knowing) != 1:
            count = f"{len(knowing)} of the tables" if knowing else "none of the tables"
            classes = "; ".join(f"{table.name}: {', '.join(table.classes)}" for table in tables)
            raise ConfigurationError(
                f"pretrain#prompts: {count} {classes} has the class {name!r} of the records, expected one that does; "
                "name the right tables or write one, or train without captions (pretrain#views#captions: none)"
            )
        found[name] = knowing[0]
    return found


def grey_tensor(pixels: np.ndarray, device: str = "cpu") -> torch.Tensor:
    """Return pictures (N, H, W) uint8 as (N, 1, H, W) float32 in [-1, 1], which autoencoders take."""
    return torch.from_numpy(pixels).to(device, torch.float32).div(127.5).sub(1)[:, None]


def _cut(
    image: Image.Image, resolution: int, config: ViewsConfig, draw: np.random.Generator | None, adjective: str
) -> np.ndarray:
    wide, high = image.size
    side = float(min(wide, high))
    left, top = (wide - side) / 2, 0.0
    flip = False
    if draw is not None:
        part = side * draw.uniform(config.smallest, 1.0)
        left += draw.uniform(0, side - part)
        top += draw.uniform(0, min(side - part, 0.5 * part))
        side, flip = part, bool(draw.random() < config.flip)
    box = (left, top, left + side, top + side)
    cut = image.resize((resolution, resolution), Image.Resampling.BICUBIC, box=box)
    pixels = np.asarray(cut, dtype=np.float32) / 255
    changed = apply_look(pixels[:, ::-1] if flip else pixels, adjective)
    return np.rint(np.clip(changed, 0, 1) * 255).astype(np.uint8)


def _device(record: Record) -> str:
    return str((record.get("meta") or {}).get("device", ""))


def _adjective(table: PromptTable | None, draw: np.random.Generator) -> str:
    names = sorted(set(LOOKS) & set(table.adjectives)) if table is not None else []
    return str(draw.choice(names or ["none"]))


def _caption(class_name: str, table: PromptTable | None, adjective: str, template: int) -> str:
    if table is None:
        return ""
    return table.prompt(class_name, adjective, template if template < len(table.templates) else 0)
