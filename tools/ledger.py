"""A pytest plugin that writes down each test as it ends, so that long counts go on where they stopped.

    python -m pytest -p tools.ledger --ledger runs/reliability.jsonl -m '' tests/reliability

One JSON object per line and test: its node id, outcome, seconds, date and the figures that it gave to pytest's
``record_property``. Tests that the ledger knows as passed or skipped are left out of the next run; failed ones are run
again, and their last line counts.
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from meddap_monai import store


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--ledger FILE``."""
    parser.addoption("--ledger", type=Path, help="write each test down here, and leave out what passed before")


def read_ledger(path: Path) -> dict[str, dict[str, Any]]:
    """Return node id -> last line about it; a last line that a kill cut short is left out."""
    lines: dict[str, dict[str, Any]] = {}
    for text in _whole_lines(path):
        line = json.loads(text)
        lines[line["test"]] = line
    return lines


def _whole_lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").split("\n")[:-1] if path.is_file() else []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what passed or was skipped before."""
    path = config.getoption("--ledger")
    ended = {name for name, line in read_ledger(path).items() if line["outcome"] != "failed"} if path else set()
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid in ended])
    items[:] = [item for item in items if item.nodeid not in ended]


def pytest_configure(config: pytest.Config) -> None:
    """Write in one process: under xdist, in that which hears of all tests."""
    path = config.getoption("--ledger")
    if path and not hasattr(config, "workerinput"):
        path.parent.mkdir(parents=True, exist_ok=True)
        store.write_atomic(path, "".join(f"{text}\n" for text in _whole_lines(path)))
        config.pluginmanager.register(_Writer(path))


class _Writer:
    def __init__(self, path: Path) -> None:
        self._path = path

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Write the line of a test: after its call, or after a set-up that failed or skipped it."""
        if report.when != "call" and report.passed:
            return
        line = {
            "test": report.nodeid,
            "outcome": report.outcome,
            "seconds": round(report.duration, 1),
            "date": datetime.now(UTC).date().isoformat(),
            "figures": dict(report.user_properties),
        }
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
