"""The slow parts of `select` by an engine: features by the chunk, networks by the fold, left where the stage looks.

The stage itself finds them as it finds those of an interrupted run, so that it does not know of engines.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from meddap_monai import store
from meddap_monai.classifier.scoring import views_of
from meddap_monai.core.configuration import build
from meddap_monai.core.progress import progress
from meddap_monai.core.records import Record, read_records
from meddap_monai.encoders.extractors import build_extractor
from meddap_monai.engines.engine import current_engine, needs_gpus
from meddap_monai.engines.task import Check, Work
from meddap_monai.selection.filtering import frozen_features
from meddap_monai.selection.filtering.config import SelectConfig
from meddap_monai.selection.filtering.filter_config import FilterConfig
from meddap_monai.selection.filtering.fitted import fit_fold, plan_folds
from meddap_monai.selection.filtering.rule_features import FILTER
from meddap_monai.selection.pixels import read_squares

TOGETHER = 512
"""Images of one unit; whole batches of every extractor, so that features do not depend on it."""
_FEATURES, _FOLDS = (f"meddap_monai.selection.filtering.spread:{name}" for name in ("open_features", "open_folds"))


def spread_select(
    config: SelectConfig, output: Path, records: Path, training: Sequence[Record], synthetic: Sequence[Record]
) -> None:
    """Let the engine in use compute features and folds that are not there yet; nothing where it works in this process.

    Args:
        config: of the stage.
        output: its folder.
        records: records file of the real images.
        training: M full real training records of it.
        synthetic: N full synthetic records.
    """
    if current_engine().in_process:
        return
    asked, cache = config.filter, output / "features"
    sets = {"real": training, "synthetic": synthetic}
    if asked.mode == "probe":
        for name, members in sets.items():
            levels = asked.features == "levels"
            _spread_features(asked.encoder, asked, members, cache / f"filter_{name}.npy", asked.views, levels)
    else:
        _spread_folds(config, output / "filter", records, training)
    for name, members in sets.items():
        if config.copies.action != "off":
            _spread_features(config.copies.features, asked, members, cache / f"copies_{name}.npy")
        if config.features != FILTER:
            _spread_features(config.features, asked, members, cache / f"{name}.npy")


def _spread_features(
    name: str, asked: FilterConfig, records: Sequence[Record], path: Path, views: int = 1, levels: bool = False
) -> None:
    extractor = build_extractor(name, asked.channels, asked.resolution, "cpu", levels)
    told = f"{extractor.identity}, {asked.resolution} px"
    if frozen_features.load(path, records, told) is not None:
        return
    chunks = (list(records[start : start + TOGETHER]) for start in range(0, len(records), TOGETHER))
    settings = {"name": name, "filter": store.plain(asked), "views": views, "levels": levels, "folder": str(path)}
    parts = path.parent / f"{path.stem}_parts"
    items = ({"records": chunk, "part": str(parts / f"{number:06d}.npy")} for number, chunk in enumerate(chunks))
    found: dict[int, str] = {}
    with progress(total=len(records), desc=path.stem, unit="image") as bar:
        made = current_engine().map(_FEATURES, items, settings, gpus=needs_gpus(asked.device), twice=True)
        for number, part in made:
            found[number] = part
            bar.update(min(TOGETHER, len(records) - number * TOGETHER))
    values = np.concatenate([np.load(found[number], allow_pickle=False) for number in sorted(found)], axis=1)
    frozen_features.save(path, values, records, told)
    for part in found.values():
        Path(part).unlink()
    parts.rmdir()


@contextlib.contextmanager
def open_features(settings: Mapping[str, Any], _check: Check) -> Iterator[Work]:
    """Load a frozen encoder once, to turn lists of records into features: the task of an engine."""
    asked = build(FilterConfig, settings["filter"], "select#filter")
    extractor = build_extractor(settings["name"], asked.channels, asked.resolution, asked.device, settings["levels"])

    def work(item: Mapping[str, Any]) -> str:
        images = read_squares(item["records"], asked.resolution, asked.channels, asked.fit)
        values = extractor.extract(images, partial(views_of, count=settings["views"]))
        with store.atomic_path(item["part"], needs=values.nbytes) as temporary, temporary.open("wb") as stream:
            np.save(stream, values, allow_pickle=False)
        part: str = item["part"]
        return part

    yield work


def _spread_folds(config: SelectConfig, place: Path, records: Path, training: Sequence[Record]) -> None:
    fold, _ = plan_folds(config.filter, training, config.seed)
    numbers = [n for n in range(int(fold.max()) + 1) if not (place / f"fold_{n}.safetensors").is_file()]
    board = str(place.parent / "tensorboard") if config.pictures else None
    classes = len(store.read_stage(records.parent)["classes"])
    settings = {"config": store.plain(config), "records": str(records), "place": str(place), "board": board}
    made = current_engine().map(_FOLDS, numbers, settings | {"classes": classes}, gpus=needs_gpus(config.filter.device))
    with progress(total=len(numbers), desc="filter", unit="fold") as bar:
        for _ in made:
            bar.update()


@contextlib.contextmanager
def open_folds(settings: Mapping[str, Any], _check: Check) -> Iterator[Work]:
    """Read the real training images once, to train the network of any fold: the task of an engine."""
    config = build(SelectConfig, settings["config"], "select")
    asked = config.filter
    everything = read_records(settings["records"], source="real", full=True)
    training = [record for record in everything if record["split"] == "train"]
    images = read_squares(training, asked.resolution, asked.channels, asked.fit, config.threads)
    fold, seeds = plan_folds(asked, training, config.seed)
    board = Path(settings["board"]) if settings["board"] else None

    def work(number: int) -> None:
        fit_fold(
            asked, training, images, fold, settings["classes"], number, seeds[number], Path(settings["place"]), board
        )

    yield work
