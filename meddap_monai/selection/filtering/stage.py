"""The stage ``select``: which synthetic images to believe.

A classifier trained on the real training images only, by grouped K-fold, says how far each synthetic image looks like
its intended class; a copy check removes what repeats a training image. Dropped images stay on record with their reason.
"""

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from meddap_monai import store
from meddap_monai.core.progress import progress
from meddap_monai.core.records import Record, class_names, read_records
from meddap_monai.errors import RecordsError
from meddap_monai.selection.copies.detection import Images, calibrate, find_nearest
from meddap_monai.selection.filtering import frozen_features
from meddap_monai.selection.filtering.config import SelectConfig
from meddap_monai.selection.filtering.decisions import CopyCheck, check_copies, decide, require_every_class
from meddap_monai.selection.filtering.fitted import fit_filter
from meddap_monai.selection.filtering.outcome import filter_words, summarise, write_outcome
from meddap_monai.selection.filtering.rule_features import for_rules
from meddap_monai.selection.filtering.rules import Evidence, RuleConfig
from meddap_monai.selection.filtering.selection_figures import show_in_projector, write_figures, write_scalars
from meddap_monai.selection.filtering.spread import spread_select
from meddap_monai.selection.pixels import read_squares, to_thumbnails

THUMBNAIL = 64


@dataclass(frozen=True)
class _Inputs:
    classes: list[str]
    everything: list[Record]
    training: list[Record]
    synthetic: list[Record]

    def labels(self, records: Sequence[Record]) -> np.ndarray:
        return np.array([self.classes.index(record["class_name"]) for record in records])


def select(config: SelectConfig, output: Path, *, records: Path, generated: Path, overwrite: bool = False) -> Path:
    """Judge synthetic images and keep the credible ones.

    Args:
        config: rules, filter, copy check.
        output: folder of the stage: ``kept.jsonl``, ``scored.jsonl``, ``dropped.csv``, ``selection.json``,
            ``filter/``, ``features/``, ``figures/``, ``tensorboard/``.
        records: real records; only split train is looked at.
        generated: synthetic records.
        overwrite: throw away a folder of another configuration.

    Returns:
        ``<output>/kept.jsonl``.

    Raises:
        EmptyClass: nothing is left of a generated class; ``dropped.csv`` is written all the same.
        LeakedRecords: a training image also stands in another split.
        RecordsError: the records do not fit together.
    """
    output = Path(output)
    inputs = {"records": records, "generated": generated}
    with store.open_stage(output, "select", config, inputs, overwrite=overwrite) as stage:
        if stage.done:
            return output / "kept.jsonl"
        data = _read_inputs(Path(records), Path(generated))
        spread_select(config, output, Path(records), data.training, data.synthetic)
        _run(config, output, data, stage)
    return output / "kept.jsonl"


def _read_inputs(records: Path, generated: Path) -> _Inputs:
    classes = class_names(records)
    everything = read_records(records, source="real", full=True)
    training = [record for record in everything if record["split"] == "train"]
    synthetic = read_records(generated, full=True)
    if not training:
        raise RecordsError(f"{records}: no real image in split train, expected at least 2 patients per class")
    if not synthetic:
        raise RecordsError(f"{generated}: no image, expected synthetic ones; run generate first")
    present = {record["class_name"] for record in training}
    for record in synthetic:
        if record["source"] != "synthetic":
            raise RecordsError(f"{generated}: record {record['id']} is {record['source']}, expected synthetic only")
        if record["class_name"] not in present:
            raise RecordsError(
                f"{generated}: record {record['id']} is of class {record['class_name']!r}, of which {records} has no "
                f"real training image; expected one of {', '.join(sorted(present))}"
            )
    return _Inputs(classes, everything, training, synthetic)


def _run(config: SelectConfig, output: Path, data: _Inputs, stage: store.Stage) -> None:
    with progress(total=4, desc="select", unit="part") as bar:
        real_images = _read(config, data.training)
        images = _read(config, data.synthetic)
        board = output / "tensorboard" if config.pictures else None
        fitted = fit_filter(
            config.filter, data.training, real_images[0], data.everything, data.classes, output, config.seed, board
        )
        bar.update()
        cache, name, device = output / "features", config.features, config.filter.device
        predicted = fitted.judge.predict(data.synthetic, images[0], cache / "filter_synthetic.npy")
        real = for_rules(name, fitted.predicted, data.training, real_images[0], cache / "real.npy", device)
        own = for_rules(name, predicted, data.synthetic, images[0], cache / "synthetic.npy", device)
        evidence = Evidence(
            data.labels(data.synthetic), predicted, own.per_fold, data.labels(data.training), fitted.predicted,
            real.per_fold, fitted.fold, fitted.temperature,
        )  # fmt: skip
        bar.update()
        copies = _check_copies(config, data, images, real_images, cache)
        decision = decide(evidence, config.rules, copies, config.copies.action, fitted.measured["tells_classes_apart"])
        scored = write_outcome(output, data.synthetic, decision, config.rules, config.copies)
        summary = summarise(scored, decision, data.classes)
        summary["filter"] = measured = fitted.measured
        store.write_json(output / "selection.json", summary)
        bar.update()
        if board:
            write_figures(output, data.synthetic, images[1], real_images[1], decision, data.classes)
            write_scalars(board, summary)
            both = np.concatenate([real_images[1], images[1]]), np.concatenate([real.joined, own.joined])
            show_in_projector(board, [*data.training, *data.synthetic], *both)
        bar.update()
    require_every_class(decision, data.synthetic, str(output))
    kept = int(decision.kept.sum())
    removed = Counter(reasons[0] for reasons in decision.reasons if reasons)
    counts = {"in": len(scored), "out": kept, "rejected": len(scored) - kept}
    words = filter_words(measured)
    if not measured["tells_classes_apart"]:
        words += "; " + _without_thresholds(config.rules)
        warnings.warn(f"select: {words}", stacklevel=2)
    shown = {key: value for key, value in measured.items() if key != "confusion"}
    stage.finish(counts, data.classes, removed_by=dict(sorted(removed.items())), filter=shown, said=words)


def _without_thresholds(rules: RuleConfig) -> str:
    if rules.fallback is None:
        return "its thresholds decided all the same (select#rules#fallback is null)"
    if rules.quota is not None:
        return f"in place of its thresholds the quota of {rules.quota} of each class decided"
    return (
        f"in place of its thresholds the best {100 * rules.fallback:.0f} % of each class were kept "
        "(select#rules#fallback); give more real images, or another select#filter#encoder"
    )


def _read(config: SelectConfig, records: Sequence[Record]) -> tuple[np.ndarray, np.ndarray]:
    """Return what the filter sees, (N, C, S, S) uint8, and the copy check's thumbnails, (N, 64, 64) float16."""
    predicted = config.filter
    squares = read_squares(records, predicted.resolution, predicted.channels, predicted.fit, config.threads)
    if predicted.fit == "stretch" and predicted.resolution >= THUMBNAIL:
        return squares, to_thumbnails(squares, THUMBNAIL)
    return squares, to_thumbnails(read_squares(records, THUMBNAIL, threads=config.threads), THUMBNAIL)


def _check_copies(
    config: SelectConfig,
    data: _Inputs,
    images: tuple[np.ndarray, np.ndarray],
    real_images: tuple[np.ndarray, np.ndarray],
    cache: Path,
) -> CopyCheck | None:
    """Compare the pairs of `_read`; the features are those of `CopyConfig.features`."""
    asked = config.copies
    if asked.action == "off":
        return None

    def features(records: Sequence[Record], squares: np.ndarray, name: str) -> np.ndarray:
        path = cache / f"copies_{name}.npy"
        return frozen_features.extract(asked.features, records, squares, path, config.filter.device)

    patients = [record["patient"] for record in data.training]
    known = Images(real_images[1], features(data.training, real_images[0], "real"), patients)
    thresholds = calibrate(known, asked)
    sources = [""] * len(data.synthetic)
    if asked.own_source == "skip":
        patient_of = {record["id"]: record["patient"] for record in data.training}
        sources = [patient_of.get(str(record["synthetic"].get("source_id")), "") for record in data.synthetic]
    queries = Images(images[1], features(data.synthetic, images[0], "synthetic"), sources)
    return check_copies(find_nearest(queries, known, asked), thresholds, data.training)
