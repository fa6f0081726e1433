"""The notebooks of ``examples/`` as pages: from their executed copies where there are any, else as they are."""

import base64
import json
import re
from pathlib import Path
from typing import Any

EXECUTED = "build/examples"
"""Where `make notebooks` leaves the executed copies, below the repository."""
_STYLED = re.compile(r"\x1b\[[0-9;]*m")


def pages(root: Path) -> dict[str, str]:
    """Return the page of every notebook: its path below ``docs`` and its Markdown.

    Args:
        root: the repository.
    """
    made = {}
    for file in sorted((root / "examples").glob("*.ipynb")):
        executed = root / EXECUTED / file.name
        made[f"tutorials/{file.stem}.md"] = page((executed if executed.is_file() else file).read_text(), file.name)
    return made


def page(text: str, name: str) -> str:
    """Return a notebook as Markdown: text, code, and what the code said and drew."""
    parts = []
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
        elif source.strip():
            code = source.removeprefix("%%bash\n")  # a command that fails stops the notebook, as it does not behind "!"
            mark = "python" if code == source else "bash"
            parts += [_fenced(code, mark), *map(_output, _joined(cell["outputs"]))]
    first, *rest = parts
    return "\n\n".join([first, f"*This page is the notebook `examples/{name}`, run as it stands.*", *rest, ""])


def _joined(outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the outputs with what was printed in pieces as one; what went to standard error is left out."""
    made: list[dict[str, Any]] = []
    for output in outputs:
        text = "".join(output.get("text", ""))
        if output.get("name") == "stdout" and made and made[-1].get("name") == "stdout":
            made[-1] = made[-1] | {"text": made[-1]["text"] + text}
        elif output.get("name") != "stderr":
            made.append(output | ({"text": text} if "text" in output else {}))
    return made


def _output(output: dict[str, Any]) -> str:
    data = output.get("data", {})
    if "image/png" in data:
        picture = base64.b64encode(base64.b64decode("".join(data["image/png"]))).decode()
        return f'<img alt="What the code above draws" src="data:image/png;base64,{picture}">'
    said = _STYLED.sub("", "".join(output.get("text", data.get("text/plain", ""))))
    return _fenced(said.rstrip(), "text") if said.strip() else ""


def _fenced(text: str, mark: str) -> str:
    return f"```{mark}\n{text}\n```"
