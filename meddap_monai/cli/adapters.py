"""``meddap adapter inspect | verify | convert | merge | publish``."""

import argparse
from pathlib import Path
from typing import Any

import yaml


def add_adapter_command(commands: Any) -> None:
    """Add the command ``adapter`` with its five actions to the sub-parsers of ``meddap``."""
    text = "look at, check, convert, merge or publish adapters"
    actions = commands.add_parser("adapter", help=text, description=text).add_subparsers(
        required=True, metavar="ACTION"
    )
    inspect = _action(actions, "inspect", "print what an adapter is and how it was trained", _inspect)
    inspect.add_argument("path", type=Path, help="adapter folder or .safetensors file")
    verify = _action(actions, "verify", "load an adapter on its base and check everything", _verify)
    verify.add_argument("path", type=Path, help="adapter folder or .safetensors file")
    convert = _action(actions, "convert", "write an adapter for other tools", _convert)
    convert.add_argument("path", type=Path, help="adapter folder or .safetensors file")
    convert.add_argument("--to", required=True, help="diffusers or kohya")
    convert.add_argument("--output", type=Path, required=True, help="new .safetensors file")
    merge = _action(actions, "merge", "write a base with adapters merged into its weights", _merge)
    merge.add_argument("paths", type=Path, nargs="+", help="adapter folders or files")
    merge.add_argument("--weights", type=float, nargs="*", default=[], help="one per adapter (default: all 1)")
    merge.add_argument("--output", type=Path, required=True, help="new base folder")
    publish = _action(actions, "publish", "write a folder for the Hugging Face hub; nothing is uploaded", _publish)
    publish.add_argument("path", type=Path, help="adapter folder")
    publish.add_argument("--output", type=Path, required=True, help="new folder")
    publish.add_argument("--licence", required=True, help="of the weights, as in CC-BY-4.0")
    publish.add_argument("--data", required=True, help="the training images in a sentence: which, whose, which licence")
    publish.add_argument("--base-model", help="what the base is called on the hub, as in owner/name")
    publish.add_argument("--selection", type=Path, help="folder of select, for the figures about copies")
    publish.add_argument("--fingerprints", action="store_true", help="add coarse pictures of the training images")


def _action(actions: Any, name: str, text: str, run: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=text, description=text)
    parser.add_argument(
        "--base", help="'embedded', a local Stable Diffusion folder or a hub id (default: the adapter's)"
    )
    parser.set_defaults(run=run)
    return parser


def _inspect(options: argparse.Namespace) -> str:
    from meddap_monai.diffusion.adapters.tools import inspect_adapter

    return yaml.safe_dump(inspect_adapter(options.path, options.base), sort_keys=False, allow_unicode=True).rstrip()


def _verify(options: argparse.Namespace) -> str:
    from meddap_monai.diffusion.adapters.tools import verify_adapter

    found = verify_adapter(options.path, options.base)
    sets = ", ".join(f"{part} ({kind})" for part, kind in found.sets.items())
    return (
        f"{options.path}: whole, finite, {found.parameters:,} parameters on {sets}, base {found.base}, effect "
        f"{found.effect:.3g}"
    )


def _convert(options: argparse.Namespace) -> str:
    from meddap_monai.diffusion.adapters.tools import convert_adapter

    return str(convert_adapter(options.path, options.output, options.to, options.base))


def _merge(options: argparse.Namespace) -> str:
    from meddap_monai.diffusion.adapters.tools import merge_adapters

    return str(merge_adapters(options.paths, options.output, options.base, options.weights))


def _publish(options: argparse.Namespace) -> str:
    from meddap_monai.diffusion.adapters.publishing import Publication, publish_adapter

    said = Publication(
        options.licence, options.data, options.base_model, options.selection, fingerprints=options.fingerprints
    )
    return str(publish_adapter(options.path, options.output, said, options.base))
