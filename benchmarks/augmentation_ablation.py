"""What each part of the ultrasound policy brings: it is left out, and the loss is measured on own and unseen images.

    python benchmarks/augmentation_ablation.py --records own/records.jsonl --unseen other/records.jsonl --output runs/a
        [--seeds 5] [--train 30] [--val 10] [--parts speckle,zoom] [steps=250 resolution=128 ...]

One draw of `--train` and `--val` images per class for each seed; the rest of the own images is its test set. On each
draw `classify` trains without augmentation, with the classical one, with the whole policy, and with the policy but for
one part at a time; equal seeds have equal first weights and batches. ``KEY=VALUE`` are keys of ``classify``. The table
shows the macro AUC over the classes present, and the difference to the whole policy, paired by seed. It goes on if run
again.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from machine import processor_name

from meddap_monai import ClassifyConfig, classify, store
from meddap_monai.augmentation.parts import PARTS
from meddap_monai.classifier.scoring import Classifier, load_classifier
from meddap_monai.core.configuration import build, field_types
from meddap_monai.core.constraints import check_choice
from meddap_monai.core.ids import nest, read_pairs
from meddap_monai.core.records import Record, class_names, draw_split, iter_records, read_records, write_records
from meddap_monai.evaluation.test_sets import test_rows
from meddap_monai.statistics.metrics import macro_auc, masked

WHOLE = "ultrasound"


def arms(config: ClassifyConfig, parts: Sequence[str]) -> dict[str, ClassifyConfig]:
    """Return arm -> configuration: two references, the whole policy, and one without each part."""
    whole = dataclasses.replace(config, augmentation="ultrasound", augmentation_without=())
    found = {name: dataclasses.replace(whole, augmentation=name) for name in ("none", "classical", WHOLE)}
    return found | {f"without {part}": dataclasses.replace(whole, augmentation_without=(part,)) for part in parts}


def draw(records: Path, output: Path, options: argparse.Namespace, seed: int) -> Path:
    """Draw the small data set of one seed; return its records file."""
    configuration = {"train": options.train, "val": options.val, "seed": seed}
    with store.open_stage(output, "index", configuration, {"records": records}) as stage:
        if not stage.done:
            drawn = draw_split(iter_records(records), options.train, options.val, seed)
            count = write_records(output / "records.jsonl", drawn)
            stage.finish({"in": count, "out": count, "rejected": 0}, classes=class_names(records))
    return output / "records.jsonl"


def auc(model: Classifier, rows: Sequence[Record]) -> float:
    """Return the macro AUC over the classes that are present; classes meet by their names."""
    labels = np.array([model.classes.index(row["class_name"]) for row in rows])
    return macro_auc(masked(model.probabilities(rows), labels), labels)


def measure(options: argparse.Namespace, config: ClassifyConfig) -> dict[str, dict[str, list[float]]]:
    """Train every arm on every seed; return arm -> set -> AUC per seed."""
    found: dict[str, dict[str, list[float]]] = {}
    for seed in range(options.seeds):
        records = draw(options.records, options.output / f"seed_{seed}" / "draw", options, seed)
        sets = {"own": test_rows(records, read_records(records, full=True), "test")}
        if options.unseen:
            sets["unseen"] = test_rows(options.unseen, read_records(options.unseen, full=True), "unseen")
        for arm, chosen in arms(dataclasses.replace(config, seed=seed), options.parts).items():
            folder = options.output / f"seed_{seed}" / arm.replace(" ", "_")
            model = load_classifier(classify(chosen, folder, records=records), chosen.device)
            for name, rows in sets.items():
                found.setdefault(arm, {}).setdefault(name, []).append(auc(model, rows))
    return found


def table(found: dict[str, dict[str, list[float]]]) -> str:
    """Return the table, Markdown: mean and standard deviation over seeds, and the paired difference to the policy."""
    sets = list(found[WHOLE])
    lines = ["| arm | " + " | ".join(f"{name} AUC | less the policy's" for name in sets) + " |"]
    lines.append("|" + " --- |" * (1 + 2 * len(sets)))
    for arm, values in found.items():
        cells = []
        for name in sets:
            cells.append(_spread(np.array(values[name]), ".3f"))
            cells.append("" if arm == WHOLE else _spread(np.array(values[name]) - found[WHOLE][name], "+.3f"))
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _spread(values: np.ndarray, form: str) -> str:
    return f"{values.mean():{form}} +- {values.std(ddof=min(1, len(values) - 1)):.3f}"


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the ablation; print and return its numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=Path, required=True, help="records file of index, real images")
    parser.add_argument("--unseen", type=Path, help="records file of another scanner's images")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--train", type=int, default=30, help="images per class")
    parser.add_argument("--val", type=int, default=10, help="images per class")
    parser.add_argument("--parts", default=",".join(PARTS), help="to leave out, one at a time")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="of classify")
    options = parser.parse_intermixed_args(arguments)
    options.parts = options.parts.split(",")
    for part in options.parts:
        check_choice(part, PARTS, "--parts")
    logging.disable(logging.WARNING)
    settings = {"pictures": False} | nest(read_pairs(options.settings, field_types(ClassifyConfig)))
    config = build(ClassifyConfig, settings, "classify")
    found = measure(options, config)
    store.write_json(options.output / "ablation.json", {"configuration": store.plain(config), "auc": found})
    print(f"machine: {processor_name()}; {options.seeds} seeds, {options.train} training images per class")
    print(table(found))
    return found


if __name__ == "__main__":
    main()
