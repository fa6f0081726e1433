"""The stage ``mix``: how much synthetic? Real records of all splits plus chosen synthetic ones as training images.

The arms of a study are made here too: real only, real and synthetic, synthetic only, and the two controls (the real
images repeated to the same count; synthetic images with shuffled labels), so that a gain cannot come from mere numbers.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from meddap_monai import store
from meddap_monai.core.records import Record, class_names, read_records, write_records
from meddap_monai.core.seeds import derive_seed
from meddap_monai.errors import ConfigurationError, RecordsError
from meddap_monai.selection.filtering.decisions import COPY
from meddap_monai.selection.mixing.config import MixConfig
from meddap_monai.selection.mixing.ratio_search import Candidate, search


def mix(config: MixConfig, output: Path, *, records: Path, kept: Path | None = None, overwrite: bool = False) -> Path:
    """Write the training set of one arm, with the real validation and test images beside it.

    Args:
        config: arm and amount.
        output: folder of the stage.
        records: real records, all splits.
        kept: synthetic records of `select` (or of `generate`); may be left out for the arm "real".
        overwrite: throw away a folder of another configuration.

    Returns:
        ``<output>/hybrid.jsonl``: all real records plus the synthetic ones as split train. In the arm "synthetic" the
        real training images are left out.

    Raises:
        RecordsError: no synthetic images for an arm that needs them, or too few with ``short="error"``.
    """
    output = Path(output)
    with store.open_stage(output, "mix", config, {"records": records, "kept": kept}, overwrite=overwrite) as stage:
        if stage.done:
            return output / "hybrid.jsonl"
        extra = {}
        if config.mode == "search" and config.arm != "real":
            config, extra["search"] = _with_best_ratio(config, output / "search", Path(records), kept)
        real = read_records(records, source="real", full=True)
        training = [record for record in real if record["split"] == "train"]
        classes = class_names(records)
        synthetic = _read_synthetic(config, kept, classes)
        wanted = count_wanted(config, training, synthetic, classes)
        added = _compose(config, training, choose(config, synthetic, wanted))
        base = [record for record in real if config.arm != "synthetic" or record["split"] != "train"]
        write_records(output / "hybrid.jsonl", base + added)
        counts = {"in": len(real) + len(synthetic), "out": len(base) + len(added), "rejected": 0}
        counts |= {"real_train": len(training), "added": len(added)}
        per_class = Counter(record["class_name"] for record in added)
        stage.finish(counts, classes, added_per_class=dict(sorted(per_class.items())), wanted_per_class=wanted, **extra)
    return output / "hybrid.jsonl"


def _with_best_ratio(
    config: MixConfig, folder: Path, records: Path, kept: Path | None
) -> tuple[MixConfig, dict[str, Any]]:
    """Return the configuration with the ratio and threshold found on val, and the table of the search."""

    def at(candidate: Candidate) -> MixConfig:
        fixed = replace(config, arm="mixed", mode="ratio", ratio=candidate.ratio, rule=config.search.rule)
        return fixed if candidate.threshold is None else replace(fixed, min_score=candidate.threshold)

    def build(candidate: Candidate, output: Path) -> Path:
        return mix(at(candidate), output, records=records, kept=kept)

    chosen, table = search(config.search, folder, build, records, config.seed)
    return replace(at(chosen), arm=config.arm), table


def _read_synthetic(config: MixConfig, kept: Path | None, classes: Sequence[str]) -> list[Record]:
    unknown = sorted(set(config.classes) - set(classes))
    if unknown:
        raise ConfigurationError(f"mix#classes: unknown class {unknown[0]!r}, expected one of {', '.join(classes)}")
    if config.arm == "real":
        return []
    if kept is None:
        raise RecordsError(f"mix: arm {config.arm!r} needs synthetic images; give kept.jsonl of select")
    found = _with_score(config, Path(kept))
    if not found:
        raise RecordsError(f"{kept}: no synthetic image, expected some for arm {config.arm!r}; run select first")
    for record in found:
        if record["class_name"] not in classes:
            raise RecordsError(
                f"{kept}: record {record['id']} is of class {record['class_name']!r}, "
                f"expected one of {', '.join(classes)}"
            )
    return [record for record in found if not config.classes or record["class_name"] in config.classes]


def _with_score(config: MixConfig, kept: Path) -> list[Record]:
    """Return the kept images, or those of all scored ones that pass another threshold and are no copies."""
    if config.min_score is None:
        return read_records(kept, source="synthetic", full=True)
    scored = kept.with_name("scored.jsonl")
    found = read_records(scored if scored.is_file() else kept, source="synthetic", full=True)
    passing = []
    for record in found:
        selection = record.get("selection", {})
        if config.rule not in selection.get("scores", {}):
            raise RecordsError(
                f"{kept}: record {record['id']} has no score {config.rule!r}; add the rule to select#rules#use, or set "
                "mix#rule to one that was used"
            )
        copied = not selection["kept"] and COPY in selection["rule"].split("+")
        if selection["scores"][config.rule] >= config.min_score and not copied:
            passing.append(record)
    return passing


def count_wanted(
    config: MixConfig, training: Sequence[Record], synthetic: Sequence[Record], classes: Sequence[str]
) -> dict[str, int]:
    """Return how many synthetic images each class gets.

    Args:
        config: mode, ratio, classes.
        training: real training records.
        synthetic: what there is to choose from.
        classes: all class names.

    Raises:
        RecordsError: fewer than wanted, with ``short="error"``.
    """
    if config.arm == "real":
        return dict.fromkeys(classes, 0)
    real = Counter(record["class_name"] for record in training)
    there = Counter(record["class_name"] for record in synthetic)
    largest = max(real.values(), default=0)
    amounts = {
        "ratio": lambda name: round(config.ratio * real[name]),
        "double": lambda name: real[name],
        "balance": lambda name: largest - real[name],
        "all": lambda name: there[name],
    }
    wanted = {}
    for name in classes:
        wished = amounts[config.mode](name) if not config.classes or name in config.classes else 0
        if wished > there[name] and config.short == "error":
            raise RecordsError(
                f"mix: class {name!r}: {there[name]} kept synthetic images, {wished} wanted ({config.mode}); "
                "generate more, lower mix#ratio, or allow fewer with mix#short take"
            )
        wanted[name] = min(wished, there[name])
    return wanted


def choose(config: MixConfig, synthetic: Sequence[Record], wanted: dict[str, int]) -> list[Record]:
    """Return the wanted number of images per class, the best or random ones, in the order of their ids.

    A larger number always contains the images of a smaller one, so that ratios can be compared.
    """
    members: dict[str, list[Record]] = defaultdict(list)
    for record in sorted(synthetic, key=lambda item: item["id"]):
        members[record["class_name"]].append(record)
    chosen: list[Record] = []
    for name, count in wanted.items():
        pool = members[name]
        if config.order == "best":
            pool.sort(key=lambda record: -_score(record))
        else:
            random.Random(derive_seed(config.seed, "mix/choose", name)).shuffle(pool)
        chosen += pool[:count]
    return sorted(chosen, key=lambda record: record["id"])


def _score(record: Record) -> float:
    scores = record.get("selection", {}).get("scores", {})
    rule = str(record.get("selection", {}).get("rule", "")).split("+")[0]
    return float(scores.get(rule, 0.0))


def _compose(config: MixConfig, training: Sequence[Record], chosen: list[Record]) -> list[Record]:
    """Turn the chosen synthetic images into what the arm adds to the real records."""
    if config.arm == "duplicated":
        return duplicate(training, Counter(record["class_name"] for record in chosen))
    if config.arm == "shuffled":
        return shuffle_labels(chosen, config.seed)
    return chosen


def duplicate(training: Sequence[Record], wanted: Counter[str]) -> list[Record]:
    """Return copies of real training records, as many per class as `wanted`, each image equally often.

    Copies get ids ending in ``-copy<number>`` and point to the same image.

    Raises:
        RecordsError: a class has no real training image to repeat.
    """
    copies: list[Record] = []
    for name, count in sorted(wanted.items()):
        pool = sorted((record for record in training if record["class_name"] == name), key=lambda item: item["id"])
        if not pool:
            raise RecordsError(f"mix: class {name!r}: no real training image to repeat; leave the class out")
        for number in range(count):
            turn, place = divmod(number, len(pool))
            copies.append(pool[place] | {"id": f"{pool[place]['id'][:68]}-copy{turn + 1}"})
    return copies


def shuffle_labels(chosen: Sequence[Record], seed: int) -> list[Record]:
    """Return the records with their labels permuted among themselves: the same counts per class, no information."""
    order = list(range(len(chosen)))
    random.Random(derive_seed(seed, "mix/shuffle")).shuffle(order)
    return [
        record | {"label": chosen[other]["label"], "class_name": chosen[other]["class_name"]}
        for record, other in zip(chosen, order, strict=True)
    ]
