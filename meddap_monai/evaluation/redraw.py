"""The report's door: the stage ``evaluate`` and drawing its page again from ``report.json``."""

from __future__ import annotations

from pathlib import Path

from meddap_monai import store
from meddap_monai.evaluation.report.page import render, results_csv, results_markdown
from meddap_monai.evaluation.stage import read_report


def redraw(folder: Path | str) -> Path:
    """Write the page and the tables of a finished evaluation again from its ``report.json``; return the page's path.

    Useful after an update of the page's design: no model is loaded, no number changes.

    Raises:
        FolderInUse: an evaluation is writing there.
    """
    folder = Path(folder)
    with store.lock_folder(folder):
        report = read_report(folder)
        store.write_atomic(folder / "results.csv", results_csv(report))
        store.write_atomic(folder / "results.md", results_markdown(report))
        return store.write_atomic(folder / "report.html", render(report))
