"""The stage ``evaluate``: all arms and seeds on the own and on the unseen test set, a verdict, and the report."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from meddap_monai import store
from meddap_monai.classifier.predict import load_classifier
from meddap_monai.classifier.settings import ClassifyConfig
from meddap_monai.classifier.train import classify
from meddap_monai.configuration import check_choice, check_range
from meddap_monai.errors import ConfigurationError, LeakedRecords
from meddap_monai.evaluation import arms as arm_names
from meddap_monai.evaluation import judge as judging
from meddap_monai.evaluation.comparisons import RULE
from meddap_monai.evaluation.curves import roc_of_arms
from meddap_monai.evaluation.generative import measure
from meddap_monai.evaluation.material import class_counts, read_sections, records_of
from meddap_monai.evaluation.predictions import Predictions, Run, predict_run, test_rows
from meddap_monai.evaluation.subgroups import subgroup_table
from meddap_monai.evaluation.weighted import METRICS, NAMES
from meddap_monai.records import read_records

__all__ = ["EvaluateConfig", "Run", "evaluate"]

SETS = {"own": "own test set", "unseen": "unseen test set"}
COMPARED = ("auc", "macro_f1", "balanced_accuracy", "accuracy")


@dataclass(frozen=True)
class EvaluateConfig:
    """How the arms are judged.

    Attributes:
        question: what the report answers, as its headline.
        metric: the one metric of the verdict; the others are shown.
        confidence: of the intervals.
        level: of significance after Holm's correction.
        samples: bootstrap replicates over patients and seeds.
        hog: train the sanity arm (HOG and logistic regression on the real images) for every seed.
        generative: compute FID, KID, precision, recall and diversity of the synthetic images when they are given.
        pictures: pictures per class and source in the report.
        title: of the page.
        command: the command that repeats the study, shown in the report.
        device: torch device.
        seed: of the bootstrap.
    """

    question: str = "Does training with synthetic images help the classifier?"
    metric: str = "auc"
    confidence: float = 0.95
    level: float = 0.05
    samples: int = 1000
    hog: bool = True
    generative: bool = True
    pictures: int = 6
    title: str = "Synthetic ultrasound for training: what it did"
    command: str = ""
    device: str = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice(self.metric, METRICS, "evaluate#metric")
        check_range(self.confidence, 0.5, 0.999, "evaluate#confidence")
        check_range(self.level, 1e-6, 0.5, "evaluate#level")
        check_range(self.samples, 20, 1_000_000, "evaluate#samples")
        check_range(self.pictures, 0, 24, "evaluate#pictures")


def evaluate(
    config: EvaluateConfig,
    output: Path,
    *,
    runs: Sequence[Run],
    unseen: Path | None = None,
    sections: Mapping[str, Path] | None = None,
    guards: Sequence[Path] = (),
    overwrite: bool = False,
) -> Path:
    """Judge trained classifiers and write ``report.html``, ``report.json``, tables and predictions.

    Args:
        config: how.
        output: folder of this evaluation.
        runs: the classifiers; runs of equal seed share their draw and are compared with each other.
        unseen: records of the unseen test set.
        sections: stage name -> folder of the study's other stages, shown in the report where given.
        guards: further trained things (base, adapters, filter) that must not have seen a test image.
        overwrite: replace another evaluation.

    Returns:
        Path of ``report.html``.

    Raises:
        LeakedRecords: a test or unseen image is among the training images, or is synthetic.
        ConfigurationError: no run, or an arm and seed twice.
    """
    output, sections = Path(output), {name: Path(folder) for name, folder in (sections or {}).items()}
    check_runs(runs)
    inputs: dict[str, Any] = {f"{run.arm} {run.seed} model": Path(run.model) / "model.pt" for run in runs}
    inputs |= {f"{run.arm} {run.seed} records": Path(run.records) for run in runs}
    inputs |= {f"section {name}": folder / "stage.json" for name, folder in sections.items()} | {"unseen": unseen}
    with store.open_stage(output, "evaluate", config, inputs, overwrite) as stage:
        if not stage.done:
            everything = [*runs, *(_hog_runs(config, output, runs) if config.hog else [])]
            tables = predict_all(config, output, everything, unseen, guards)
            report = build_report(config, everything, tables, sections)
            report["generative"] = without_nan(_generative(config, runs, tables["own"], sections))
            from meddap_monai.evaluation.page import write_report

            write_report(output, report, tables, config, sections)
            counts = {"in": len(everything), "out": len(everything), "rejected": 0}
            first = next(iter(tables["own"].values()))
            stage.finish(counts, classes=next(iter(first.values())).classes, verdicts=report["verdicts"])
    return output / "report.html"


def check_runs(runs: Sequence[Run]) -> None:
    """Refuse an empty list and an arm and seed that occur twice."""
    if not runs:
        raise ConfigurationError("evaluate: got no runs, expected at least one trained classifier")
    seen: set[tuple[str, int]] = set()
    for run in runs:
        if (run.arm, run.seed) in seen:
            raise ConfigurationError(f"evaluate: arm {run.arm!r} with seed {run.seed} occurs twice; expected each once")
        seen.add((run.arm, run.seed))


def _hog_runs(config: EvaluateConfig, output: Path, runs: Sequence[Run]) -> list[Run]:
    if any(arm_names.base_arm(run.arm) == arm_names.HOG for run in runs):
        return []
    found: dict[int, Path] = {}
    for run in runs:
        found.setdefault(run.seed, run.records)
    made = []
    for seed, records in sorted(found.items()):
        ask = ClassifyConfig(network="hog", head="logistic", size=128, seed=seed, pictures=False)
        folder = output / "hog" / f"seed_{seed}"
        made.append(Run(arm_names.HOG, seed, classify(ask, folder, records=records), records))
    return made


def predict_all(
    config: EvaluateConfig, output: Path, runs: Sequence[Run], unseen: Path | None, guards: Sequence[Path]
) -> dict[str, dict[str, dict[int, Predictions]]]:
    """Return test set -> arm -> seed -> predictions.

    Raises:
        LeakedRecords: see `evaluate`; also when two arms of a seed have different test images.
    """
    far = test_rows(unseen, "unseen") if unseen else None
    tables: dict[str, dict[str, dict[int, Predictions]]] = {"own": {}}
    if far:
        tables["unseen"] = {}
    own_rows: dict[Path, list[dict[str, Any]]] = {}
    for run in tqdm(runs, desc="evaluate", unit="run", disable=None):
        records = Path(run.records)
        if records not in own_rows:
            own_rows[records] = test_rows(records, "test")
        for name, rows in (("own", own_rows[records]), ("unseen", far)):
            if rows:
                cache = output / "predictions" / f"{run.arm}-{run.seed}-{name}.csv"
                found = predict_run(run, rows, cache, guards, config.device)
                tables[name].setdefault(run.arm, {})[run.seed] = found
    for arm in tables["own"].values():
        for seed, found in arm.items():
            first = next(other[seed] for other in tables["own"].values() if seed in other)
            if [row["id"] for row in first.rows] != [row["id"] for row in found.rows]:
                raise LeakedRecords(f"seed {seed}: the arms have different own test images; give all the same records")
    return tables


def build_report(
    config: EvaluateConfig, runs: Sequence[Run], tables: Mapping[str, judging.Table], sections: Mapping[str, Path]
) -> dict[str, Any]:
    """Return everything the report says, as JSON values."""
    judged = {
        name: judging.judge(table, name == "unseen", config.samples, config.seed) for name, table in tables.items()
    }
    hidden = {
        name: judging.judge(table, name == "unseen", config.samples, config.seed, mask=True)
        for name, table in tables.items()
        if _lacks_classes(table)
    }
    compared = {
        name: judging.compare_all(found, _compared(config), config.confidence, config.seed)
        for name, found in judged.items()
    }
    judging.correct([row for rows in compared.values() for row in rows])
    found_verdicts = [
        verdict
        for name, rows in compared.items()
        for verdict in judging.verdicts(rows, judged[name], name, config.metric, config.level)
    ]
    sets = {}
    for name, table in tables.items():
        sets[name] = {
            **_describe(name, table),
            "arms": judging.summarise(judged[name], config.confidence, config.seed),
            "masked": judging.summarise(hidden[name], config.confidence, config.seed) if name in hidden else None,
            "details": judging.details(table),
            "comparisons": [row | {"found": asdict(row["found"])} for row in compared[name]],
            "subgroups": subgroup_table(table, name == "unseen", config.samples, config.seed, config.confidence),
            "roc": roc_of_arms(table),
        }
    reference = arm_names.counterpart(arm_names.REFERENCE, "", list(judged["own"].seeds))
    report = {
        "title": config.title,
        "question": config.question,
        "rule": RULE.format(
            confidence=config.confidence,
            metric=NAMES[config.metric],
            reference=reference or arm_names.SECOND_REFERENCE,
            level=config.level,
        ),
        "metric": config.metric,
        "confidence": config.confidence,
        "samples": config.samples,
        "seeds": sorted({run.seed for run in runs}),
        "arms": {arm: arm_names.meaning(arm) for arm in arm_names.in_order({run.arm for run in runs})},
        "classes": next(iter(next(iter(tables["own"].values())).values())).classes,
        "verdicts": found_verdicts,
        "draw": class_counts(read_records(runs[0].records, full=True)),
        "sets": sets,
        "sections": read_sections(sections),
        "command": config.command,
        "versions": store.versions(),
    }
    return without_nan(report)


def _generative(
    config: EvaluateConfig, runs: Sequence[Run], own: judging.Table, sections: Mapping[str, Path]
) -> dict[str, Any] | None:
    """Measure the synthetic images of the sections in the features of a classifier trained on real images only."""
    real = [run for run in runs if arm_names.base_arm(run.arm) in (arm_names.REFERENCE, arm_names.SECOND_REFERENCE)]
    wanted = {"generated": "generate", "kept by the filter": "select"}
    found: dict[str, Sequence[dict[str, Any]]] = {
        name: [row for row in records_of(sections[part]) if row["source"] == "synthetic"]
        for name, part in wanted.items()
        if part in sections
    }
    if not config.generative or not real or not any(found.values()):
        return None
    run = min(real, key=lambda item: (item.seed, item.arm != arm_names.REFERENCE))
    model = load_classifier(run.model, config.device)
    if model.config.head != "none":
        return None
    return measure(model, f"{run.arm}, seed {run.seed}", own[run.arm][run.seed].rows, found, config.seed)


def _compared(config: EvaluateConfig) -> tuple[str, ...]:
    return (config.metric, *[name for name in COMPARED if name != config.metric])


def _lacks_classes(table: judging.Table) -> bool:
    return any(len(np.unique(found.labels)) < len(found.classes) for runs in table.values() for found in runs.values())


def _describe(name: str, table: judging.Table) -> dict[str, Any]:
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


def without_nan(value: Any) -> Any:
    """Return nested values with NaN and infinities as None, which JSON knows."""
    if isinstance(value, Mapping):
        return {str(key): without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value


def read_report(folder: Path | str) -> dict[str, Any]:
    """Return the ``report.json`` of a finished evaluation."""
    return dict(json.loads((Path(folder) / "report.json").read_text(encoding="utf-8")))
