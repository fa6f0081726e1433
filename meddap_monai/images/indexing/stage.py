"""The stage `index`: from a folder of image files to records, de-identified images and a list of what was left out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydicom.datadict import tag_for_keyword
from tqdm import tqdm

from meddap_monai import store
from meddap_monai.core.constraints import Choice, Range, here, settings
from meddap_monai.core.contract import SPLITS
from meddap_monai.core.records import Record, deal_draw, deal_shares, write_records
from meddap_monai.errors import ConfigurationError, RecordsError
from meddap_monai.images.indexing import sources
from meddap_monai.images.indexing.accept import Acceptance
from meddap_monai.images.indexing.duplicates import Groups
from meddap_monai.images.indexing.journal import Journal, open_journal
from meddap_monai.images.indexing.ledger import Ledger, Members
from meddap_monai.images.indexing.sources import Source
from meddap_monai.images.indexing.workforce import accept_all
from meddap_monai.images.reading.frames import check_policy
from meddap_monai.images.reading.grey_levels import WINDOWS
from meddap_monai.images.reading.pseudonym import load_key, pseudonym


@dataclass(frozen=True)
@settings("index")
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
        region: "b-mode" crops DICOM images to the region that they declare, "full" takes whole frames (not
            de-identified). Files that declare none, or the whole screen, are rejected unless one of the next is set.
        guess_region: crop these files to the scan that is found in their pixels; whether a name is left is not known.
        full_frame: take the whole frames of these files; with `guess_region`, where no scan is found.
        window: "file", "none" or "minmax"; see `read_ultrasound`.
        split: put everything into this split, such as "unseen"; empty: use `draw` or `fractions`.
        fractions: split -> share of the groups.
        draw: ``{train: 30, val: 10}`` images per class, the rest is test; wins over `fractions`.
        masks: "reject" leaves out masks beside their images (``x_mask.png`` beside ``x.png``), "keep" takes them.
        follow_links: follow links that lead out of the source.
        near_duplicates: "group" keeps almost equal pictures in one split, "off" does not look.
        correlation: of thumbnails, from which two pictures are almost equal.
        workers: reading processes; 0 reads in this process, where a crashing codec ends the run.
        timeout: seconds for one file.
        memory: MB that a reading process may take for one file.
        key_file: pseudonym key; default: the user's, made once.
        seed: of the split.
    """

    source: Path
    labels: Annotated[str, Choice(("folder", "csv", "attribute"))] = "folder"
    table: Path = Path("index.csv")
    image_column: str = "image"
    label_column: str = "label"
    group_column: str | None = None
    centre_column: str | None = None
    device_column: str | None = None
    where: Mapping[str, str] = field(default_factory=dict)
    attribute: str = ""
    classes: tuple[str, ...] = ()
    modality: Annotated[str, Choice(("US", "any"))] = "US"
    frames: str = "middle"
    region: Annotated[str, Choice(("b-mode", "full"))] = "b-mode"
    guess_region: bool = False
    full_frame: bool = False
    window: Annotated[str, Choice(WINDOWS)] = "file"
    split: Annotated[str, Choice(("", *SPLITS))] = ""
    fractions: Mapping[str, float] = field(default_factory=lambda: {"train": 0.6, "val": 0.2, "test": 0.2})
    draw: Mapping[str, int] | None = None
    masks: Annotated[str, Choice(("reject", "keep"))] = "reject"
    follow_links: bool = False
    near_duplicates: Annotated[str, Choice(("group", "off"))] = "group"
    correlation: Annotated[float, Range(0.5, 1)] = 0.98
    workers: Annotated[int, Range(0, 256)] = 1
    timeout: Annotated[float, Range(0.1, 3600)] = 60.0
    memory: Annotated[int, Range(64, 1_000_000)] = 3072
    key_file: Path | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigurationError: names the key, what it holds and what was expected.
        """
        check_policy(self.frames, here("frames"))
        if self.labels == "attribute" and (not self.attribute or tag_for_keyword(self.attribute) is None):
            raise ConfigurationError(
                f"{here('attribute')} is {self.attribute!r}, expected a DICOM keyword such as BodyPartExamined"
            )
        shares = self.fractions.values()
        if not set(self.fractions) <= set(SPLITS) or not abs(sum(shares) - 1) <= 1e-6 or min(shares) < 0:
            raise ConfigurationError(
                f"{here('fractions')} is {dict(self.fractions)}, expected shares of splits that sum to 1, each 0 to 1"
            )
        if self.draw is not None and (set(self.draw) != {"train", "val"} or min(self.draw.values()) < 0):
            raise ConfigurationError(
                f"{here('draw')} is {dict(self.draw)}, expected images per class for train and val"
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
    key, found = load_key(config.key_file), _sources(config)
    plan = _identity(config, key)
    inputs = {"key": store.sha256_text(key.hex())[:16]}
    with (
        store.open_stage(output, "index", plan, inputs, overwrite) as stage,
        open_journal(output / "private" / "journal.sqlite") as journal,
    ):
        listing = journal.want(found, config.masks)
        if stage.done and stage.document.get("listing") == listing:
            return output / "records.jsonl"
        (output / "images").mkdir(exist_ok=True)
        journal.note_errors()
        while True:
            _read_new(journal, config, output, key)
            ledger = Ledger(journal)
            counts = _decide(ledger, config, output, key) | {"masks": journal.masks()}
            if not journal.forget(ledger.lost(output / "images")):
                break
        _finish(stage, ledger, config, key, counts, listing)
    return output / "records.jsonl"


def _identity(config: IndexConfig, key: bytes) -> dict[str, Any]:
    """The configuration without what changes speed only; paths, which can hold names, as pseudonyms."""
    document = store.plain(config) | {
        "source": pseudonym(str(Path(config.source).resolve()), key, "source"),
        "table": pseudonym(str(config.table), key, "table"),
    }
    return {name: value for name, value in document.items() if name not in ("workers", "timeout", "memory", "key_file")}


def _sources(config: IndexConfig) -> Iterator[Source]:
    folder = Path(config.source)
    if config.labels == "folder":
        return sources.folder_sources(folder, config.follow_links)
    if config.labels == "attribute":
        return sources.attribute_sources(folder, config.follow_links)
    path, group = folder / config.table, config.group_column
    if group is None:
        group = next((name for name in ("group", "patient") if name in sources.table_columns(path)), None)
    facts = {"centre": config.centre_column, "device": config.device_column}
    named = {key: column for key, column in facts.items() if column}
    table = sources.Table(path, config.image_column, config.label_column, group, config.where, named)
    table.check_columns()
    return sources.table_sources(folder, table, config.follow_links)


def _read_new(journal: Journal, config: IndexConfig, output: Path, key: bytes) -> None:
    """Read every source whose present state the journal does not know."""
    how = Acceptance(
        folder=str(output.resolve()),
        key=key.hex(),
        modality=config.modality,
        frames=config.frames,
        region=config.region,
        guess_region=config.guess_region,
        full_frame=config.full_frame,
        window=config.window,
        attribute=config.attribute if config.labels == "attribute" else "",
    )
    new, total = journal.count("unread"), journal.count("wanted")
    bar = tqdm(total=total, initial=total - new, desc="index", unit="file", mininterval=1.0)
    with store.InterruptFlag() as flag, bar:
        for outcome in accept_all(journal.unread(), how, min(config.workers, new), config.timeout, config.memory):
            journal.add(outcome)
            bar.update()
            flag.raise_if_set(f"{bar.n} of {total} files are read")
    if new:
        os.sync()  # the images were written without flushing each


def _decide(ledger: Ledger, config: IndexConfig, output: Path, key: bytes) -> dict[str, int]:
    """Drop duplicates, group near-duplicates, split; return counts."""
    if config.classes:
        ledger.drop_other_classes(config.classes)
    groups = Groups()
    duplicates = ledger.drop_duplicates(groups)
    near = 0 if config.near_duplicates == "off" else ledger.join_near_duplicates(groups, config.correlation)
    ledger.name_groups(groups)
    if not ledger.count():
        rejected = ledger.write_lists(output, key)
        raise RecordsError(
            f"{config.source}: none of {rejected} items could be accepted; the reasons are in {output / 'rejects.csv'}"
        )
    ledger.assign(_split(Members(ledger), config))
    return {"exact_duplicates": duplicates, "near_duplicate_pairs": near}


def _split(members: Members, config: IndexConfig) -> Iterator[Record]:
    if config.split:
        return (record | {"split": config.split} for name in members for record in members[name])
    if config.draw is not None:
        return deal_draw(members, config.draw["train"], config.draw["val"], config.seed)
    return deal_shares(members, config.fractions, config.seed)


def _finish(
    stage: store.Stage, ledger: Ledger, config: IndexConfig, key: bytes, counts: dict[str, int], listing: str
) -> None:
    """Write everything and remove the images that do not stay."""
    classes = list(config.classes) or ledger.classes()
    rejected = ledger.write_lists(stage.folder, key)
    out = write_records(stage.folder / "records.jsonl", ledger.records(classes))
    for image in (stage.folder / "images").iterdir():
        if not ledger.stays(image.stem):
            image.unlink()
    counts |= {"in": out + rejected, "out": out, "rejected": rejected, **ledger.exposed()}
    stage.finish(counts, classes=classes, listing=listing, splits=ledger.splits())
