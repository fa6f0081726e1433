"""What a report says, as plain JSON values: numbers of all arms, verdicts, curves, other stages' words, costs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from meddap_monai import store
from meddap_monai.classifier.scoring import load_classifier
from meddap_monai.core.records import read_records
from meddap_monai.evaluation import arms as arm_names
from meddap_monai.evaluation import bootstrap
from meddap_monai.evaluation.config import EvaluateConfig
from meddap_monai.evaluation.generative import measure
from meddap_monai.evaluation.predictions import ClassifierRun
from meddap_monai.evaluation.report.curves import calibration_of_arms, curves_of_arms
from meddap_monai.evaluation.report.material import class_counts, device_of, read_sections, records_of, sum_stages
from meddap_monai.evaluation.report.subgroups import subgroup_table
from meddap_monai.statistics.comparisons import LEAST_SEEDS, RULE
from meddap_monai.statistics.weighted import METRICS

SETS = {"own": "own test set", "unseen": "unseen test set"}
COMPARED = ("auc", "macro_f1", "balanced_accuracy", "accuracy")


def build_report(
    config: EvaluateConfig,
    runs: Sequence[ClassifierRun],
    tables: Mapping[str, bootstrap.Table],
    sections: Mapping[str, Path],
    stages: Sequence[Path] = (),
) -> dict[str, Any]:
    """Return everything the report says, as JSON values (but for NaN, which `store.write_json` writes as null)."""
    results = {name: bootstrap.bootstrap_metrics(table, config.samples, config.seed) for name, table in tables.items()}
    compared = {
        name: bootstrap.compare_all(found, _compared(config), config.confidence) for name, found in results.items()
    }
    bootstrap.correct([row for rows in compared.values() for row in rows])
    found_verdicts = [
        verdict
        for name, rows in compared.items()
        for verdict in bootstrap.verdicts(rows, results[name], name, config.metric, config.level)
    ]
    return {
        "title": config.title,
        "question": config.question,
        "rule": RULE.format(
            confidence=config.confidence,
            metric=METRICS[config.metric].words,
            level=config.level,
            least=LEAST_SEEDS,
        ),
        "metric": config.metric,
        "confidence": config.confidence,
        "samples": config.samples,
        "seeds": sorted({run.seed for run in runs}),
        "arms": {arm: arm_names.meaning(arm) for arm in arm_names.in_order({run.arm for run in runs})},
        "heads": _heads(runs),
        "classes": next(iter(next(iter(tables["own"].values())).values())).classes,
        "verdicts": found_verdicts,
        "training": _training_cost(runs),
        "draw": class_counts(read_records(runs[0].records, full=True)),
        "sets": _sets(config, runs, tables, results, compared),
        "sections": read_sections(sections),
        "stages": sum_stages([*stages, *sections.values()]),
        "command": config.command,
        "versions": store.versions(),
    }


def _sets(
    config: EvaluateConfig,
    runs: Sequence[ClassifierRun],
    tables: Mapping[str, bootstrap.Table],
    results: Mapping[str, bootstrap.BootstrapResults],
    compared: Mapping[str, Sequence[Mapping[str, Any]]],
) -> dict[str, dict[str, Any]]:
    """Return test set -> what was found on it; ``masked`` is None where no class is absent."""
    sizes = train_sizes(runs)
    sets = {}
    for name, table in tables.items():
        masked = None
        if _lacks_classes(table):
            hidden = bootstrap.bootstrap_metrics(table, config.samples, config.seed, mask=True)
            masked = bootstrap.summarise(hidden, config.confidence)
        found = bootstrap.summarise(results[name], config.confidence)
        sets[name] = {
            **_describe(name, table),
            "floor": bootstrap.floor(results[name], "", config.metric),
            "arms": found,
            "masked": masked,
            "details": bootstrap.details(table),
            "comparisons": [{**row, "found": asdict(row["found"])} for row in compared[name]],
            "subgroups": subgroup_table(table, config.samples, config.seed, config.confidence),
            "curves": curves_of_arms(table, config.samples, config.seed, config.confidence),
            "calibration": calibration_of_arms(table),
            "learning": learning_curves(found, sizes, config.metric),
        }
    return sets


def train_sizes(runs: Sequence[ClassifierRun]) -> dict[str, float]:
    """Return arm -> mean number of real training images that its draws hold."""
    sizes: dict[str, list[int]] = {}
    counted: dict[Path, int] = {}
    for run in runs:
        path = Path(run.records)
        if path not in counted:
            counted[path] = len(read_records(path, split="train", source="real"))
        sizes.setdefault(run.arm, []).append(counted[path])
    return {arm: sum(values) / len(values) for arm, values in sizes.items()}


def learning_curves(
    arms: Mapping[str, Mapping[str, Mapping[str, Any]]], sizes: Mapping[str, float], metric: str
) -> dict[str, list[dict[str, Any]]]:
    """Return base arm -> points over its variants, by number of real training images; one size makes one point."""
    lines: dict[str, dict[float, dict[str, Any]]] = {}
    for arm, values in arms.items():
        found = values[metric]
        point = {"x": sizes[arm], "mean": found["mean"], "low": found["low"], "high": found["high"]}
        lines.setdefault(arm_names.base_arm(arm), {}).setdefault(sizes[arm], point)
    return {arm: [points[size] for size in sorted(points)] for arm, points in lines.items()}


def _heads(runs: Sequence[ClassifierRun]) -> dict[str, str]:
    """Return arm -> its classical head and whose features it stands on; an arm that trains a network has none."""
    found: dict[str, dict[str, None]] = {}
    for run in runs:
        said = store.read_stage(run.model)
        if "head" in said:
            found.setdefault(run.arm, {})[f"{said['head']} on features of {said['features_of']}"] = None
    return {arm: "; ".join(said) for arm, said in found.items()}


def _training_cost(runs: Sequence[ClassifierRun]) -> dict[str, Any]:
    """Seconds that the classifiers took, from their ``cost.json``; the sanity arm is left out."""
    trained = [run for run in runs if arm_names.base_arm(run.arm) != arm_names.HOG]
    stages = [store.read_stage(run.model) for run in trained]
    seconds = sum(store.read_cost(run.model).get("seconds", 0.0) for run in trained)
    devices = sorted({device_of(stage) for stage in stages})
    return {"runs": len(trained), "cost": {"seconds": seconds, "device": ", ".join(devices), "out": len(trained)}}


def generative_metrics(
    config: EvaluateConfig, runs: Sequence[ClassifierRun], own: bootstrap.Table, sections: Mapping[str, Path]
) -> dict[str, Any] | None:
    """Measure the synthetic images of the sections in an encoder's features; a real-only classifier judges labels."""
    real = [run for run in runs if arm_names.base_arm(run.arm) in arm_names.REAL_ONLY]
    wanted = {"generated": "generate", "kept by the filter": "select"}
    found: dict[str, Sequence[dict[str, Any]]] = {
        name: [row for row in records_of(sections[part]) if row["source"] == "synthetic"]
        for name, part in wanted.items()
        if part in sections
    }
    if not config.generative or not real or not any(found.values()):
        return None
    run = min(real, key=lambda item: (item.seed, arm_names.REAL_ONLY.index(arm_names.base_arm(item.arm))))
    model = load_classifier(run.model, config.device)
    return measure(model, config.features, own[run.arm][run.seed].rows, found, config.seed)


def maps(
    config: EvaluateConfig,
    runs: Sequence[ClassifierRun],
    tables: Mapping[str, bootstrap.Table],
    sections: Mapping[str, Path],
) -> list[dict[str, Any]]:
    """Return the maps of `embedding.draw_maps`: real training, synthetic and test images; none unless asked for."""
    from meddap_monai.evaluation.embedding import chosen_runs, draw_maps

    shown = chosen_runs(runs) if config.embedding == "tsne" else []
    if not shown:
        return []
    made = next((sections[name] for name in ("select", "generate") if name in sections), None)
    far = "unseen" if "unseen" in tables else "own"
    sets: dict[str, Sequence[dict[str, Any]]] = {
        "real, training": read_records(shown[0].records, split="train", source="real", full=True),
        "synthetic": [row for row in records_of(made) if row["source"] == "synthetic"] if made else [],
        SETS[far]: tables[far][shown[0].arm][shown[0].seed].rows,
    }
    return draw_maps(shown, sets, config.device, config.seed)


def _compared(config: EvaluateConfig) -> tuple[str, ...]:
    return (config.metric, *[name for name in COMPARED if name != config.metric])


def _lacks_classes(table: bootstrap.Table) -> bool:
    return any(len(np.unique(found.labels)) < len(found.classes) for runs in table.values() for found in runs.values())


def _describe(name: str, table: bootstrap.Table) -> dict[str, Any]:
    all_predictions = [found for runs in table.values() for found in runs.values()]
    first = all_predictions[0]
    sizes = sorted({len(found.rows) for found in all_predictions})
    groups = sorted({len(set(found.groups)) for found in all_predictions})
    present = {row["class_name"] for found in all_predictions for row in found.rows}
    counts = {label: sum(row["class_name"] == label for row in first.rows) for label in first.classes}
    return {
        "name": SETS[name],
        "images": sizes,
        "groups": groups,
        "counts": counts,
        "absent": [label for label in first.classes if label not in present],
    }
