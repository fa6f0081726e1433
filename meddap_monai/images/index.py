"""The stage `index`: from a folder of image files to records, de-identified images and a list of what was left out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydicom.datadict import tag_for_keyword
from tqdm import tqdm

from meddap_monai import store
from meddap_monai.configuration import check_choice
from meddap_monai.errors import ConfigurationError, RecordsError
from meddap_monai.images import sources
from meddap_monai.images.accept import Acceptance
from meddap_monai.images.duplicates import Groups
from meddap_monai.images.frames import check_policy
from meddap_monai.images.grey_levels import WINDOWS
from meddap_monai.images.journal import Journal, stamp_of
from meddap_monai.images.ledger import Ledger, drop_duplicates, join_near_duplicates, write_lists
from meddap_monai.images.pseudonym import load_key, pseudonym
from meddap_monai.images.sources import Source
from meddap_monai.images.workforce import accept_all
from meddap_monai.records import SPLITS, draw_split, split_by_group, write_records


@dataclass(frozen=True)
class IndexConfig:
    """What to index and how.

    Attributes:
        source: folder of DICOM (with or without suffix), PNG, JPEG, TIFF, BMP or NIfTI files.
        labels: "folder" (first folder below the source), "csv" (a table) or "attribute" (a DICOM keyword).
        table: CSV or TSV file, relative to the source or absolute; labels "csv".
        image_column: its column of file names relative to the source.
        label_column: its column of class names.
        group_column: its column of patients or groups; default: "group", else "patient", where the table has one.
        centre_column: its column of centres, hospitals or countries, kept as it stands for tables by subgroup; opt in
            only where these names may be shown.
        device_column: its column of devices, kept likewise.
        where: column -> value that rows must have, such as ``{role: unseen}``.
        attribute: DICOM keyword, such as "BodyPartExamined"; labels "attribute".
        classes: class names in the order of their labels; files of other classes are rejected. Default: all, sorted.
        modality: "US" or "any" (every 2-D image).
        frames: of clips: first, middle, last, all, every N, evenly K, different K.
        region: "b-mode" crops DICOM images to their B-mode region, "full" takes whole frames (not de-identified).
        full_frame: take whole frames of DICOM files that have neither region nor tight box, instead of rejecting them.
        window: "file", "none" or "minmax"; see `read_ultrasound`.
        split: put everything into this split, such as "unseen"; empty: use `draw` or `fractions`.
        fractions: split -> share of the groups.
        draw: ``{train: 30, val: 10}`` images per class, the rest is test; wins over `fractions`.
        near_duplicates: "group" keeps almost equal pictures in one split, "off" does not look.
        correlation: of thumbnails, from which two pictures are almost equal.
        workers: reading processes; 0 reads in this process, where a crashing codec ends the run.
        timeout: seconds for one file.
        key_file: pseudonym key; default: the user's, made once.
        seed: of the split.
    """

    source: Path
    labels: str = "folder"
    table: str = "index.csv"
    image_column: str = "image"
    label_column: str = "label"
    group_column: str | None = None
    centre_column: str | None = None
    device_column: str | None = None
    where: Mapping[str, str] = field(default_factory=dict)
    attribute: str = ""
    classes: tuple[str, ...] = ()
    modality: str = "US"
    frames: str = "middle"
    region: str = "b-mode"
    full_frame: bool = False
    window: str = "file"
    split: str = ""
    fractions: Mapping[str, float] = field(default_factory=lambda: {"train": 0.6, "val": 0.2, "test": 0.2})
    draw: Mapping[str, int] | None = None
    near_duplicates: str = "group"
    correlation: float = 0.98
    workers: int = 1
    timeout: float = 60.0
    key_file: Path | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigurationError: names the key, what it holds and what was expected.
        """
        check_choice(self.labels, ("folder", "csv", "attribute"), "index#labels")
        check_choice(self.modality, ("US", "any"), "index#modality")
        check_choice(self.region, ("b-mode", "full"), "index#region")
        check_choice(self.window, WINDOWS, "index#window")
        check_choice(self.near_duplicates, ("group", "off"), "index#near_duplicates")
        check_policy(self.frames)
        if self.split:
            check_choice(self.split, SPLITS, "index#split")
        if self.labels == "attribute" and (not self.attribute or tag_for_keyword(self.attribute) is None):
            raise ConfigurationError(
                f"index#attribute is {self.attribute!r}, expected a DICOM keyword such as BodyPartExamined"
            )
        if not set(self.fractions) <= set(SPLITS) or abs(sum(self.fractions.values()) - 1) > 1e-6:
            raise ConfigurationError(
                f"index#fractions is {dict(self.fractions)}, expected shares of splits that sum to 1"
            )
        if self.draw is not None and set(self.draw) != {"train", "val"}:
            raise ConfigurationError(f"index#draw is {dict(self.draw)}, expected images per class for train and val")
        if not 0.5 <= self.correlation <= 1 or not 0 <= self.workers <= 256 or not 0.1 <= self.timeout <= 3600:
            raise ConfigurationError(
                f"index: correlation {self.correlation}, workers {self.workers}, timeout {self.timeout}; expected "
                "0.5..1, 0..256 and 0.1..3600"
            )


def index(config: IndexConfig, output: Path, *, overwrite: bool = False) -> Path:
    """Index a folder.

    Writes ``records.jsonl``, ``images/<id>.png``, ``rejects.csv`` (item, reason), ``private/sources.csv`` (item or id
    to source path, readable by the owner only) and ``stage.json``. Indexing a folder that has grown since only reads
    what is new.

    Args:
        config: what and how.
        output: stage folder.
        overwrite: replace a folder of another configuration.

    Returns:
        The records file.

    Raises:
        ConfigurationError: the source or the table cannot be used.
        RecordsError: nothing could be accepted, or the groups do not suffice for the split.
    """
    output = Path(output)
    if not Path(config.source).is_dir():
        raise ConfigurationError(f"index#source: {config.source} is not a folder; give the folder with the images")
    if output.resolve().is_relative_to(Path(config.source).resolve()):
        raise ConfigurationError(f"{output}: lies inside of index#source; choose an output folder beside the images")
    key = load_key(config.key_file)
    plan = _identity(config, key)
    with store.open_stage(output, "index", plan, {"key": store.sha256_text(key.hex())[:16]}, overwrite) as stage:
        wanted = {source.relative: (source, stamp_of(source.path)) for source in _sources(config)}
        listing = store.hash_configuration(
            [(name, _mark(source, stamp)) for name, (source, stamp) in wanted.items()]
        )
        if stage.done and stage.document.get("listing") == listing:
            return output / "records.jsonl"
        journal = Journal(output / "private" / "journal.jsonl")
        try:
            _read_new(wanted, journal, config, output, key)
            ledger = Ledger(key)
            for relative, (source, _) in wanted.items():
                ledger.take(journal.get(relative), source)
        finally:
            journal.close()
        _finish(stage, ledger, config, listing)
    return output / "records.jsonl"


def _identity(config: IndexConfig, key: bytes) -> dict[str, Any]:
    """The configuration without what changes speed only; the source's path, which can hold names, as a pseudonym."""
    document = store.plain(config) | {"source": pseudonym(str(Path(config.source).resolve()), key, "source")}
    return {name: value for name, value in document.items() if name not in ("workers", "timeout", "key_file")}


def _sources(config: IndexConfig) -> Iterator[Source]:
    folder = Path(config.source)
    if config.labels == "folder":
        return sources.folder_sources(folder)
    if config.labels == "attribute":
        return sources.attribute_sources(folder)
    table = folder / config.table
    group = config.group_column
    if group is None:
        group = next((name for name in ("group", "patient") if name in sources.table_columns(table)), None)
    facts = {"centre": config.centre_column, "device": config.device_column}
    named = {key: column for key, column in facts.items() if column}
    return sources.table_sources(folder, table, config.image_column, config.label_column, group, config.where, named)


def _mark(source: Source, stamp: str) -> str:
    """What a source's outcome depends on."""
    return "|".join([stamp, str(source.label), str(source.group), *source.facts.values()])


def _read_new(
    wanted: Mapping[str, tuple[Source, str]], journal: Journal, config: IndexConfig, output: Path, key: bytes
) -> None:
    """Read every source whose present state the journal does not know."""
    how = Acceptance(
        folder=str(output.resolve()),
        key=key.hex(),
        modality=config.modality,
        frames=config.frames,
        region=config.region,
        full_frame=config.full_frame,
        window=config.window,
        attribute=config.attribute if config.labels == "attribute" else "",
    )
    (output / "images").mkdir(exist_ok=True)
    new = []
    for relative, (source, stamp) in wanted.items():
        mark = _mark(source, stamp)
        if source.error:
            journal.add(mark, {"relative": relative, "error": source.error})
        elif not journal.knows(relative, mark) or not _images_exist(journal.get(relative), output):
            new.append((source, mark))
    marks = {source.relative: mark for source, mark in new}
    tasks = (
        {
            "path": str(source.path),
            "relative": source.relative,
            "label": source.label,
            "group": source.group,
            "facts": dict(source.facts),
        }
        for source, _ in new
    )
    bar = tqdm(total=len(wanted), initial=len(wanted) - len(new), desc="index", unit="file", mininterval=1.0)
    with store.InterruptFlag() as flag, bar:
        for outcome in accept_all(tasks, how, min(config.workers, len(new)), config.timeout):
            journal.add(marks[outcome["relative"]], outcome)
            bar.update()
            flag.raise_if_set(f"{bar.n} of {len(wanted)} files are read")
    if new:
        os.sync()  # the images were written without flushing each


def _images_exist(outcome: Mapping[str, Any], output: Path) -> bool:
    return all((output / "images" / f"{item['id']}.png").exists() for item in outcome.get("items", ()))


def _finish(stage: store.Stage, ledger: Ledger, config: IndexConfig, listing: str) -> None:
    """Drop duplicates, group near-duplicates, split, write everything."""
    total = len(ledger.items) + len(ledger.rejects)
    if config.classes:
        allowed = ", ".join(config.classes)
        ledger.drop(lambda item: "" if item["class_name"] in config.classes else f"its class is none of {allowed}")
    groups = Groups()
    duplicates = drop_duplicates(ledger, groups)
    near = 0 if config.near_duplicates == "off" else join_near_duplicates(ledger, groups, config.correlation)
    if not ledger.items:
        write_lists(stage.folder, ledger)
        raise RecordsError(
            f"{config.source}: none of {total} items could be accepted; the reasons are in "
            f"{stage.folder / 'rejects.csv'}"
        )
    classes = list(config.classes) or sorted({item["class_name"] for item in ledger.items})
    records = [_record(item, classes, groups) for item in ledger.items]
    records = _split(records, config)
    left = {record["id"] for record in records}
    ledger.drop(lambda item: "" if item["id"] in left else "not drawn: its group exceeds the number per class")
    whole = sum(item["whole"] for item in ledger.items)
    write_lists(stage.folder, ledger)
    write_records(stage.folder / "records.jsonl", records)
    for image in (stage.folder / "images").iterdir():
        if image.stem not in left:
            image.unlink()
    counts = {
        "in": total,
        "out": len(records),
        "rejected": len(ledger.rejects),
        "exact_duplicates": duplicates,
        "near_duplicate_pairs": near,
        "not_deidentified": whole,
    }
    splits = Counter(f"{record['split']}/{record['class_name']}" for record in records)
    stage.finish(counts, classes=classes, listing=listing, splits=dict(sorted(splits.items())))


def _record(item: Mapping[str, Any], classes: list[str], groups: Groups) -> dict[str, Any]:
    return {
        "id": item["id"],
        "image": f"images/{item['id']}.png",
        "label": classes.index(item["class_name"]),
        "class_name": item["class_name"],
        "patient": groups.find(item["patient"]),
        "split": "train",
        "source": "real",
        "sha256": item["sha256"],
        "meta": item["meta"] | {"deidentified": not item["whole"]},
    }


def _split(records: list[dict[str, Any]], config: IndexConfig) -> list[dict[str, Any]]:
    if config.split:
        return sorted((record | {"split": config.split} for record in records), key=lambda record: record["id"])
    if config.draw is not None:
        return draw_split(records, config.draw["train"], config.draw["val"], config.seed)
    return split_by_group(records, dict(config.fractions), config.seed)
