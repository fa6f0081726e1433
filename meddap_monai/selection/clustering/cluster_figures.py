"""Pictures of clusters: their nearest images, the choice of k, and the features for TensorBoard's projector."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from meddap_monai.core.records import Record
from meddap_monai.selection.clustering.clusters import Cluster
from meddap_monai.selection.filtering.selection_figures import draw_mosaic, new_figure, show_in_projector, write_figure
from meddap_monai.selection.pixels import read_squares, to_thumbnails

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 8


def write_cluster_figures(
    folder: Path,
    training: Sequence[Record],
    values: np.ndarray,
    found: Sequence[Cluster],
    tried: dict[str, dict[str, list[float]]],
) -> None:
    """Write ``figures/clusters.png`` and ``figures/choice_of_k.png``, and both and the features into TensorBoard.

    Args:
        folder: output folder of the stage.
        training: M records.
        values: (M, D) float32 features.
        found: clusters.
        tried: per class the ``k``, ``silhouette`` and ``inertia`` that were tried.
    """
    from torch.utils.tensorboard import SummaryWriter

    figures = {"clusters": draw_clusters(training, found)}
    if any(len(lists["k"]) > 1 for lists in tried.values()):
        figures["choice_of_k"] = draw_choice(tried)
    with SummaryWriter(str(folder / "tensorboard")) as board:
        for name, figure in figures.items():
            write_figure(folder / "figures" / f"{name}.png", figure)
            board.add_figure(f"cluster/{name}", figure)
    show_in_projector(folder / "tensorboard", training, to_thumbnails(read_squares(training, 32), 32), values)


def draw_clusters(training: Sequence[Record], found: Sequence[Cluster]) -> Figure:
    """Draw one line of images per cluster, nearest to the centroid first."""
    tiles: list[list[tuple[np.ndarray, str] | None]] = []
    for one in found:
        rows = one.rows[:SHOWN]
        pictures = read_squares([training[row] for row in rows], 64)[:, 0] / 255
        told = (
            f"{one.class_name} {one.number}, {one.size} images, similarity {one.similarity:.2f} +- {one.deviation:.2f}"
        )
        texts = [told + ("" if one.passes else " (left out)"), *[""] * SHOWN]
        line = [(picture, text) for picture, text in zip(pictures, texts, strict=False)]
        tiles.append([*line, *[None] * (SHOWN - len(line))])
    return draw_mosaic(tiles or [[None]])


def draw_choice(tried: dict[str, dict[str, list[float]]]) -> Figure:
    """Draw silhouette and inertia over k for each class."""
    figure, axes = new_figure(1, 2, 8, 3.2)
    for axis, what in zip(axes[0], ("silhouette", "inertia"), strict=True):
        for name, lists in tried.items():
            axis.plot(lists["k"], lists[what], marker="o", label=name)
        axis.set(title=what, xlabel="k")
        axis.legend(fontsize=7)
    return figure
