"""Two commands over generation: a DICOM folder in and one of marked synthetic images out; a shard made again."""

import argparse
from pathlib import Path
from typing import Any

from meddap_monai.core.configuration import build
from meddap_monai.core.ids import check_data, nest, read_pairs


def add_generation_commands(commands: Any) -> None:
    """Add ``synthesize`` and ``remake`` to the sub-parsers of ``meddap``."""
    text = "DICOM folder in, DICOM folder of marked synthetic images out"
    parser = commands.add_parser("synthesize", help=text, description=text)
    parser.add_argument("--source", type=Path, required=True, help="folder of ultrasound files, one folder per class")
    parser.add_argument("--output", type=Path, default=Path("runs/synthesize"))
    _add_models(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace an output of another configuration")
    parser.add_argument("overrides", nargs="*", metavar="ID=VALUE", help="e.g. ratio=2, mode=image, index#labels=csv")
    parser.set_defaults(run=_synthesize)
    parser.configuration = _generate_config
    parser.epilog = "Keys of index are written index#KEY=VALUE; meddap index --help lists them."
    text = "make one shard of a run again from its records and compare"
    parser = commands.add_parser("remake", help=text, description=text)
    parser.add_argument("generated", type=Path, help="output folder of generate")
    parser.add_argument("shard", type=int, help="its number, synthetic.shard in the record of an image")
    parser.add_argument("--records", type=Path, required=True, help="the records file that generate was given")
    parser.add_argument("--output", type=Path, required=True, help="another folder")
    _add_models(parser)
    parser.set_defaults(run=_remake)


def _add_models(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--base", default="embedded", help="'embedded' (default), a Stable Diffusion folder or a hub id"
    )
    parser.add_argument("--adapters", nargs="*", default=[], help="adapter folders or files")


def _generate_config() -> type:
    from meddap_monai.diffusion.generation.config import GenerateConfig

    return GenerateConfig


def _synthesize(options: argparse.Namespace) -> str:
    from meddap_monai.diffusion.generation.config import GenerateConfig
    from meddap_monai.images.indexing.config import IndexConfig
    from meddap_monai.store import read_stage

    types = {"index": IndexConfig, "generate": GenerateConfig}
    pairs = read_pairs(options.overrides, types, "generate", types)
    check_data(pairs, "command line")
    keys = nest(pairs)
    for name, cls in types.items():
        needed = {"source": options.source} if name == "index" else {}
        build(cls, {**(keys.get(name) or {}), **needed}, name)
    from meddap_monai.diffusion.generation.nearness import derived_text
    from meddap_monai.diffusion.generation.synthesize import synthesize_folder

    folder = synthesize_folder(
        options.source,
        options.output,
        index_keys=keys.get("index"),
        generate_keys=keys.get("generate"),
        base=options.base,
        adapters=options.adapters,
        overwrite=options.overwrite,
    )
    made = len(list(folder.iterdir()))
    said = derived_text(read_stage(folder.parent)["counts"], made)
    return "\n".join([*([said] if said else []), f"{made} synthetic DICOM files: {folder}"])


def _remake(options: argparse.Namespace) -> str:
    from meddap_monai.diffusion.generation.remake import remake_shard

    found = remake_shard(
        options.generated,
        options.shard,
        options.output,
        records=options.records,
        base=options.base,
        adapters=options.adapters,
    )
    equal = sum(item.equal for item in found)
    largest = max(item.levels for item in found)
    return f"{equal} of {len(found)} images equal byte for byte; largest difference {largest} grey levels"
