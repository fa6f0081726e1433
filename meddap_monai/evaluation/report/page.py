"""The report as one HTML page that needs nothing else: styles, figures and pictures are inside it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from meddap_monai import store
from meddap_monai.evaluation import arms as arm_names
from meddap_monai.evaluation.report import figures
from meddap_monai.evaluation.report.pictures import collect_pictures
from meddap_monai.evaluation.report.plain_words import filter_words, headline, plain_words
from meddap_monai.statistics.weighted import METRICS

MAIN_METRICS = ("auc", "macro_f1", "balanced_accuracy", "accuracy", "sensitivity", "specificity", "precision")


def write_report(output: Path, report: dict[str, Any], pictures: int, sections: Mapping[str, Path]) -> None:
    """Write ``report.json``, ``results.csv``, ``results.md`` and ``report.html``.

    Args:
        output: folder of the evaluation.
        report: what it says, see `build_report`.
        pictures: per class and source.
        sections: stage name -> folder that the pictures are taken from.
    """
    report = report | {"pictures": collect_pictures(sections, pictures)}
    store.write_json(output / "report.json", report)
    report = store.read_json(output / "report.json")
    store.write_atomic(output / "results.csv", results_csv(report))
    store.write_atomic(output / "results.md", results_markdown(report))
    store.write_atomic(output / "report.html", render(report))


def render(report: Mapping[str, Any]) -> str:
    """Return the HTML page of a report as it stands in ``report.json``; equal reports give equal pages."""
    report = {**report, "arms": {arm: report["arms"][arm] for arm in arm_names.in_order(report["arms"])}}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(
        number=number, shown=with_interval, signed=signed, percent=percent, duration=duration, reach=count_range
    )
    template = environment.get_template("page.html.j2")
    chosen = next((row for row in report["stages"] if row["stage"] == "select"), None)
    return template.render(
        report=report,
        words={name: metric.words for name, metric in METRICS.items()},
        metrics=METRICS,
        main_metrics=MAIN_METRICS,
        drawn={name: _draw(report, found) for name, found in report["sets"].items()},
        maps=[_map(report, found) for found in report.get("maps", ())],
        made=next((row for row in report["stages"] if row["stage"] == "generate"), None),
        chosen=chosen,
        limits=(report["sections"].get("select", {}).get("copies") or {}).get("thresholds") or {},
        filter_words=filter_words(chosen) if chosen else "",
        plain=plain_words(report),
        answer=headline(report["verdicts"]),
        candidates=[arm for arm in report["arms"] if arm_names.is_candidate(arm)],
        costs=_costs(report),
    )


def _draw(report: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Markup]:
    names = {arm: f"{arm}: {meaning}" for arm, meaning in report["arms"].items()}
    metric = report["metric"]
    ordered = {arm: found["arms"][arm] for arm in report["arms"] if arm in found["arms"]}
    rows = main_rows(report, found)
    drawn = {
        "values": figures.values_plot(ordered, metric, names, f"{METRICS[metric].words} (dots: seeds; bar: interval)"),
        **_curves(found, list(ordered)),
        "calibration": figures.calibration_plot(
            {arm: found["calibration"][arm] for arm in ordered}, _banded(list(ordered))
        ),
    }
    if rows:
        references = {row["reference"] for row in rows}
        reference = (
            references.pop() if len(references) == 1 else f"{arm_names.base_arm(rows[0]['reference'])} of its variant"
        )
        label = f"difference in {METRICS[metric].words} to {reference} (right of zero is better)"
        drawn["differences"] = figures.differences_plot(rows, names, label)
    if any(len(points) > 1 for points in found["learning"].values()):
        ordered_lines = {arm: found["learning"][arm] for arm in arm_names.in_order(found["learning"])}
        drawn["learning"] = figures.lines_plot(ordered_lines, {}, "real training images", METRICS[metric].words)
    return {name: Markup(text) for name, text in drawn.items()}  # noqa: S704 - drawn here, holds no foreign text


def _curves(found: Mapping[str, Any], arms: Sequence[str]) -> dict[str, str]:
    """ROC and precision-recall; the bands are those of the reference and of the arms with synthetic images."""
    banded = _banded(arms)
    kinds = {
        "roc": (("1 - specificity", "sensitivity"), True, "lower right"),
        "precision_recall": (("sensitivity (recall)", "precision"), False, "lower left"),
    }
    drawn = {}
    for kind, (labels, chance, corner) in kinds.items():
        lines = found["curves"][kind]
        ordered = {**lines, "arms": {arm: lines["arms"][arm] for arm in arms}}
        drawn[kind] = figures.curves_plot(ordered, banded, labels, chance, corner)
    return drawn


def _banded(arms: Sequence[str]) -> list[str]:
    """Return the arms that stand out in a figure: the reference and up to two with synthetic images."""
    candidates = [arm for arm in arms if arm_names.is_candidate(arm)]
    references = [arm_names.strongest(arms) or arms[0]]
    return [*references[:1], *candidates[:2]]


def _map(report: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    drawn = figures.map_plot(found["points"], report["classes"])
    return {**found, "drawn": Markup(drawn)}  # noqa: S704 - drawn here, holds no foreign text


def main_rows(report: Mapping[str, Any], found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the comparisons of the report's metric with the floor, the best arm of real images alone."""
    rows = [row for row in found["comparisons"] if row["metric"] == report["metric"]]
    return [row for row in rows if row["role"] == "floor"]


def _costs(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = [
        {"stage": row["stage"], "seconds": row["seconds"], "device": row["device"], "out": row["counts"]["out"]}
        | {"runs": row["runs"]}
        for row in report["stages"]
        if row["stage"] != "classify"
    ]
    trained = report["training"]
    return [*rows, {"stage": "classify", "runs": trained["runs"], **trained["cost"]}]


def results_rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the long table: test set, arm, columns as they are (masked or not), metric, mean, interval, sd, seeds."""
    rows = []
    for name, found in report["sets"].items():
        for kind in ("arms", "masked"):
            for arm in arm_names.in_order(report["arms"]):
                for metric, value in ((found[kind] or {}).get(arm) or {}).items():
                    rows.append(
                        {
                            "test_set": name,
                            "arm": arm,
                            "classes": "present only" if kind == "masked" else "all",
                            "metric": metric,
                            "mean": value["mean"],
                            "low": value["low"],
                            "high": value["high"],
                            "sd": value["sd"],
                            "seeds": len(value["values"]),
                        }
                    )
    return rows


def results_csv(report: Mapping[str, Any]) -> str:
    """Return `results_rows` as CSV."""
    rows = results_rows(report)
    lines = ([f"{value:.6g}" if isinstance(value, float) else value for value in row.values()] for row in rows)
    return store.csv_text(rows[0], lines)


def results_markdown(report: Mapping[str, Any]) -> str:
    """Return the main table of each test set in Markdown: arm, then mean and interval of each metric."""
    parts = []
    for name, found in report["sets"].items():
        filled = [(arm, values) for arm in arm_names.in_order(report["arms"]) if (values := found["arms"].get(arm))]
        lines = [[arm, *(with_interval(values[metric]) for metric in MAIN_METRICS)] for arm, values in filled]
        parts += markdown_table(f"{found['name']} ({name})", ["arm"], lines)
    return "\n".join(parts)


def markdown_table(title: str, keys: Sequence[str], lines: Sequence[Sequence[Any]]) -> list[str]:
    """Return the lines of a table in Markdown: a line's keys, then its `MAIN_METRICS`."""
    head = [*keys, *(METRICS[metric].words for metric in MAIN_METRICS)]
    rows = [f"| {' | '.join(map(str, line))} |" for line in (head, *lines)]
    return [title, "", rows[0], "|" + " --- |" * len(head), *rows[1:], ""]


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with fixed digits, a dash when there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def signed(value: float | None) -> str:
    """Return a difference with its sign."""
    return "–" if value is None else f"{value:+.3f}"


def with_interval(value: Mapping[str, Any] | None) -> str:
    """Return ``mean [low, high]``."""
    if value is None or value["mean"] is None:
        return "–"
    if value["low"] is None:
        return number(value["mean"])
    return f"{value['mean']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"


def count_range(values: list[int]) -> str:
    """Return the range of counts that differ between seeds, one number when they do not."""
    return f"{values[0]} to {values[-1]}" if len(values) > 1 else str(values[0])


def percent(value: float | None) -> str:
    """Return a share as a percentage."""
    return "–" if value is None else f"{100 * value:.1f} %"


def duration(seconds: float | None) -> str:
    """Return seconds as text that a person reads."""
    if seconds is None:
        return "–"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
