"""Two commands about where images lie: fetched from a store elsewhere, and packed for those who train elsewhere."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from meddap_monai.core.configuration import build, check_keys
from meddap_monai.core.constraints import check_range
from meddap_monai.core.ids import check_data, nest, read_pairs
from meddap_monai.engines.config import EngineConfig


def add_storage_commands(commands: Any) -> None:
    """Add ``fetch`` and ``pack`` to the sub-parsers of ``meddap``."""
    text = "files of a store elsewhere (s3://, gs://, https://) in, a folder for index out"
    parser = commands.add_parser("fetch", help=text, description=text)
    parser.add_argument("--source", required=True, help="URL of a folder")
    parser.add_argument("--output", type=Path, default=Path("runs/fetch"), help="default: %(default)s")
    parser.add_argument("--verify", action="store_true", help="fetch again what has another SHA-256 than it had")
    parser.set_defaults(run=_fetch)
    _add_engine(parser)
    text = "records and their images in, WebDataset shards (tar) out"
    parser = commands.add_parser("pack", help=text, description=text)
    parser.add_argument("--records", type=Path, required=True, help="records file of any stage")
    parser.add_argument("--output", type=Path, default=Path("runs/pack"), help="default: %(default)s")
    parser.add_argument("--images", type=int, default=1000, help="of one shard (default: %(default)s)")
    parser.add_argument("--split", choices=("train", "val", "test", "unseen"), help="only this split")
    parser.set_defaults(run=_pack)
    _add_engine(parser)


def _add_engine(parser: Any) -> None:
    parser.add_argument("overrides", nargs="*", metavar="ID=VALUE", help="e.g. engine#name=ray, engine#workers=16")


def _engine(texts: Sequence[str]) -> EngineConfig:
    pairs = read_pairs(texts, {"engine": EngineConfig})
    check_data(pairs, "command line")
    keys = nest(pairs)
    check_keys(keys, ["engine"], "command line")
    return build(EngineConfig, keys.get("engine") or {}, "engine")


def _fetch(options: argparse.Namespace) -> str:
    engine = _engine(options.overrides)
    from meddap_monai.engines.engine import use_engine
    from meddap_monai.images.fetching import fetch

    with use_engine(engine):
        counts = fetch(options.source, options.output, options.verify)
    said = f"{counts['fetched']} files fetched, {counts['kept']} were here, {counts['failed']} failed"
    failed = f"\n  each of them: {options.output / 'private' / 'failed.csv'}" if counts["failed"] else ""
    return f"{said}{failed}\n{options.output / 'files'}"


def _pack(options: argparse.Namespace) -> str:
    engine = _engine(options.overrides)
    check_range(options.images, 1, 1_000_000, "--images")
    from meddap_monai.engines.engine import use_engine
    from meddap_monai.images.writing.packing import pack

    with use_engine(engine):
        return str(pack(options.records, options.output, options.images, options.split or ""))
