"""From CommonMark, in which the pages are written and GitHub shows them, to Python-Markdown, which mkdocs reads.

Python-Markdown wants an empty line before a list and four columns for what belongs to an item.
"""

import re

_ITEM = re.compile(r"( *)([-*]|\d+\.)( +)")


def python_markdown(text: str) -> str:
    """Return a page whose lists Python-Markdown reads as CommonMark means them; code stays as it is."""
    lines: list[str] = []
    open_items: list[int] = []  # column at which the content of each open item begins
    fence, paragraph, empty = "", False, True
    for line in text.split("\n"):
        indent = len(line) - len(line.lstrip(" "))
        if not line.strip():
            lines.append("")
            empty, paragraph = True, False
            continue
        item = None if fence else _ITEM.match(line)
        if not fence and (empty or item or line.startswith(("#", "|", "```"))):
            while open_items and indent < open_items[-1]:
                open_items.pop()
        if item:
            if paragraph and not empty:
                lines.append("")
            lines.append(" " * 4 * len(open_items) + line.lstrip(" "))
            open_items.append(item.end())
        else:
            column = open_items[-1] if open_items and indent >= open_items[-1] else 0
            lines.append(" " * 4 * len(open_items) * bool(column) + line[column:])
        if line.lstrip().startswith("```"):
            fence = "" if fence else "```"
        paragraph = not item and not fence and (paragraph or empty or not open_items)
        empty = False
    return "\n".join(lines)
