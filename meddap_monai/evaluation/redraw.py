"""The report's door: the stage ``evaluate`` and drawing its page again from ``report.json``."""

from pathlib import Path

from jinja2 import UndefinedError

from meddap_monai import store
from meddap_monai.errors import StageError
from meddap_monai.evaluation.report.page import render, results_csv, results_markdown
from meddap_monai.evaluation.stage import read_report


def redraw(folder: Path | str, reading: Path | str | None = None) -> Path:
    """Write the page and the tables of a finished evaluation again from its ``report.json``; return the page's path.

    Useful after an update of the page's design, or when readers have read: no model is loaded, no number changes.

    Args:
        folder: of the evaluation.
        reading: folder of a reading, whose table (``table.json``) becomes part of the report.

    Raises:
        FolderInUse: an evaluation is writing there.
        StageError: ``report.json`` is missing, damaged or of another layout; the page and the tables stay as they are.
    """
    folder = Path(folder)
    with store.lock_folder(folder):
        report = read_report(folder)
        if reading is not None:
            report |= {"reading": store.read_json(Path(reading) / "table.json")}
        try:
            table, text, page = results_csv(report), results_markdown(report), render(report)
        except (LookupError, TypeError, ValueError, AttributeError, UndefinedError) as error:
            raise StageError(
                f"{folder / 'report.json'}: has another layout than this version writes ({type(error).__name__}: "
                f"{error}); run evaluate again, into another folder or with overwrite"
            ) from error
        if reading is not None:
            store.write_json(folder / "report.json", report)
        store.write_atomic(folder / "results.csv", table)
        store.write_atomic(folder / "results.md", text)
        return store.write_atomic(folder / "report.html", page)
