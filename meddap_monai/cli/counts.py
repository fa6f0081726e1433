"""What a command ends with: how many items were read, accepted and rejected, and why."""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from meddap_monai.store import read_csv, read_stage

MOST = 8
"""Reasons that are printed; the rest are counted together."""


def index_counts(records: Path) -> str:
    """Return the counts of an index, its reasons for rejecting, and its records file as the last line."""
    folder = records.parent
    counts = read_stage(folder)["counts"]
    head = f"read {counts['in']} items: {counts['out']} accepted, {counts['rejected']} rejected"
    if whole := counts.get("not_deidentified", 0):
        head += f"; {whole} taken whole, so not de-identified"
    return "\n".join([head, *_why(folder / "rejects.csv"), str(records)])


def infer_counts(table: Path, rows: str) -> str:
    """Return the counts of an inference, its reasons for rejecting, its answers, and its table as the last line.

    Args:
        table: its CSV.
        rows: frame, file or patient.
    """
    rejects = table.with_name(table.name + ".rejected.csv")
    head, *found = [cells for _, cells in read_csv(table)]
    column = {name: [cells[place] for cells in found] for place, name in enumerate(head)}
    accepted = sum(map(int, column["files"])) if rows == "patient" else len(set(column["file"]))
    rejected, without, odd = len(_rows(rejects)), column["class"].count("no answer"), column["flagged"].count("yes")
    answers = f"{len(found)} {rows}s: {len(found) - without} answered, {without} no answer"
    return "\n".join(
        [
            f"read {accepted + rejected} files: {accepted} accepted, {rejected} rejected",
            *_why(rejects),
            f"{answers}; {odd} flagged as out of distribution",
            str(table),
        ]
    )


def _why(rejects: Path) -> list[str]:
    """Return one line per reason of a table with the column ``reason``, the most frequent first."""
    first: dict[str, str] = {}
    counts = Counter[str]()
    for item, text, *_ in _rows(rejects):
        reason = text.removeprefix(f"{item}: ").removeprefix(": ")
        kind = re.sub(r"\b[0-9a-f]{8,}\b|\d+", "#", reason)
        first.setdefault(kind, reason)
        counts[kind] += 1
    if not counts:
        return []
    lines = [f"  {number} x {first[kind]}" for kind, number in _in_order(counts.items())[:MOST]]
    if len(counts) > MOST:
        left = _in_order(counts.items())[MOST:]
        lines.append(f"  {sum(number for _, number in left)} x other reasons")
    return [*lines, f"  each of them: {rejects}"]


def _in_order(items: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    return sorted(items, key=lambda item: (-item[1], item[0]))


def _rows(table: Path) -> list[list[str]]:
    """Return the rows of a table below its head."""
    return [cells for _, cells in read_csv(table)][1:]
