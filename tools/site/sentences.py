"""Long sentences of the documentation: ``python -m tools.site.sentences [PAGE ...]`` lists them."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

LIMIT = 25
_LEFT_OUT = re.compile(r"^```[\s\S]*?^```|^\s*\|.*$|^#.*$|^!\[.*$", flags=re.MULTILINE)
_MARKS = (
    (r"\[([^\]]*)\]\([^)]*\)", r"\1"),
    (r"`[^`]*`", "code"),
    (r"[*_]{1,2}(\S[^*_]*)[*_]{1,2}", r"\1"),
    (r"\([^)]*\)", ""),
)
_PARAGRAPH = re.compile(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.) )")
_END = re.compile(r"(?<=[.!?:])[\"')]*\s+(?=[\"'(A-Z0-9]|code)")


def long_sentences(markdown: str) -> Iterator[str]:
    """Yield the sentences of a page's prose with `LIMIT` words or more; code, tables and headings do not count.

    A link counts by its text, code as one word, and what stands in brackets not at all.
    """
    for paragraph in _PARAGRAPH.split(_LEFT_OUT.sub("\n\n", markdown)):
        text = " ".join(paragraph.split())
        for pattern, instead in _MARKS:
            text = re.sub(pattern, instead, text)
        for sentence in _END.split(re.sub(r"\b(e\.g|i\.e|etc|vs|cf|al)\.", r"\1", text)):
            if sum(any(letter.isalnum() for letter in word) for word in sentence.split()) >= LIMIT:
                yield sentence.strip()


if __name__ == "__main__":
    for name in sys.argv[1:] or sorted(map(str, Path("docs").rglob("*.md"))):
        for long in long_sentences(Path(name).read_text()):
            print(f"{name}: {len(long.split())} words: {long}")
