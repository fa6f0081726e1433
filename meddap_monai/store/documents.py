"""Documents from disk: text in UTF-8 and JSON objects, or one named error with file and line."""

import json
from pathlib import Path
from typing import Any, NoReturn

from meddap_monai.errors import MeddapError, StageError
from meddap_monai.store.regular import regular_file

DEEPEST = 64
"""Nested lists and objects in a document; no document of this package has more than ten."""
LARGEST = 512 * 2**20
"""Bytes of a document that is read whole."""


def read_text(path: Path | str, error: type[MeddapError] = StageError, advice: str = "give a whole file") -> str:
    """Return a text file, which must be a regular one in UTF-8 of at most `LARGEST` bytes.

    Args:
        path: of the file.
        error: what is raised.
        advice: what to do, at the end of the message.
    """
    path = Path(path)
    try:
        if regular_file(path).stat().st_size > LARGEST:
            raise error(f"{path}: more than {LARGEST:,} bytes, expected a document; {advice}")
        data = path.read_bytes()
    except (OSError, ValueError) as reason:
        raise error(f"{path}: cannot be read ({getattr(reason, 'strerror', reason)}); {advice}") from reason
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as reason:
        line = data.count(b"\n", 0, reason.start) + 1
        raise error(f"{path}, line {line}: not UTF-8 text (byte {data[reason.start]:#04x}); {advice}") from reason


def read_json(
    path: Path | str, error: type[MeddapError] = StageError, advice: str = "run the stage that writes it again"
) -> dict[str, Any]:
    """Return the JSON object that a file holds; arguments and what is raised as of `read_text`."""
    return parse_json(read_text(path, error, advice), str(path), error, advice)


def parse_json(
    text: str,
    where: str,
    error: type[MeddapError] = StageError,
    advice: str = "run the stage that writes it again",
    line: int | None = None,
) -> dict[str, Any]:
    """Return the JSON object in a text.

    Refused are another value than an object, `DEEPEST` levels of nesting, NaN and infinity, and lone surrogates, which
    no text file can hold.

    Args:
        text: the document.
        where: the file, for the message.
        error: what is raised.
        advice: what to do, at the end of the message.
        line: of the file, when the document is one line of many.
    """

    def refuse(reason: str, at: int = 1) -> NoReturn:
        raise error(f"{where}, line {line or at}: {reason}; {advice}")

    def constant(name: str) -> NoReturn:
        raise ValueError(f"{name} is no JSON number")

    try:
        found = json.loads(text, parse_constant=constant)
        if text.count("[") + text.count("{") > DEEPEST and _depth(found) > DEEPEST:
            raise RecursionError
        if "\\ud" in text or "\\uD" in text:
            json.dumps(found, ensure_ascii=False).encode()
    except RecursionError:
        refuse(f"more than {DEEPEST} nested levels")
    except UnicodeEncodeError:
        refuse("holds half a character (a lone surrogate)")
    except ValueError as reason:
        refuse(f"not JSON ({reason})", getattr(reason, "lineno", 1))
    if not isinstance(found, dict):
        refuse(f"got {type(found).__name__}, expected a JSON object")
    return found


def _depth(value: Any) -> int:
    """Return how deep lists and objects nest, level by level, so that depth costs no recursion."""
    depth, level = 0, [value]
    while level:
        depth += 1
        level = [
            item
            for part in level
            if isinstance(part, (dict, list))
            for item in (part.values() if isinstance(part, dict) else part)
        ]
    return depth - 1
