"""Figures of the report as SVG text, equal for equal numbers (no dates, no random ids)."""

import io
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#8C6D1F", "#555555")
"""Okabe and Ito's palette: told apart by colour-blind readers too."""
WRAPPED = 62
"""Letters of an arm's name and meaning in a line of a figure."""
MARKERS = ("o", "x", "^", "D")
_STYLE: Any = {
    "svg.hashsalt": "meddap",
    "svg.fonttype": "path",
    "font.size": 10,
    "font.family": "DejaVu Sans",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.labelcolor": "#333333",
    "xtick.color": "#333333",
    "ytick.color": "#333333",
}


def colour(place: int) -> str:
    """Return the colour of the arm at this place."""
    return COLOURS[place % len(COLOURS)]


def _svg(figure: Figure) -> str:
    FigureCanvasSVG(figure)
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None}, bbox_inches="tight")
    drawn = text.getvalue()
    return re.sub(r"<metadata>.*?</metadata>", "", drawn[drawn.index("<svg") :], flags=re.DOTALL)


def _name_rows(axes: Any, names: Sequence[str]) -> None:
    """Write the names over their rows, first at the top, and not beside them: so the figure fits a narrow page."""
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_ylim(-0.45, len(names) - 0.25)
    for place, name in enumerate(reversed(names)):
        lines = "\n".join(textwrap.wrap(name, WRAPPED, break_on_hyphens=False))
        axes.text(
            0, place + 0.2, lines, transform=axes.get_yaxis_transform(), va="bottom", fontsize=9, linespacing=1.1,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
        )  # fmt: skip


def values_plot(arms: Mapping[str, Mapping[str, Any]], metric: str, names: Mapping[str, str], label: str) -> str:
    """Draw one row per arm: a dot per seed, the mean and its interval."""
    with matplotlib.rc_context(_STYLE):
        order = list(arms)
        figure = Figure(figsize=(5.6, 0.74 * len(order) + 0.7))
        axes = figure.add_subplot()
        for place, arm in enumerate(order):
            found = arms[arm][metric]
            row = len(order) - 1 - place
            dots = [value for value in found["values"] if value is not None]
            spread = np.linspace(-0.1, 0.1, len(dots)) if len(dots) > 1 else np.zeros(len(dots))
            axes.scatter(dots, row + spread, s=14, color=colour(place), alpha=0.45, linewidths=0)
            if found["low"] is not None:
                axes.plot([found["low"], found["high"]], [row, row], color=colour(place), linewidth=2.4)
            if found["mean"] is not None:
                axes.scatter([found["mean"]], [row], s=60, color=colour(place), zorder=3, edgecolors="white")
        _name_rows(axes, [names[arm] for arm in order])
        axes.set_xlabel(label)
        axes.grid(axis="x", color="#e5e5e5")
        axes.set_axisbelow(True)
        return _svg(figure)


def differences_plot(rows: Sequence[Mapping[str, Any]], names: Mapping[str, str], label: str) -> str:
    """Draw paired differences with their intervals around a zero line; ``rows`` hold arm and found."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(5.6, 0.74 * len(rows) + 0.8))
        axes = figure.add_subplot()
        axes.axvline(0, color="#333333", linewidth=1)
        for place, row in enumerate(reversed(rows)):
            found = row["found"]
            if found["low"] is None:
                continue
            tone = "#009E73" if found["low"] > 0 else "#D55E00" if found["high"] < 0 else "#777777"
            axes.plot([found["low"], found["high"]], [place, place], color=tone, linewidth=2.6)
            axes.scatter([found["difference"]], [place], s=60, color=tone, zorder=3, edgecolors="white")
        _name_rows(axes, [names[row["arm"]] for row in rows])
        low, high = axes.get_xlim()
        reach = max(abs(low), abs(high), 0.02)
        axes.set_xlim(-reach, reach)
        axes.set_xlabel(label)
        axes.grid(axis="x", color="#e5e5e5")
        axes.set_axisbelow(True)
        return _svg(figure)


def curves_plot(
    found: Mapping[str, Any], banded: Sequence[str], labels: tuple[str, str], chance: bool, corner: Any
) -> str:
    """Draw the mean curve of each arm, and the intervals of some.

    Args:
        found: ``x`` and arm -> ``mean``, ``low``, ``high``, see `curves_of_arms`.
        banded: arms whose interval is shaded; more than a few hide each other.
        labels: of the axes.
        chance: draw the diagonal of a guess.
        corner: where the legend lies.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(5.4, 4.6))
        axes = figure.add_subplot()
        if chance:
            axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=1, linestyle="--")
        for place, (arm, lines) in enumerate(found["arms"].items()):
            known = {name: np.array(line, dtype=float) for name, line in lines.items()}
            if arm in banded:
                axes.fill_between(found["x"], known["low"], known["high"], color=colour(place), alpha=0.16, linewidth=0)
            width = 2.2 if arm in banded else 1.1
            axes.plot(found["x"], known["mean"], color=colour(place), linewidth=width, label=arm)
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.01)
        axes.set_aspect("equal")
        axes.grid(color="#eeeeee")
        axes.legend(frameon=False, fontsize=8, loc=corner)
        return _svg(figure)


def calibration_plot(arms: Mapping[str, Sequence[Mapping[str, Any]]], banded: Sequence[str]) -> str:
    """Draw the share of right answers against the confidence: on the diagonal, 80 % sure is right eight times of ten.

    Args:
        arms: arm -> bins, see `calibration_of_arms`; the area of a dot grows with its images.
        banded: arms that stand out.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(5.4, 4.6))
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=1, linestyle="--")
        for place, (arm, bins) in enumerate(arms.items()):
            total = sum(one["images"] for one in bins)
            x, y = [one["confidence"] for one in bins], [one["right"] for one in bins]
            axes.plot(x, y, color=colour(place), linewidth=2.2 if arm in banded else 0.9, label=arm)
            if arm in banded:
                axes.scatter(x, y, s=[12 + 240 * one["images"] / total for one in bins], color=colour(place), alpha=0.5)
        axes.set_xlabel("confidence (probability of the chosen class)")
        axes.set_ylabel("share right")
        axes.set_xlim(0, 1.01)
        axes.set_ylim(0, 1.01)
        axes.set_aspect("equal")
        axes.grid(color="#eeeeee")
        axes.legend(frameon=False, fontsize=8, loc="upper left")
        return _svg(figure)


def map_plot(points: Mapping[str, Mapping[str, Sequence[Sequence[float]]]], classes: Sequence[str]) -> str:
    """Draw a map of images: set -> class -> ``[x, y]`` pairs; the class is the colour, the set is the marker."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(6.4, 5.2))
        axes = figure.add_subplot()
        for marker, (name, by_class) in zip(MARKERS, points.items(), strict=False):
            axes.plot([], [], marker, color="#333333", fillstyle="none", markersize=5, label=name)
            for label, pairs in by_class.items():
                x, y = zip(*pairs, strict=True)
                tone = colour(classes.index(label)) if label in classes else "#aaaaaa"
                axes.plot(x, y, marker, color=tone, fillstyle="none", markersize=4, markeredgewidth=0.9, alpha=0.8)
        for place, label in enumerate(classes):
            axes.plot([], [], "s", color=colour(place), markersize=6, label=label)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
        return _svg(figure)


def lines_plot(
    lines: Mapping[str, Sequence[Mapping[str, Any]]], names: Mapping[str, str], x_label: str, label: str
) -> str:
    """Draw curves with intervals: name -> points with ``x``, ``mean``, ``low``, ``high`` (learning curves).

    A number that could not be computed is None and leaves a gap.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(6.4, 4.2))
        axes = figure.add_subplot()
        for place, (name, points) in enumerate(lines.items()):
            keys = ("x", "mean", "low", "high")
            x, mean, low, high = (np.array([point[key] for point in points], dtype=float) for key in keys)
            axes.plot(x, mean, color=colour(place), marker="o", label=names.get(name, name))
            axes.fill_between(x, low, high, color=colour(place), alpha=0.15, linewidth=0)
        axes.set_xlabel(x_label)
        axes.set_ylabel(label)
        axes.grid(color="#eeeeee")
        if lines:
            axes.legend(frameon=False, fontsize=8)
        return _svg(figure)
