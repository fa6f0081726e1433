"""The command ``export``: a trained classifier as one file for other programs."""

import argparse
from pathlib import Path
from typing import Any


def add_export_command(commands: Any) -> None:
    """Add ``export`` to the sub-parsers of ``meddap``."""
    text = "a classifier as one file: ONNX (.onnx) or TorchScript (.ts), its answers compared"
    parser = commands.add_parser("export", help=text, description=text)
    parser.add_argument("--model", type=Path, required=True, help="classifier folder")
    parser.add_argument("--output", type=Path, required=True, help="the file; .onnx or .ts")
    parser.set_defaults(run=_export)


def _export(options: argparse.Namespace) -> str:
    from meddap_monai.classifier.export import export_classifier

    return str(export_classifier(options.model, options.output))
