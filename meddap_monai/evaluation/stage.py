"""The stage ``evaluate``: all arms and seeds on the own and on the unseen test set, a verdict, and the report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from meddap_monai import store
from meddap_monai.classifier.config import ClassifyConfig
from meddap_monai.classifier.stage import classify
from meddap_monai.core.progress import progress
from meddap_monai.errors import ConfigurationError, LeakedRecords
from meddap_monai.evaluation import arms as arm_names
from meddap_monai.evaluation.config import EvaluateConfig
from meddap_monai.evaluation.predictions import ClassifierRun, DecodedOnce, Predictions, predict_run
from meddap_monai.evaluation.report.cases import collect_cases
from meddap_monai.evaluation.report.content import build_report, generative_metrics, maps
from meddap_monai.evaluation.report.curves import write_curves
from meddap_monai.evaluation.report.page import write_report
from meddap_monai.evaluation.test_sets import TestSets, check_unseen_by, open_test_sets


def evaluate(
    config: EvaluateConfig,
    output: Path,
    *,
    runs: Sequence[ClassifierRun],
    unseen: Path | None = None,
    sections: Mapping[str, Path] | None = None,
    guards: Sequence[Path] = (),
    stages: Sequence[Path] = (),
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
        stages: stage folders of all seeds and variants; what they took and left out is added up in the report.
        overwrite: replace another evaluation.

    Returns:
        Path of ``report.html``.

    Raises:
        LeakedRecords: a test or unseen image is among the training images, or is synthetic; before anything is trained.
        ConfigurationError: no run, or an arm and seed twice.
    """
    output, sections = Path(output), {name: Path(folder) for name, folder in (sections or {}).items()}
    check_runs(runs)
    inputs: dict[str, Any] = {f"{run.arm} {run.seed} model": Path(run.model) / "model.pt" for run in runs}
    inputs |= {f"{run.arm} {run.seed} records": Path(run.records) for run in runs}
    inputs |= {f"section {name}": folder / "stage.json" for name, folder in sections.items()} | {"unseen": unseen}
    inputs |= {"stages": _stages_hash(stages)} if stages else {}
    with store.open_stage(output, "evaluate", config, inputs, overwrite) as stage:
        if not stage.done:
            sets = open_test_sets(runs, unseen, guards, config.exclude_seen, output)
            trained_here = _hog_runs(output, runs) if config.hog else []
            for run in trained_here:
                check_unseen_by(run, sets)
            everything = [*runs, *trained_here]
            tables = predict_all(config, output, everything, sets)
            report = build_report(config, everything, tables, sections, stages) | {"left_out": sets.left_out}
            report["generative"] = generative_metrics(config, runs, tables["own"], sections)
            report["maps"] = maps(config, runs, tables, sections)
            report["cases"] = collect_cases(runs, tables, config.pictures, config.device)
            report["reading"] = None  # readers come later: `meddap review --report` adds what they said
            write_report(output, report, config.pictures, sections)
            write_curves(output / "tensorboard", report, tables)
            counts = {"in": len(everything), "out": len(everything), "rejected": 0, "seen_left_out": sets.left_out}
            first = next(iter(tables["own"].values()))
            stage.finish(counts, classes=next(iter(first.values())).classes, verdicts=report["verdicts"])
    return output / "report.html"


def _stages_hash(stages: Sequence[Path]) -> str:
    """One hash of what stage folders say about themselves."""
    said = [store.read_text(path) for folder in stages if (path := Path(folder) / "stage.json").is_file()]
    return store.sha256_text("\n".join(said))


def check_runs(runs: Sequence[ClassifierRun]) -> None:
    """Refuse an empty list and an arm and seed that occur twice."""
    if not runs:
        raise ConfigurationError("evaluate: got no runs, expected at least one trained classifier")
    seen: set[tuple[str, int]] = set()
    for run in runs:
        if (run.arm, run.seed) in seen:
            raise ConfigurationError(f"evaluate: arm {run.arm!r} with seed {run.seed} occurs twice; expected each once")
        seen.add((run.arm, run.seed))


def _hog_runs(output: Path, runs: Sequence[ClassifierRun]) -> list[ClassifierRun]:
    if any(arm_names.base_arm(run.arm) == arm_names.HOG for run in runs):
        return []
    found: dict[int, Path] = {}
    for run in runs:
        found.setdefault(run.seed, run.records)
    made = []
    for seed, records in sorted(found.items()):
        ask = ClassifyConfig(  # real images only, also where the records of a run are a hybrid
            encoder="hog",
            mode="probe",
            head="ridge",
            augmentation="none",
            resolution=128,
            seed=seed,
            synthetic_loss_weight=0.0,
            pictures=False,
        )
        folder = output / "hog" / f"seed_{seed}"
        made.append(ClassifierRun(arm_names.HOG, seed, classify(ask, folder, records=records), records))
    return made


def predict_all(
    config: EvaluateConfig, output: Path, runs: Sequence[ClassifierRun], sets: TestSets
) -> dict[str, dict[str, dict[int, Predictions]]]:
    """Return test set -> arm -> seed -> predictions.

    Raises:
        LeakedRecords: two arms of a seed have different test images.
    """
    tables: dict[str, dict[str, dict[int, Predictions]]] = {"own": {}}
    if sets.unseen:
        tables["unseen"] = {}
    decoded = DecodedOnce()
    for run in progress(sorted(runs, key=lambda run: run.seed), desc="evaluate", unit="run"):
        for name, rows in (("own", sets.own[Path(run.records)]), ("unseen", sets.unseen)):
            if rows:
                cache = output / "predictions" / f"{run.arm}-{run.seed}-{name}.csv"
                found = predict_run(run, rows, cache, config.device, decoded)
                tables[name].setdefault(run.arm, {})[run.seed] = found
    for arm in tables["own"].values():
        for seed, found in arm.items():
            first = next(other[seed] for other in tables["own"].values() if seed in other)
            if [row["id"] for row in first.rows] != [row["id"] for row in found.rows]:
                raise LeakedRecords(f"seed {seed}: the arms have different own test images; give all the same records")
    return tables


def read_report(folder: Path | str) -> dict[str, Any]:
    """Return the ``report.json`` of a finished evaluation."""
    return store.read_json(Path(folder) / "report.json")
