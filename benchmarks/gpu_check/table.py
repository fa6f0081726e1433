"""The Markdown of docs/performance.md, made of the JSON that ``run`` writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from meddap_monai import store

TARGETS = (
    ("training, SD 1.x, 224 px: times the published loop", "train_sd1_224", "times_published", 6.0, max),
    ("training, SD 1.x, 512 px: times the peer, equal batch", "train_sd1_512", "times_peer", 2.0, max),
    ("training, SD 1.x, 512 px: share of the peak", "train_sd1_512", "share_of_peak", 0.45, max),
    ("generation, SD 1.x, 224 px: times the published loop", "generate_sd1_224", "times_published", 8.0, max),
    ("generation, SD 1.x, 512 px: times the peer, equal batch", "generate_sd1_512", "times_peer", 2.0, max),
    ("generation, SD 1.x, 512 px: share of the peak", "generate_sd1_512", "share_of_peak", 0.5, max),
    ("USLoRA, SD 1.x, 512 px, batch 1: gigabytes", "train_sd1_512", "gigabytes", 6.0, min),
)
"""Words, part, column, target, and whether the largest or the smallest of our rows counts."""
_NOT = "not measured"
_COLUMNS = {
    "batch": "batch",
    "images_per_second": "images/s",
    "teraflops": "TFLOP/s",
    "share_of_peak": "of the peak",
    "times_published": "times published",
    "times_peer": "times the peer",
    "gigabytes": "GB",
}


def render(path: Path) -> str:
    """Return the tables: the device, the targets, the code paths, the speeds."""
    found: dict[str, Any] = store.read_json(path)
    parts, versions = found["parts"], ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    device = parts.get("device", {})
    peak = f"{device['bf16_tflops']:.0f} TFLOP/s bf16" if device.get("bf16_tflops") else "its peak is not measured"
    toy = " **Toy networks: no measurement of anything.**" if found["toy"] else ""
    lines = [f"{device.get('name', found['device'])}, {peak} in a large product; {versions}.{toy}", ""]
    lines += [*targets(parts, found["toy"] or found["device"] == "cpu"), "", *_checks(parts)]
    for name, part in parts.items():
        if "rows" in part:
            lines += ["", f"`{name}`", "", *_speeds(part["rows"])]
    return "\n".join(lines)


def targets(parts: dict[str, Any], unfit: bool = False) -> list[str]:
    """Return the table of targets; what no GPU of full size has shown says so.

    Args:
        parts: of the JSON; empty for none.
        unfit: the JSON comes from a CPU or from toy networks.
    """
    lines = ["| target on a GPU | wanted | found |", "| --- | --- | --- |"]
    for words, name, column, wanted, best in TARGETS:
        values = [] if unfit else _ours(parts, name, column)
        sign = "at least" if best is max else "at most"
        lines.append(
            f"| {words} | {sign} {_shown(column, wanted)} | {_shown(column, best(values)) if values else _NOT} |"
        )
    return lines


def _ours(parts: dict[str, Any], name: str, column: str) -> list[float]:
    rows = [row for one in (name, f"{name}_compiled") for row in parts.get(one, {}).get("rows", [])]
    if column == "gigabytes":
        rows = [row for row in rows if row["batch"] == 1]
    return [row[column] for row in rows if row["loop"] == "ours" and row.get(column) is not None]


def _checks(parts: dict[str, Any]) -> list[str]:
    lines = ["| part | result | seconds |", "| --- | --- | --- |"]
    for name, part in parts.items():
        found = {key: one for key, one in part.items() if isinstance(one, dict) and "bound" in one}
        said = ", ".join(f"{key} {one['found']:g} (bound {one['bound']:g})" for key, one in found.items())
        result = part["error"] or part.get("skipped") or said or "done"
        lines.append(f"| {name} | {' '.join(result.split()).replace('|', '/')[:200]} | {part['seconds']:.0f} |")
    return lines


def _speeds(rows: list[dict[str, Any]]) -> list[str]:
    lines = [f"| loop | {' | '.join(_COLUMNS.values())} |", "| --- |" + " --- |" * len(_COLUMNS)]
    for row in rows:
        options = [word for word in ("compile", "gradient_checkpointing") if row.get(word)]
        name = ", ".join([row["loop"], str(row["precision"]), *options])
        lines.append(f"| {name} | {' | '.join(_shown(column, row.get(column)) for column in _COLUMNS)} |")
    return lines


def _shown(column: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0%}" if column == "share_of_peak" else f"{value:.3g}"
