"""CSV tables that are safe to open in a spreadsheet, and read back as they were written."""

import csv
import io
import itertools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from meddap_monai.errors import MeddapError, StageError
from meddap_monai.store.documents import read_text
from meddap_monai.store.regular import regular_file

_FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")
"""How a cell begins that a spreadsheet may run as a formula (OWASP, CSV injection), or that was marked against it."""


def csv_text(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """Return a CSV table as text; see `write_rows`."""
    text = io.StringIO()
    write_rows(text, head, rows)
    return text.getvalue()


def write_rows(stream: TextIO, head: Iterable[str], rows: Iterable[Iterable[Any]]) -> int:
    """Write a CSV table, lines ending in a plain newline; return the number of rows below the head.

    None is an empty cell. A text that a spreadsheet may take for a formula gets a ``'`` in front, as users of
    spreadsheets write it; numbers do not. What is no text in UTF-8 is written with backslashes.
    """
    count = -1
    for row in itertools.chain([head], rows):
        line = io.StringIO()
        csv.writer(line, lineterminator="\r\n").writerow(map(_safe, row))  # quotes both signs; Python 3.11 no others
        stream.write(line.getvalue()[:-2] + "\n")
        count += 1
    return count


def read_csv(
    path: Path | str, error: type[MeddapError] = StageError, advice: str = "run the stage that writes it again"
) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of the line and the cells of every row of `write_rows`, one by one; errors as of `read_text`."""
    number = 0
    try:
        with regular_file(path).open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream)
            for cells in reader:
                number = reader.line_num
                yield number, [cell[1:] if cell[:1] == "'" and _FORMULA.match(cell) else cell for cell in cells]
    except UnicodeDecodeError:
        read_text(path, error, advice)
        raise
    except (csv.Error, ValueError) as reason:
        raise error(f"{path}, line {number + 1}: is no CSV ({reason}); {advice}") from reason
    except OSError as reason:
        raise error(f"{path}: cannot be read ({reason.strerror}); {advice}") from reason


def _safe(cell: Any) -> Any:
    if not isinstance(cell, str):
        return cell
    text = cell.encode("utf-8", "backslashreplace").decode()
    return f"'{text}" if _FORMULA.match(text) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
