"""Two commands beside the stages: files to calibrated probabilities; a grid of arms, networks and shares."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from meddap_monai.cli.counts import infer_counts
from meddap_monai.core.configuration import build, field_types
from meddap_monai.core.ids import check_data, nest, read_pairs, split_places
from meddap_monai.errors import ConfigurationError

T = TypeVar("T")


def add_evaluation_commands(commands: Any) -> None:
    """Add ``infer`` and ``grid`` to the sub-parsers of ``meddap``."""
    text = "DICOM or image folder in, CSV of calibrated class probabilities out"
    parser = commands.add_parser("infer", help=text, description=text)
    parser.add_argument("--models", nargs="+", required=True, help="classifier folders; several: their mean")
    parser.add_argument("--source", type=Path, required=True, help="folder or file")
    parser.add_argument("--output", type=Path, default=Path("runs/infer.csv"), help="default: %(default)s")
    parser.add_argument("--overwrite", action="store_true", help="replace tables that are there")
    parser.add_argument("overrides", nargs="*", metavar="ID=VALUE", help="e.g. frames=middle, region=full, device=cuda")
    parser.set_defaults(run=_infer)
    parser.configuration = _infer_config
    text = "train and judge arms x networks x shares of the real data x seeds"
    parser = commands.add_parser("grid", help=text, description=text)
    parser.add_argument("--draws", nargs="+", required=True, metavar="SEED:RECORDS[:KEPT]", help="one per seed")
    parser.add_argument("--unseen", type=Path, help="records file of the unseen set")
    parser.add_argument("--output", type=Path, default=Path("runs/grid"), help="default: %(default)s")
    parser.add_argument("--overwrite", action="store_true", help="replace cells of another configuration")
    parser.add_argument(
        "overrides", nargs="*", metavar="ID=VALUE", help="e.g. 'fractions=[0.5, 1]', classify#steps=200, mix#ratio=2"
    )
    parser.set_defaults(run=_grid)
    parser.configuration, parser.without = _grid_config, ("classify", "mix", "evaluate")
    parser.epilog = "Keys of classify, mix and evaluate are written STAGE#KEY=VALUE; meddap STAGE --help lists them."


def read_keys(texts: Sequence[str], cls: type[T]) -> T:
    """Return the configuration of a command's ``ID=VALUE`` texts.

    Raises:
        ConfigurationError: a text without ``=``, an unknown key, a wrong value, or code.
    """
    pairs = read_pairs(texts, field_types(cls))  # type: ignore[arg-type]
    check_data(pairs, "command line")
    return build(cls, nest(pairs), cls.__name__.removesuffix("Config").lower())


def read_draw(text: str) -> tuple[int, Path, Path | None]:
    """Return seed, records and kept synthetic records of ``SEED:RECORDS[:KEPT]``.

    Raises:
        ConfigurationError: another form.
    """
    seed, _, places = text.partition(":")
    paths = split_places(places, (1, 2))
    if not seed.isdigit() or len(paths) > 2 or not all(paths):
        raise ConfigurationError(f"draws: got {text!r}, expected SEED:RECORDS_FILE or SEED:RECORDS_FILE:KEPT_FILE")
    return int(seed), Path(paths[0]), Path(paths[1]) if len(paths) == 2 else None


def _infer_config() -> type:
    from meddap_monai.classifier.inference_config import InferConfig

    return InferConfig


def _grid_config() -> type:
    from meddap_monai.study.grid_config import GridConfig

    return GridConfig


def _infer(options: argparse.Namespace) -> str:
    config: Any = read_keys(options.overrides, _infer_config())
    from meddap_monai.classifier.inference import infer

    table = infer(config, options.models, options.source, options.output, options.overwrite)
    return infer_counts(table, config.rows)


def _grid(options: argparse.Namespace) -> str:
    config: Any = read_keys(options.overrides, _grid_config())
    from meddap_monai.study.grid import Draw, run_grid

    draws = [Draw(*read_draw(text)) for text in options.draws]
    folder = run_grid(config, options.output, draws=draws, unseen=options.unseen, overwrite=options.overwrite)
    return str(folder / "grid.md")
