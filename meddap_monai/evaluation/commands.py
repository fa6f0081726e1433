"""Two commands beside the stages: files to calibrated probabilities; a grid of arms, networks and shares."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from meddap_monai.errors import ConfigurationError


def add_evaluation_commands(commands: Any) -> None:
    """Add ``infer`` and ``grid`` to the sub-parsers of ``meddap``."""
    text = "DICOM or image folder in, CSV of calibrated class probabilities out"
    parser = commands.add_parser("infer", help=text, description=text)
    parser.add_argument("--models", nargs="+", type=Path, required=True, help="classifier folders; several: their mean")
    parser.add_argument("--source", type=Path, required=True, help="folder or file")
    parser.add_argument("--output", type=Path, default=Path("runs/infer.csv"), help="default: %(default)s")
    parser.add_argument("overrides", nargs="*", metavar="ID=VALUE", help="e.g. frames=middle, region=full, device=cuda")
    parser.set_defaults(run=_infer)
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


def nested(texts: Sequence[str]) -> dict[str, Any]:
    """Return ``ID=VALUE`` texts as nested keys: ``classify#steps=200`` -> ``{"classify": {"steps": 200}}``.

    Raises:
        ConfigurationError: a text without ``=``.
    """
    found: dict[str, Any] = {}
    for text in texts:
        key, given, value = text.partition("=")
        if not given:
            raise ConfigurationError(f"{text!r}: expected ID=VALUE, e.g. classify#steps=200")
        *sections, name = key.split("#")
        place = found
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = yaml.safe_load(value)
    return found


def read_draw(text: str) -> tuple[int, Path, Path | None]:
    """Return seed, records and kept synthetic records of ``SEED:RECORDS[:KEPT]``.

    Raises:
        ConfigurationError: another form.
    """
    seed, *paths = text.split(":")
    if not seed.isdigit() or len(paths) not in (1, 2) or not all(paths):
        raise ConfigurationError(f"draws: got {text!r}, expected SEED:RECORDS_FILE or SEED:RECORDS_FILE:KEPT_FILE")
    return int(seed), Path(paths[0]), Path(paths[1]) if len(paths) == 2 else None


def _infer(options: argparse.Namespace) -> None:
    from meddap_monai.classifier.inference import InferConfig, infer
    from meddap_monai.configuration import build

    config = build(InferConfig, nested(options.overrides), "infer")
    print(infer(config, options.models, options.source, options.output))


def _grid(options: argparse.Namespace) -> None:
    from meddap_monai.configuration import build
    from meddap_monai.evaluation.grid import Draw, GridConfig, run_grid

    config = build(GridConfig, nested(options.overrides), "grid")
    draws = [Draw(*read_draw(text)) for text in options.draws]
    folder = run_grid(config, options.output, draws=draws, unseen=options.unseen, overwrite=options.overwrite)
    print(folder / "grid.md")
