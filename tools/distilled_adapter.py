"""The distilled adapter of a base, by one command: with it the base draws in four steps what it draws in fifteen.

    python -m tools.distilled_adapter --base embedded --records runs/base/corpus/records.jsonl --output runs/distilled

The records give prompts (classes, and the words of `--columns`); none of their images is opened. The result goes beside
the base's weights, as ``distilled/`` in its folder, where `generate` finds it.
"""

import argparse
import dataclasses
from collections.abc import Iterable
from pathlib import Path

import yaml

from meddap_monai import store
from meddap_monai.core.configuration import build
from meddap_monai.core.records import iter_records
from meddap_monai.diffusion.adapting.config import AdaptConfig
from meddap_monai.diffusion.bases.base import EMBEDDED, Base, open_base
from meddap_monai.diffusion.bases.prompt_choice import tables_for

TRAINING = AdaptConfig(
    method="lcm", rank=16, steps=1500, batch=8, learning_rate=5e-4, schedule="cosine", warmup=50, ema=0.95,
    precision="bf16", validation_every=250, validation_images=16, samples_per_class=2, method_settings={"drawn": 1},
)  # fmt: skip


def write_words(base: Base, labels: Iterable[str], path: Path) -> Path:
    """Write one prompt table for labels of several of the base's tables: each class with its whole sentence."""
    names = sorted(set(labels))
    tables = tables_for(base.card["prompts"], names)
    knowing = {name: next(table for table in tables if name in table.classes) for name in names}
    sentences = {name: table.prompt(name) for name, table in knowing.items()}
    table = {"name": "base", "templates": ["{class}"], "classes": sentences}
    store.write_atomic(path, yaml.safe_dump(table, sort_keys=True))
    return path


def distil(base: str | Path, records: Path, output: Path, training: AdaptConfig = TRAINING) -> Path:
    """Train it and return the adapter's folder.

    Args:
        base: "embedded" or a folder.
        records: whose labels stand in the base's prompt tables.
        output: gets ``words.yaml`` and ``adapter``.
        training: settings of ``adapt`` but for the prompts.
    """
    from meddap_monai.diffusion.adapting.stage import adapt

    opened = open_base(base)
    words = write_words(opened, (record["class_name"] for record in iter_records(records)), output / "words.yaml")
    return adapt(dataclasses.replace(training, prompts=str(words)), output / "adapter", records=records, base=opened)


def main() -> None:
    """Train it; a second call goes on where the first one stopped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default=EMBEDDED, help="'embedded' or a folder")
    parser.add_argument("--records", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("runs/distilled"))
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings of adapt, e.g. steps=3000")
    given = parser.parse_args()
    changes = {key: yaml.safe_load(value) for key, _, value in (text.partition("=") for text in given.overrides)}
    training = build(AdaptConfig, store.plain(TRAINING) | changes, "adapt")
    print(distil(given.base, given.records, given.output, training))


if __name__ == "__main__":
    main()
