"""Pictures of a selection: score histograms, acceptance curves, images around the threshold, closest pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from meddap_monai import store
from meddap_monai.classifier.projector import write_projector
from meddap_monai.core.records import Record
from meddap_monai.selection.filtering.decisions import CopyCheck, Decision
from meddap_monai.selection.filtering.outcome import acceptance_curves, adjective, closest_pairs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AROUND = 6
MOST_ADJECTIVES = 12
PROJECTED = 2000


def write_figures(
    folder: Path,
    synthetic: Sequence[Record],
    thumbnails: np.ndarray,
    real_thumbnails: np.ndarray,
    decision: Decision,
    classes: Sequence[str],
) -> None:
    """Write the pictures as PNG files under ``figures/`` and into TensorBoard under ``tensorboard/``.

    Args:
        folder: output folder of the stage.
        synthetic: N full records.
        thumbnails: (N, 64, 64) float32 in 0 to 1.
        real_thumbnails: (M, 64, 64) float32 in 0 to 1, training images.
        decision: about the N images.
        classes: names in the order of labels.
    """
    from torch.utils.tensorboard import SummaryWriter

    figures: dict[str, Figure] = {"acceptance": draw_acceptance(synthetic, decision, classes)}
    for rule in decision.verdicts:
        figures[f"histogram_{rule}"] = draw_histograms(synthetic, decision, rule)
        figures[f"borderline_{rule}"] = draw_borderline(synthetic, thumbnails, decision, rule, classes)
    if decision.copies is not None:
        figures["closest_pairs"] = draw_pairs(thumbnails, real_thumbnails, decision.copies)
        figures["copy_distances"] = draw_distances(decision.copies)
    with SummaryWriter(str(folder / "tensorboard")) as board:
        for rule, verdict in decision.verdicts.items():
            for name in classes:
                own = np.array([record["class_name"] == name for record in synthetic])
                if own.any():
                    board.add_histogram(f"select/{rule}/{name}", verdict.scores[rule][own])
        for name, figure in figures.items():
            write_figure(folder / "figures" / f"{name}.png", figure)
            board.add_figure(f"select/{name}", figure)


def write_scalars(board: Path, summary: Mapping[str, Any]) -> None:
    """Write what ``selection.json`` says in numbers as scalars, and the acceptance curves over their thresholds.

    Args:
        board: folder of the event files.
        summary: what `summarise` returned, with ``filter``.
    """
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(board)) as writer:
        for name in ("accuracy", "balanced_accuracy", "auc"):
            writer.add_scalar(f"select/filter_{name}", summary["filter"][name], 0)
        kept, of = (sum(one[key] for one in summary["classes"].values()) for key in ("kept", "in"))
        writer.add_scalar("select/kept_share", kept / max(of, 1), 0)
        if "copies" in summary:
            writer.add_scalar("select/copy_rate", summary["copies"]["rate"], 0)
    for rule, curve in summary["acceptance"].items():
        for number, name in enumerate(name for name in summary["classes"] if name in curve):
            with SummaryWriter(str(board / f"class_{number}")) as writer:  # a run per class: one chart per rule
                for place, share in enumerate(curve[name]):
                    writer.add_scalar(f"select/accepted_share_{rule}", share, place)


def show_in_projector(folder: Path, records: Sequence[Record], thumbnails: np.ndarray, values: np.ndarray) -> None:
    """Give features to TensorBoard's projector, with a small picture, class and source of each.

    Args:
        folder: of the event files.
        records: N records; of more than `PROJECTED` an even part is taken.
        thumbnails: (N, H, W) float32 in 0 to 1.
        values: (N, D) float32.
    """
    import torch

    rows = np.unique(np.linspace(0, len(records) - 1, min(len(records), PROJECTED)).astype(int))
    chosen = torch.from_numpy(thumbnails[rows]).float()[:, None]
    pictures = torch.nn.functional.adaptive_avg_pool2d(chosen, 32)[:, 0].numpy()
    labels = [[records[row]["class_name"], records[row]["source"]] for row in rows]
    write_projector(folder, values[rows], labels, ["class", "source"], "features", pictures)


def new_figure(rows: int, columns: int, width: float, height: float) -> tuple[Figure, Any]:
    """Return a figure and its (rows, columns) axes; width and height in inches. No global state is touched."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def write_figure(path: Path, figure: Figure) -> None:
    """Write a figure as a PNG file, atomically and without the date or version of what drew it."""
    with store.atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100, metadata={"Software": None})


def draw_acceptance(synthetic: Sequence[Record], decision: Decision, classes: Sequence[str]) -> Figure:
    """Draw the share of each class that is kept, over the threshold of each rule."""
    curves = acceptance_curves(synthetic, decision, classes)
    figure, axes = new_figure(1, max(len(curves), 1), 4.5 * max(len(curves), 1), 3.5)
    for axis, (rule, curve) in zip(axes[0], curves.items(), strict=False):
        for name in classes:
            if name in curve:
                axis.plot(curve["threshold"], curve[name], label=name)
        axis.set(title=rule, xlabel="threshold", ylabel="share kept", ylim=(-0.02, 1.02))
        axis.legend(fontsize=7)
    return figure


def draw_histograms(synthetic: Sequence[Record], decision: Decision, rule: str) -> Figure:
    """Draw the scores of a rule, one panel per class and one line per adjective."""
    names = sorted({record["class_name"] for record in synthetic})
    words = sorted({adjective(record) for record in synthetic})[:MOST_ADJECTIVES]
    values = decision.verdicts[rule].scores[rule]
    edges = np.linspace(min(0.0, float(values.min())), max(1.0, float(values.max())), 31)
    figure, axes = new_figure(1, len(names), 4 * len(names), 3.2)
    for axis, name in zip(axes[0], names, strict=True):
        for word in words:
            rows = [r for r, one in enumerate(synthetic) if one["class_name"] == name and adjective(one) == word]
            if rows:
                axis.hist(values[rows], bins=edges, histtype="step", label=f"{word} ({len(rows)})")
        axis.set(title=name, xlabel=rule)
        axis.legend(fontsize=6)
    return figure


def draw_borderline(
    synthetic: Sequence[Record], thumbnails: np.ndarray, decision: Decision, rule: str, classes: Sequence[str]
) -> Figure:
    """Draw what lies just above (kept by the rule) and just below its threshold, one row per class."""
    verdict = decision.verdicts[rule]
    tiles: list[list[tuple[np.ndarray, str] | None]] = []
    for name in classes:
        own = np.array([record["class_name"] == name for record in synthetic])
        line: list[tuple[np.ndarray, str] | None] = []
        for chosen, side in ((own & verdict.keep, "kept"), (own & ~verdict.keep, "out")):
            rows = _nearest_to_edge(verdict.order, chosen, smallest=side == "kept")
            part = [(thumbnails[row], f"{name} {side}\n{verdict.scores[rule][row]:.3f}") for row in rows]
            line += [*part, *[None] * (AROUND - len(part))]
        tiles.append(line)
    return draw_mosaic(tiles)


def draw_mosaic(tiles: Sequence[Sequence[tuple[np.ndarray, str] | None]]) -> Figure:
    """Draw rows of pictures with a line or two of text above each.

    Args:
        tiles: rows of (picture (64, 64) float in 0 to 1, text), None leaves a place empty; rows of equal length.
    """
    columns, step = max(map(len, tiles)), (84, 68)
    canvas = np.ones((step[0] * len(tiles), step[1] * columns))
    figure, axes = new_figure(1, 1, 0.95 * columns, 1.2 * len(tiles))
    for line, row in enumerate(tiles):
        for column, tile in enumerate(row):
            if tile is not None:
                top, left = line * step[0] + 18, column * step[1] + 2
                canvas[top : top + 64, left : left + 64] = tile[0]
                axes[0][0].text(left, top - 2, tile[1], fontsize=5, verticalalignment="bottom")
    axes[0][0].imshow(canvas, cmap="gray", vmin=0, vmax=1)
    axes[0][0].axis("off")
    return figure


def _nearest_to_edge(order: np.ndarray, chosen: np.ndarray, smallest: bool) -> list[int]:
    rows = np.flatnonzero(chosen)
    ranked = rows[np.argsort(order[rows] if smallest else -order[rows], kind="stable")]
    return [int(row) for row in ranked[:AROUND]]


def draw_pairs(thumbnails: np.ndarray, real_thumbnails: np.ndarray, check: CopyCheck) -> Figure:
    """Draw the synthetic images nearest to a training image above that training image."""
    above: list[tuple[np.ndarray, str] | None] = []
    below: list[tuple[np.ndarray, str] | None] = []
    for row in closest_pairs(check):
        partner = int(check.nearest.index[row])
        told = " ".join(f"{name[:4]} {value[row]:.2f}" for name, value in check.nearest.distances.items())
        told = told.replace(" feat", "\nfeat") + (" COPY" if check.copied[row] else "")
        above.append((thumbnails[row], told))
        below.append((real_thumbnails[partner], f"real\n{check.training[partner]['id'][:14]}"))
    return draw_mosaic([above, below])


def draw_distances(check: CopyCheck) -> Figure:
    """Draw nearest distances: synthetic to real, and real to real of another patient, with the threshold."""
    names = list(check.nearest.distances)
    figure, axes = new_figure(1, len(names), 4 * len(names), 3.2)
    for axis, name in zip(axes[0], names, strict=True):
        both = [check.nearest.distances[name], check.thresholds.real_distances[name]]
        finite = [values[np.isfinite(values)] for values in both]
        edges = np.linspace(0, max(float(values.max(initial=1e-6)) for values in finite), 41)
        for values, label in zip(finite, ("synthetic to real", "real to real, other patient"), strict=True):
            axis.hist(values, bins=edges, histtype="step", density=True, label=label)
        if name in check.thresholds.values:
            axis.axvline(check.thresholds.values[name], color="black", linestyle=":", label="threshold")
        axis.set(title=name, xlabel="distance to the nearest training image")
        axis.legend(fontsize=6)
    return figure
