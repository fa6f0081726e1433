"""The stage `index`: from a folder of image files to records, de-identified images and a list of what was left out."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from meddap_monai import store
from meddap_monai.core.progress import progress
from meddap_monai.core.records import Record, iter_draw, iter_split, write_records
from meddap_monai.errors import ConfigurationError, RecordsError
from meddap_monai.images.indexing import sources
from meddap_monai.images.indexing.accept import Acceptance
from meddap_monai.images.indexing.config import IndexConfig
from meddap_monai.images.indexing.duplicates import Groups
from meddap_monai.images.indexing.journal import Journal, open_journal
from meddap_monai.images.indexing.ledger import Ledger, Members
from meddap_monai.images.indexing.sources import Source
from meddap_monai.images.indexing.worker_pool import accept_everywhere
from meddap_monai.images.reading.pseudonym import load_key, pseudonym


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
        listing = journal.set_sources(found, config.masks)
        if stage.done and stage.document.get("listing") == listing:
            return output / "records.jsonl"
        (output / "images").mkdir(exist_ok=True)
        journal.note_errors()
        while True:
            _read_new(journal, config, output, key)
            ledger = Ledger(journal)
            counts = _decide(ledger, config, output, key) | {"masks": journal.masks()}
            if not journal.mark_unread(ledger.missing_files(output / "images")):
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
    facts = {"centre": config.centre_column, "device": config.device_column, **{name: name for name in config.columns}}
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
    bar = progress(total=total, initial=total - new, desc="index", unit="file", mininterval=1.0)
    with store.InterruptFlag() as flag, bar:
        limits = min(config.workers, new), config.timeout, config.memory
        check = lambda: flag.raise_if_set(f"{bar.n} of {total} files are read")  # noqa: E731
        for outcome in accept_everywhere(journal.unread(), how, *limits, check):
            journal.add(outcome)
            bar.update()
            check()
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
    try:
        ledger.assign(_split(Members(ledger), config))
    except RecordsError as error:
        rejected = ledger.write_lists(output, key)
        raise RecordsError(
            f"{error}. {ledger.count()} images were accepted, {rejected} items rejected; the reasons are in "
            f"{output / 'rejects.csv'}"
        ) from error
    return {"exact_duplicates": duplicates, "near_duplicate_pairs": near}


def _split(members: Members, config: IndexConfig) -> Iterator[Record]:
    if config.split:
        return (record | {"split": config.split} for name in members for record in members[name])
    if config.draw is not None:
        return iter_draw(members, config.draw["train"], config.draw["val"], config.seed)
    return iter_split(members, config.fractions, config.seed)


def _finish(
    stage: store.Stage, ledger: Ledger, config: IndexConfig, key: bytes, counts: dict[str, int], listing: str
) -> None:
    """Write everything and remove the images that do not stay."""
    classes = list(config.classes) or ledger.classes()
    rejected = ledger.write_lists(stage.folder, key)
    out = write_records(stage.folder / "records.jsonl", ledger.records(classes))
    for image in (stage.folder / "images").iterdir():
        if not ledger.is_kept(image.stem):
            image.unlink()
    counts |= {"in": out + rejected, "out": out, "rejected": rejected, **ledger.count_not_deidentified()}
    stage.finish(counts, classes=classes, listing=listing, splits=ledger.splits())
