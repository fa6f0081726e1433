"""R26: two runs of `synthesize` on one folder write the same bytes, interrupted or not; only the cost may differ."""

import json
import shutil
from pathlib import Path

import pydicom
import pytest

from meddap_monai import store
from meddap_monai.core.records import read_records, write_records
from meddap_monai.diffusion.generation.synthesize import synthesize_folder
from meddap_monai.images.writing.write import export_dicom
from meddap_monai.phantom.simulation import write_phantom_study

KEYS = {"steps": 2, "ratio": 1, "shard_size": 2, "device": "cpu"}


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file by name, without the cost, event files and index's journal, which hold times."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in (store.COST, "journal.sqlite")]
    found = {str(path.relative_to(folder)): path.read_bytes() for path in files}
    return {name: data for name, data in found.items() if "tensorboard" not in name}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    write_phantom_study(folder, 1, 1, 0, "own")
    return folder


@pytest.fixture(scope="module")
def made(source: Path, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "out"
    synthesize_folder(source, folder, generate_keys=KEYS, base=tiny_base)
    return folder


def test_two_runs_are_byte_equal(made: Path, source: Path, tiny_base: Path, tmp_path: Path) -> None:
    synthesize_folder(source, tmp_path / "again", generate_keys=KEYS, base=tiny_base)
    one, two = contents(made), contents(tmp_path / "again")
    assert sum(name.endswith(".dcm") for name in one) == 3 and one.keys() == two.keys()
    assert [name for name in one if one[name] != two[name]] == []


def test_an_interrupted_run_is_byte_equal(made: Path, source: Path, tiny_base: Path, tmp_path: Path) -> None:
    stopped = tmp_path / "stopped"
    shutil.copytree(made, stopped)
    generate = stopped / "generate"
    document = json.loads((generate / "stage.json").read_text())
    running = {name: document[name] for name in ("stage", "configuration", "inputs", "versions")}
    store.write_json(generate / "stage.json", running | {"state": "running"})
    shutil.rmtree(generate / "dicom")
    shutil.rmtree(store.shard_path(generate, 1))
    (generate / "generated.jsonl").unlink()
    synthesize_folder(source, stopped, generate_keys=KEYS, base=tiny_base)
    one, two = contents(made), contents(stopped)
    assert one.keys() == two.keys()
    assert [name for name in one if one[name] != two[name]] == []


def test_identifiers_depend_on_pixels_and_seed_only(made: Path, tmp_path: Path) -> None:
    rows = read_records(made / "generate" / "generated.jsonl", full=True)

    def identifiers(name: str, changed: list[dict]) -> list[str]:
        write_records(tmp_path / name / "generated.jsonl", changed)
        written = export_dicom(tmp_path / name / "generated.jsonl", tmp_path / name / "dicom")
        return [str(pydicom.dcmread(path).SOPInstanceUID) for path in written]

    def with_facts(**facts: object) -> list[dict]:
        return [row | {"synthetic": row["synthetic"] | facts} for row in rows]

    first = identifiers("first", rows)
    assert identifiers("elsewhere", with_facts(device="another GPU", threads=9, batch=1)) == first
    assert not set(identifiers("seed", with_facts(seed=12345))) & set(first)
