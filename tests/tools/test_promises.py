"""Long counts go on where they stopped, and the table of promises says what they gave."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from shown import ROOT

from tools.ledger import read_ledger
from tools.promises import Promise, belongs, measured, read_promises, rewrite

PAGE = """# Promises
| # | promise | tests | measured |
| --- | --- | --- | --- |
| R1 | files \\| folders | `tests/a.py`, `tests/b.py::test_one` | not yet run |
| R2 | others | `tests/c` | 3 of 3 tests pass; 2026-01-01 |
"""


def line(test: str, outcome: str = "passed", date: str = "2026-11-27", **figures: float) -> dict:
    return {"test": test, "outcome": outcome, "seconds": 0.1, "date": date, "figures": figures}


def test_rows_are_read() -> None:
    first, second = read_promises(PAGE)
    assert first == Promise("R1", "files \\| folders", ("tests/a.py", "tests/b.py::test_one"), "not yet run")
    assert (second.name, second.tests, second.measured) == ("R2", ("tests/c",), "3 of 3 tests pass; 2026-01-01")


@pytest.mark.parametrize(
    ("test", "here"),
    [
        ("tests/a.py::test_x[1]", True),
        ("tests/b.py::test_one", True),
        ("tests/b.py::test_one[a-b]", True),
        ("tests/b.py::test_one_more", False),
        ("tests/ab.py::test_x", False),
        ("tests/c/d.py::test_x", False),
    ],
)
def test_a_test_belongs_to_the_row_that_names_it(test: str, here: bool) -> None:
    assert belongs(test, read_promises(PAGE)[0]) is here
    assert not belongs("tests/cc.py::test_x", read_promises(PAGE)[1])


def test_counts_add_up_and_shares_are_a_range() -> None:
    lines = [line("t::a", kills=20, coverage=0.944), line("t::b", date="2026-11-28", kills=20, coverage=0.95)]
    assert measured(lines) == "2 of 2 tests pass; kills 40; coverage 0.944 to 0.95; 2026-11-28"
    assert (
        measured([line("t::a", n=1500), line("t::b", "skipped")]) == "1 of 1 tests pass; 1 skipped; n 1,500; 2026-11-27"
    )
    assert measured([line("t::a[x|y]", "failed"), line("t::b")]) == (
        "1 of 2 tests pass; **failed**: `a[x/y]`; 2026-11-27"
    )


def test_only_rows_that_were_asked_for_and_run_are_rewritten() -> None:
    ledger = {one["test"]: one for one in [line("tests/a.py::test_x"), line("tests/c/d.py::test_y", "failed")]}
    text = rewrite(PAGE, ledger, ["R1"])
    assert text == PAGE.replace("not yet run", "1 of 1 tests pass; 2026-11-27")
    assert rewrite(PAGE, {}, ["R1", "R2"]) == PAGE
    assert rewrite(text, ledger, ["R1"]) == text, "twice is once"


def test_a_run_that_was_stopped_goes_on(tmp_path: Path) -> None:
    (tmp_path / "test_counts.py").write_text(
        "import pathlib, pytest\n"
        "BAD = pathlib.Path(__file__).with_name('bad')\n"
        "def test_one(record_property): record_property('mutants', 500)\n"
        "def test_two(): assert not BAD.exists()\n"
        "def test_three(): pytest.skip('not here')\n"
    )
    (tmp_path / "bad").touch()

    def run() -> str:
        words = ["-p", "tools.ledger", "--ledger", "ledger.jsonl", "-p", "no:cacheprovider", "-q", "test_counts.py"]
        environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *words], cwd=tmp_path, env=environment, capture_output=True
        )
        return done.stdout.decode().strip().splitlines()[-1]

    assert run().startswith("1 failed, 1 passed, 1 skipped")
    found = read_ledger(tmp_path / "ledger.jsonl")
    assert {name.rsplit("::")[-1]: one["outcome"] for name, one in found.items()} == {
        "test_one": "passed", "test_two": "failed", "test_three": "skipped",
    }  # fmt: skip
    assert found["test_counts.py::test_one"]["figures"] == {"mutants": 500}
    with (tmp_path / "ledger.jsonl").open("a") as stream:
        stream.write(json.dumps(line("test_counts.py::test_one"))[:20])  # a kill in the middle of a line
    (tmp_path / "bad").unlink()
    assert run().startswith("1 passed, 2 deselected")
    assert read_ledger(tmp_path / "ledger.jsonl")["test_counts.py::test_two"]["outcome"] == "passed"
