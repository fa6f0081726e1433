"""The experiment grid: arms x encoders x shares of the real data x seeds, resumable, on one machine or many.

Every cell is one ``mix`` and one ``classify`` folder that knows itself whether it is done. All cells take the same
number of optimizer steps. The result is one table as CSV and Markdown, one evaluation per encoder and share, and
learning curves.
"""

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from meddap_monai import store
from meddap_monai.classifier.many import Training, classify_all
from meddap_monai.core.progress import progress
from meddap_monai.core.records import Record, class_names, read_records, write_records
from meddap_monai.core.seeds import derive_seed
from meddap_monai.encoders.places import without_place
from meddap_monai.engines.engine import use_engine
from meddap_monai.errors import ConfigurationError
from meddap_monai.evaluation.arms import TRAINED_ARMS
from meddap_monai.evaluation.predictions import ClassifierRun
from meddap_monai.evaluation.report import figures
from meddap_monai.evaluation.report.page import MAIN_METRICS, markdown_table, results_rows
from meddap_monai.evaluation.stage import evaluate, read_report
from meddap_monai.selection.mixing.stage import mix
from meddap_monai.statistics.weighted import METRICS
from meddap_monai.study.apart import refuse_seen_unseen
from meddap_monai.study.grid_config import GridConfig
from meddap_monai.study.track import settings_of_arm


@dataclass(frozen=True)
class Draw:
    """One drawing of the small data set: real records with train, val and test, and the kept synthetic ones."""

    seed: int
    records: Path
    kept: Path | None = None


@dataclass(frozen=True)
class Cell:
    """One classifier of the grid."""

    encoder: str
    fraction: float
    arm: str
    draw: Draw

    @property
    def place(self) -> str:
        """Folder of its encoder and share, without separators of foreign names."""
        return f"{_file_name(without_place(self.encoder))}/{self.fraction:g}"


def _file_name(encoder: str) -> str:
    return encoder.replace(":", "-").replace("/", "-")


def run_grid(
    config: GridConfig,
    output: Path | str,
    *,
    draws: Sequence[Draw],
    unseen: Path | None = None,
    overwrite: bool = False,
) -> Path:
    """Train and judge every cell; return the folder with ``grid.csv``, ``grid.md`` and ``learning_curve-*.svg``.

    Args:
        config: what is crossed.
        output: folder of the grid; cells lie below and are skipped when done.
        draws: one per seed.
        unseen: records of the unseen test set.
        overwrite: see `classify`.

    Raises:
        ConfigurationError: no draw, or an arm needs synthetic images and a draw has none.
        LeakedRecords: an unseen image is among the training images of a draw; before anything is trained.
    """
    output = Path(output)
    cells = plan_cells(config, draws)
    if unseen and not config.evaluate.exclude_seen:
        refuse_seen_unseen(unseen, [draw.records for draw in draws])
    with use_engine(config.engine):
        made = progress(cells, desc="grid sets", unit="cell")
        prepared = [_prepare(config, output, cell, overwrite) for cell in made]
        classify_all([training for _, training in prepared], "grid", "cell")
    done = [run for run, _ in prepared]
    rows: list[dict[str, Any]] = []
    for leaf, column in groupby(zip(cells, done, strict=True), lambda pair: pair[0].place):
        (cell, *_), runs = zip(*column, strict=True)
        place = output / "evaluate" / leaf
        evaluate(config.evaluate, place, runs=runs, unseen=unseen, overwrite=overwrite)
        first = {"encoder": without_place(cell.encoder), "fraction": cell.fraction}
        rows += [first | row for row in results_rows(read_report(place))]
    store.write_atomic(output / "grid.csv", store.csv_text(rows[0], (row.values() for row in rows)))
    store.write_atomic(output / "grid.md", grid_markdown(rows))
    for test_set in sorted({row["test_set"] for row in rows}):
        for encoder in map(without_place, config.encoders):
            drawn = learning_curve(rows, encoder, test_set, config.evaluate.metric)
            store.write_atomic(output / f"learning_curve-{_file_name(encoder)}-{test_set}.svg", drawn)
    return output


def plan_cells(config: GridConfig, draws: Sequence[Draw]) -> list[Cell]:
    """Return all cells, seeds innermost.

    Raises:
        ConfigurationError: see `run_grid`.
    """
    if not draws:
        raise ConfigurationError("grid: got no draws, expected one per seed")
    synthetic_arms = [arm for arm in config.arms if TRAINED_ARMS[arm][0] != "real"]
    for draw in draws:
        if synthetic_arms and draw.kept is None:
            raise ConfigurationError(
                f"grid: arm {synthetic_arms[0]!r} needs synthetic images, seed {draw.seed} has none; give kept"
            )
    return [
        Cell(encoder, fraction, arm, draw)
        for encoder in config.encoders
        for fraction in config.fractions
        for arm in config.arms
        for draw in draws
    ]


def _prepare(config: GridConfig, output: Path, cell: Cell, overwrite: bool) -> tuple[ClassifierRun, Training]:
    """Write the training set of a cell, which others may share, so that no two workers meet in one folder."""
    seed = cell.draw.seed
    blend, train = settings_of_arm(
        cell.arm, config.arms, seed, config.mix, replace(config.classify, encoder=cell.encoder)
    )
    share = output / "shares" / f"{cell.fraction:g}" / f"seed_{seed}"
    records = take_share(cell.draw.records, share, cell.fraction, seed, overwrite)
    kept = None if blend.arm == "real" else cell.draw.kept
    blended = output / "mix" / f"{cell.fraction:g}" / blend.arm / f"seed_{seed}"
    hybrid = mix(blend, blended, records=records, kept=kept, overwrite=overwrite)
    model = output / "classify" / cell.place / cell.arm / f"seed_{seed}"
    return ClassifierRun(cell.arm, seed, model, records), Training(train, model, hybrid, overwrite)


def take_share(records: Path, folder: Path, fraction: float, seed: int, overwrite: bool = False) -> Path:
    """Keep a share of the training groups of each class; val and test stay. Return the records file.

    A group's place in the order depends on the seed only, so smaller shares lie inside larger ones.
    """
    if fraction >= 1:
        return records
    configuration = {"share": fraction, "seed": seed}
    with store.open_stage(folder, "index", configuration, {"records": records}, overwrite) as stage:
        if not stage.done:
            rows = read_records(records, full=True)
            kept = shrink(rows, fraction, seed)
            write_records(folder / "records.jsonl", kept)
            counts = {"in": len(rows), "out": len(kept), "rejected": len(rows) - len(kept)}
            stage.finish(counts, classes=class_names(records))
    return folder / "records.jsonl"


def shrink(rows: Sequence[Record], fraction: float, seed: int) -> list[Record]:
    """Return rows with only a share of the training images of each class, whole groups where they fit."""
    training: dict[str, list[Record]] = defaultdict(list)
    for row in rows:
        if row["split"] == "train":
            training[row["class_name"]].append(row)
    kept: set[str] = set()
    for members in training.values():
        groups = sorted({row["patient"] for row in members})
        random.Random(derive_seed(seed, "grid/share")).shuffle(groups)
        order = sorted(members, key=lambda row: (groups.index(row["patient"]), row["id"]))
        kept |= {row["id"] for row in order[: max(1, round(fraction * len(order)))]}
    return [row for row in rows if row["split"] != "train" or row["id"] in kept]


def grid_markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Return one table per test set, like the published ones: a line per encoder, share and arm, in per cent."""
    parts = []
    for test_set in sorted({row["test_set"] for row in rows}):
        lines: dict[tuple[Any, ...], dict[str, str]] = defaultdict(dict)
        for row in rows:
            if row["test_set"] == test_set and row["classes"] == "all":
                key = (row["encoder"], f"{row['fraction']:g}", row["arm"], row["seeds"])
                lines[key][row["metric"]] = _percent(row)
        keys = ["encoder", "share of real data", "arm", "seeds"]
        filled = [[*key, *(found[name] for name in MAIN_METRICS)] for key, found in lines.items()]
        parts += markdown_table(f"{test_set} test set, mean [interval] in per cent", keys, filled)
    return "\n".join(parts)


def _percent(row: dict[str, Any]) -> str:
    if row["mean"] is None or row["low"] is None:
        return "–"
    return f"{100 * row['mean']:.1f} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"


def learning_curve(rows: Sequence[dict[str, Any]], encoder: str, test_set: str, metric: str) -> str:
    """Return the learning curve of each arm as SVG: share of the real data against the metric, with intervals."""
    lines: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        wanted = (row["encoder"], row["test_set"], row["metric"], row["classes"]) == (encoder, test_set, metric, "all")
        if wanted and row["low"] is not None:
            lines[row["arm"]].append({"x": row["fraction"], **row})
    ordered = {arm: sorted(points, key=lambda point: point["x"]) for arm, points in lines.items()}
    return figures.lines_plot(ordered, {}, "share of the real training images", METRICS[metric].words)
