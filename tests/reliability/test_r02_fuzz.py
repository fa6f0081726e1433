"""R2: 2,000 seeded mutants end in an array or in `UnreadableImage`: no other exception, no crash, no hang.

Each new failure becomes a permanent case in `FOUND`.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from mutants import mutant, seeds

import meddap_monai

FOUND: list[int] = []
"""Seeds of mutants that once made the reader fail."""


def read(first: int, last: int) -> dict[str, int]:
    script = Path(__file__).with_name("mutants.py")
    words = [sys.executable, str(script), str(first), str(last)]
    environment = os.environ | {"PYTHONPATH": str(Path(meddap_monai.__file__).parents[1])}
    result = subprocess.run(words, capture_output=True, text=True, timeout=600, env=environment)
    lines = result.stdout.splitlines()
    assert result.returncode == 0, f"mutant {lines[-1] if lines else first}: {result.stderr[-1500:]}"
    return json.loads(lines[-1])


def test_the_seeds_are_good_files(tmp_path: Path) -> None:
    from meddap_monai.images.reading.dicom import read_ultrasound

    for data in seeds():
        (tmp_path / "good").write_bytes(data)
        assert read_ultrasound(tmp_path / "good", key=b"k" * 32)[0].size


def test_mutants_are_reproducible_and_differ() -> None:
    assert mutant(5) == mutant(5)
    assert len({mutant(seed) for seed in range(200)}) > 190


@pytest.mark.parametrize("first", range(0, 2000, 500))
def test_two_thousand_mutants(first: int, record_property: Callable[[str, object], None]) -> None:
    outcomes = read(first, first + 500)
    record_property("mutants", 500)
    assert sum(outcomes.values()) == 500
    assert outcomes["array"] > 50 and outcomes["refused"] > 100, "mutants must be neither all harmless nor all hopeless"


@pytest.mark.parametrize("seed", FOUND)
def test_what_was_found_before(seed: int) -> None:
    assert sum(read(seed, seed + 1).values()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("first", range(2000, 22_000, 2000))
def test_twenty_thousand_more(first: int, record_property: Callable[[str, object], None]) -> None:
    record_property("mutants", 2000)
    assert sum(read(first, first + 2000).values()) == 2000
