"""Measure the promises of docs/reliability.md and write what came out into its last column (``make reliability``).

    python -m tools.promises R24 R35     # these rows; without names, all

Each row names its tests. They run with their long counts, each is written down as it ends (`tools.ledger`), and a run
that was stopped goes on. A row is rewritten when all of its tests have ended.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meddap_monai import store
from tools.ledger import read_ledger

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reliability.md"
LEDGER = ROOT / "runs" / "reliability.jsonl"
NOT_YET = "not yet run"
_ROW = re.compile(r"^\| (R\d+) \| (.+) \| (.+) \| (.+) \|$")


@dataclass(frozen=True)
class Promise:
    """One row of the table.

    Attributes:
        name: as in R24.
        words: what is promised.
        tests: node ids: folders, files or tests.
        measured: what stands in the last column.
    """

    name: str
    words: str
    tests: tuple[str, ...]
    measured: str


def read_promises(text: str) -> list[Promise]:
    """Return the rows of the page's table, in its order."""
    rows = [found.groups() for found in map(_ROW.match, text.splitlines()) if found]
    return [Promise(name, words, tuple(re.findall(r"`([^`]+)`", tests)), last) for name, words, tests, last in rows]


def measured(lines: Sequence[dict[str, Any]]) -> str:
    """Say in a cell what the tests of a row gave: how many passed, their figures, and the day of the last one."""
    outcomes = [line["outcome"] for line in lines]
    failed = sorted(line["test"].rsplit("::", 1)[-1] for line in lines if line["outcome"] == "failed")
    parts = [f"{outcomes.count('passed')} of {len(lines) - outcomes.count('skipped')} tests pass"]
    parts += [f"{outcomes.count('skipped')} skipped"] if "skipped" in outcomes else []
    parts += [f"**failed**: `{name.replace('|', '/')}`" for name in failed]
    parts += _figures(line["figures"] for line in lines)
    return "; ".join([*parts, max(line["date"] for line in lines)])


def _figures(found: Iterable[dict[str, Any]]) -> list[str]:
    """Whole numbers are counts and add up; other numbers are told from the smallest to the largest."""
    values: dict[str, list[Any]] = {}
    for figures in found:
        for name, value in figures.items():
            values.setdefault(name, []).append(value)
    told = []
    for name, seen in values.items():
        if all(isinstance(value, int) for value in seen):
            told.append(f"{name} {sum(seen):,}")
        else:
            ends = [f"{value:.3g}" for value in (min(seen), max(seen))]
            told.append(f"{name} {ends[0]}" if ends[0] == ends[1] else f"{name} {ends[0]} to {ends[1]}")
    return told


def belongs(test: str, promise: Promise) -> bool:
    """Tell whether a node id is among a promise's tests."""
    return any(test == named or test.startswith((f"{named}::", f"{named}[", f"{named}/")) for named in promise.tests)


def rewrite(text: str, ledger: dict[str, dict[str, Any]], names: Iterable[str]) -> str:
    """Return the page with the last column of the rows `names` as the ledger has it."""
    for promise in read_promises(text):
        lines = [line for test, line in ledger.items() if belongs(test, promise)]
        if promise.name in names and lines:
            tests = ", ".join(f"`{test}`" for test in promise.tests)
            row = f"| {promise.name} | {promise.words} | {tests} |"
            text = text.replace(f"{row} {promise.measured} |", f"{row} {measured(lines)} |")
    return text


def run(tests: Sequence[str], words: Sequence[str]) -> int:
    """Run tests with their long counts and the ledger; return pytest's exit status."""
    command = [sys.executable, "-m", "pytest", "-p", "tools.ledger", "--ledger", str(LEDGER), "-m", "not smoke", "-q"]
    return subprocess.run([*command, *words, *tests], cwd=ROOT, check=False).returncode


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for and rewrite the page; the exit status says whether every promise held."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", help="rows of the table, as in R24; all without any")
    parser.add_argument("--pytest", default="", help="further words for pytest, as in '-n 2'")
    options = parser.parse_args(arguments)
    promises = read_promises(PAGE.read_text(encoding="utf-8"))
    unknown = set(options.rows) - {promise.name for promise in promises}
    if unknown:
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    held = True
    for promise in promises:
        if options.rows and promise.name not in options.rows:
            continue
        if run(promise.tests, options.pytest.split()) not in (0, 1, 5):  # 5: nothing was left to run
            return 2
        ledger = read_ledger(LEDGER)
        store.write_atomic(PAGE, rewrite(PAGE.read_text(encoding="utf-8"), ledger, [promise.name]))
        held &= all(line["outcome"] != "failed" for test, line in ledger.items() if belongs(test, promise))
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
