"""The curves of a pre-training as one picture, and how long its phases took; both are read from the event files."""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

STOPPED = 300.0
"""Seconds between two points of a curve from which on, if others are ten times shorter, the training stood still."""
_OTHERS = ("learning_rate", "gradient_norm", "gradient_energy", "gradient_energy_drawn", "psnr")
"""Curves that are no losses."""


@dataclass(frozen=True)
class Curve:
    """One scalar of TensorBoard.

    Attributes:
        steps: (N,) int64.
        values: (N,) float64.
        times: (N,) seconds since the epoch.
    """

    steps: np.ndarray
    values: np.ndarray
    times: np.ndarray


def read_curves(folder: Path) -> dict[str, dict[str, Curve]]:
    """Return phase -> name -> curve of the scalars ``phase/name`` in ``folder/phase``, in the order of training."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = {}
    for part in Path(folder).glob("*/"):
        events = EventAccumulator(str(part), size_guidance={"scalars": 0})
        events.Reload()
        tags = {tag.removeprefix(f"{part.name}/"): events.Scalars(tag) for tag in events.Tags()["scalars"]}
        curves = {name: Curve(*_columns(points)) for name, points in tags.items() if points}  # a purge may leave none
        if curves:
            found[part.name] = curves
    return dict(sorted(found.items(), key=lambda item: min(curve.times[0] for curve in item[1].values())))


def _columns(points: Sequence[Any]) -> Iterator[np.ndarray]:
    for key in ("step", "value", "wall_time"):
        yield np.array([getattr(point, key) for point in points])


def minutes(curves: Mapping[str, Curve]) -> float:
    """Return the minutes that a phase took, stops left out; 0 when it was too short to tell."""
    longest = max(curves.values(), key=lambda curve: len(curve.steps))
    gaps = np.diff(longest.times)
    if not len(gaps):
        return 0.0
    unseen = longest.steps[-1] / (longest.steps[-1] - longest.steps[0])  # the steps before the first point
    at_work = gaps < max(STOPPED, 10 * float(np.median(gaps)))
    return float(gaps[at_work].sum() * unseen / 60)


def draw_curves(phases: Mapping[str, Mapping[str, Curve]]) -> bytes:
    """Return a PNG file with one panel of losses per phase, each a moving mean over a fiftieth of its points."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(phases), 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    for panel, (phase, curves) in zip(figure.subplots(1, len(phases), squeeze=False)[0], phases.items(), strict=True):
        for name, curve in curves.items():
            if name not in _OTHERS:
                width = max(1, len(curve.values) // 50)
                mean = np.convolve(curve.values, np.ones(width) / width, "valid")
                panel.plot(curve.steps[width - 1 :], mean, label=name, linewidth=1.2)
        panel.set(title=phase, xlabel="step", yscale="log")
        panel.legend(fontsize=7, frameon=False)
        panel.grid(color="#e5e5e5")
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=80)
    return drawn.getvalue()
