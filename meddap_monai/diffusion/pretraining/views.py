"""Training pictures of a base: square crops of the records' images, changed as their captions say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from meddap_monai.core.progress import progress
from meddap_monai.core.records import Record
from meddap_monai.core.seeds import derive_seed
from meddap_monai.diffusion.bases.prompts import PromptTable
from meddap_monai.diffusion.bases.words import Words, ending, make_words
from meddap_monai.diffusion.pretraining.appearance import LOOKS, apply_look
from meddap_monai.diffusion.pretraining.parts import ViewsConfig
from meddap_monai.diffusion.pretraining.text_encoder import BARE
from meddap_monai.errors import ConfigurationError
from meddap_monai.images.reading.recorded import open_recorded

VIEWS = ("whole", "close")
"""What the word "view" says of a picture of a record with a lesion box."""
Square = tuple[float, float, float]
"""Left, top and side in pixels."""


@dataclass(frozen=True)
class Views:
    """Pictures in memory.

    Attributes:
        pixels: (N, H, W) uint8.
        captions: N sentences; empty without one.
        looks: N sentences without the words of their facts.
        groups: N names of what sampling balances: class and scanner model.
        ids: N record ids.
        changed: (N,) bool, whether an adjective changed the picture.
    """

    pixels: np.ndarray
    captions: list[str]
    looks: list[str]
    groups: list[str]
    ids: list[str]
    changed: np.ndarray

    def take(self, rows: np.ndarray) -> Views:
        """Return the views at `rows`."""
        lists = ([own[row] for row in rows] for own in (self.captions, self.looks, self.groups, self.ids))
        captions, looks, groups, ids = lists
        return Views(self.pixels[rows], captions, looks, groups, ids, self.changed[rows])

    def even_rows(self, per_group: int, seed: int) -> np.ndarray:
        """Return the rows of at most so many views of each group, in order; 0: of all."""
        if not per_group:
            return np.arange(len(self.ids))
        order = np.random.default_rng(derive_seed(seed, "pretrain/even")).permutation(len(self.ids))
        count: Counter[str] = Counter()
        rows = []
        for row in order:
            count[self.groups[row]] += 1
            if count[self.groups[row]] <= per_group:
                rows.append(row)
        return np.sort(np.array(rows))


def cut_views(
    records: Sequence[Record],
    tables: Sequence[PromptTable],
    resolution: int,
    config: ViewsConfig,
    seed: int,
    words: Words | None = None,
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
        words: that say facts, see `words_of`.

    Raises:
        ConfigurationError: see `captioning_tables`.
    """
    pixels, captions, looks, groups, ids, changed = [], [], [], [], [], []
    captioning = captioning_tables({record["class_name"] for record in records}, tables, config)
    real = {record["class_name"] for record in records if _device(record) not in config.device_template}
    for record in progress(records, desc="views", unit="image", mininterval=5.0):
        image = open_recorded(record).convert("L")
        device, usual = _device(record), config.clean + config.changed
        for number in range(usual + (config.close if _lesion_box(record) else 0)):
            draw = np.random.default_rng(derive_seed(seed, "pretrain/view", record["id"], number))
            table = captioning[record["class_name"]]
            adjective = _adjective(table, draw) if config.clean <= number < usual else "none"
            square = _square(image, record, number, usual, config, draw)
            flip = bool(number and draw.random() < config.flip)
            pixels.append(_cut(image, resolution, square, flip, adjective))
            plain = record["class_name"] not in real and number % 2 == 1
            template = 0 if plain else config.device_template.get(device, 0)
            looks.append(_caption(record["class_name"], table, adjective, template))
            captions.append(_with_words(looks[-1], record, VIEWS[number >= usual], number, words, seed))
            named = device in config.device_template or "device" in config.words
            groups.append(f"{record['class_name']}/{device if named and device else 'real'}")
            ids.append(record["id"])
            changed.append(adjective != "none")
    return Views(np.stack(pixels), captions, looks, groups, ids, np.array(changed))


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


def words_of(records: Iterable[Record], columns: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the words for what records say in columns of their ``meta``.

    Raises:
        ConfigurationError: no record says anything in a column, or two values give one word.
    """
    records = list(records)
    values: dict[str, set[str]] = {}
    for column in columns:
        values[column] = {fact for record in records for view in VIEWS if (fact := _fact(record, column, view))}
        if not values[column]:
            held = sorted({name for record in records for name in record.get("meta") or {}})
            raise ConfigurationError(
                f"pretrain#views#words: no training image has {column!r} in its meta, which holds "
                f"{', '.join(held) or 'nothing'}; index#columns keeps a column of a table"
            )
    return make_words(values)


def _fact(record: Record, column: str, view: str) -> str:
    if column == "view":
        return view if _lesion_box(record) else ""
    value = (record.get("meta") or {}).get(column)
    return "" if value is None else str(value)


def _with_words(look: str, record: Record, view: str, number: int, words: Words | None, seed: int) -> str:
    """Return a caption with the words of a view's facts, some of them left out, and once in a while the sentence."""
    if not words or not look:
        return look
    draw = np.random.default_rng(derive_seed(seed, "pretrain/words", record["id"], number))
    missing, bare = draw.random(2)
    facts = {column: fact for column in words if (fact := _fact(record, column, view))}
    if "probe" in look:  # an adjective that makes another probe of it
        facts.pop("probe", None)
    kept = {column: fact for column, fact in facts.items() if draw.random() >= missing}
    said = ending(kept, words)
    return said.strip() if said and bare < BARE else look + said


def _lesion_box(record: Record) -> Sequence[float] | None:
    return (record.get("meta") or {}).get("lesion_box")


def _square(
    image: Image.Image, record: Record, number: int, usual: int, config: ViewsConfig, draw: np.random.Generator
) -> Square:
    """Return the crop of a view: the first is the plain one, those after the usual ones lie around the lesion."""
    if number == 0:
        return _plain_crop(image)
    lesion = _lesion_box(record)
    return _close_crop(image, lesion, draw) if number >= usual and lesion else _crop(image, config, draw)


def _plain_crop(image: Image.Image) -> Square:
    wide, high = image.size
    side = float(min(wide, high))
    return (wide - side) / 2, 0.0, side


def _crop(image: Image.Image, config: ViewsConfig, draw: np.random.Generator) -> Square:
    left, top, side = _plain_crop(image)
    part = side * draw.uniform(config.smallest, 1.0)
    left += draw.uniform(0, side - part)
    top += draw.uniform(0, min(side - part, 0.5 * part))
    return left, top, part


def _close_crop(image: Image.Image, lesion: Sequence[float], draw: np.random.Generator) -> Square:
    """Return a square around a lesion that leaves some of its surroundings."""
    x0, y0, x1, y1 = lesion
    side = min(max(x1 - x0, y1 - y0) * draw.uniform(1.1, 1.6), 0.9 * min(image.size))
    corner = []
    for low, high, most in ((x0, x1, image.width), (y0, y1, image.height)):
        middle = (low + high) / 2 + side * draw.uniform(-0.1, 0.1)
        corner.append(min(max(middle - side / 2, 0.0), most - side))
    return corner[0], corner[1], side


def _cut(image: Image.Image, resolution: int, square: Square, flip: bool, adjective: str) -> np.ndarray:
    left, top, side = square
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
