"""Progress is a bar where somebody looks, and whole lines in a file."""

import ast
import fcntl
import io
import os
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

import meddap_monai
from meddap_monai.core import progress as module
from meddap_monai.core.progress import Lines, bar, progress

NESTED = (
    "from meddap_monai.core.progress import progress, say\n"
    "for a in progress(range(2), desc='outer', unit='seed'):\n"
    "    for b in progress(range(3), desc='inner', unit='step'): pass\n"
    "    with progress(total=4, desc='by hand', unit='image') as one:\n"
    "        one.update(4); one.set_postfix(loss='0.5'); say('between')\n"
)


def test_in_a_file_progress_is_whole_lines_without_cursor_movements(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        subprocess.run([sys.executable, "-c", NESTED], stderr=log, stdout=log, check=True)
    text = (tmp_path / "log").read_bytes().decode()
    assert "\x1b" not in text and "\r" not in text
    lines = [re.sub(r" \[.*", "", line) for line in text.splitlines()]
    once = ["inner: 3 of 3 steps, 100 %", "between", "by hand: 4 of 4 images, 100 %"]
    assert sorted(lines) == sorted([*once, *once, "outer: 2 of 2 seeds, 100 %"])
    assert text.endswith("\n")


def test_in_a_terminal_progress_is_a_bar() -> None:
    leader, follower = os.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    subprocess.run([sys.executable, "-c", NESTED], stderr=follower, stdout=follower, check=True)
    os.close(follower)
    text = os.read(leader, 100_000).decode()
    os.close(leader)
    assert "\r" in text and "100%|" in text


@pytest.mark.parametrize(("every", "lines"), [(0.0, 6), (3600.0, 1)])
def test_lines_come_at_intervals(every: float, lines: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EVERY", every)
    file = io.StringIO()
    for _ in Lines(range(4), desc="x", unit="file", file=file, miniters=1):
        pass
    said = file.getvalue().splitlines()
    assert len(said) == lines
    assert said[-1].startswith("x: 4 of 4 files, 100 % [")


def test_without_a_total_the_line_counts() -> None:
    file = io.StringIO()
    list(Lines(iter("ab"), desc="x", unit="file", file=file))
    assert file.getvalue().startswith("x: 2 files [")


def test_batches_have_their_plural() -> None:
    file = io.StringIO()
    list(Lines(range(2), desc="x", unit="batch", file=file))
    assert file.getvalue().startswith("x: 2 of 2 batches, 100 % [")


def test_a_bar_that_is_off_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress(range(3), desc="x", disable=True)) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_a_notebook_gets_its_widget(monkeypatch: pytest.MonkeyPatch) -> None:
    """tqdm.auto is a `tqdm_notebook` inside of a kernel; there standard error is no terminal."""
    assert not module.is_watched()
    monkeypatch.setattr(module, "bar", type("tqdm_asyncio", (type("tqdm_notebook", (bar,), {}),), {}))
    assert module.is_watched()


def test_nothing_else_draws_progress() -> None:
    root = Path(meddap_monai.__file__).parent
    using = [
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "tqdm"
    ]
    assert set(using) == {"core/progress.py"}
