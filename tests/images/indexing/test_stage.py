"""The stage `index`: labels, splits, what is left out, going on after a kill, growing folders, crashing codecs."""

import csv
import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from jsonschema import validate
from PIL import Image

import meddap_monai
from meddap_monai.core.configuration import build
from meddap_monai.core.records import class_names, read_records
from meddap_monai.errors import ConfigurationError, DiskFull, ForeignOutput, RecordsError, StageError
from meddap_monai.images.indexing import duplicates, worker_pool
from meddap_monai.images.indexing.accept import Acceptance
from meddap_monai.images.indexing.config import IndexConfig
from meddap_monai.images.indexing.duplicates import BLOCK, Groups, near_duplicates
from meddap_monai.images.indexing.journal import open_journal
from meddap_monai.images.indexing.stage import index
from meddap_monai.phantom.simulation import dicom_bytes, simulate_image, write_phantom_study
from meddap_monai.store import read_stage


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_phantom_study(tmp_path_factory.mktemp("study"), 4, 2, seed=0, broken=4, clips=2)


@pytest.fixture(scope="module")
def indexed(study: Path, key: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return index(IndexConfig(source=study, key_file=key, workers=2), tmp_path_factory.mktemp("index") / "out")


def pngs(folder: Path, count: int = 3, classes: tuple[str, ...] = ("a", "b")) -> Path:
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for image in range(count):
            pixels = simulate_image("normal", 100 * number + image, size=(48, 48))
            Image.fromarray(pixels).save(folder / name / f"{image}.png")
    return folder


def test_counts_add_up_and_every_reject_has_a_reason(indexed: Path) -> None:
    document = read_stage(indexed.parent)
    counts = document["counts"]
    assert counts["in"] == 3 * 4 * 2 + 2 + 4 == counts["out"] + counts["rejected"] and counts["rejected"] == 4
    with (indexed.parent / "rejects.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 4 and all(row["item"] and row["reason"] for row in rows)
    assert document["state"] == "done" and class_names(indexed) == ["benign", "malignant", "normal"]
    assert sum(document["splits"].values()) == counts["out"]


def test_records_keep_the_contract(indexed: Path) -> None:
    schema = json.loads((Path(meddap_monai.__file__).parent / "schemas" / "record.json").read_text())
    for line in indexed.read_text().splitlines():
        record = json.loads(line)
        validate(record, schema)
        assert record["meta"]["deidentified"] is True and record["meta"]["spacing_mm"] == [0.3125, 0.3125]
        with Image.open(indexed.parent / record["image"]) as image:
            assert image.size == (128, 128) and image.mode == "L"
    assert {Path(record["image"]).name for record in read_records(indexed)} == {
        path.name for path in (indexed.parent / "images").iterdir()
    }


def test_patients_stay_together(indexed: Path) -> None:
    found: dict[str, set[str]] = {}
    for record in read_records(indexed):
        found.setdefault(record["patient"], set()).add(record["split"])
    assert len(found) == 12 and all(len(splits) == 1 for splits in found.values())


def test_the_same_again_does_nothing(indexed: Path, study: Path, key: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in indexed.parent.rglob("*") if path.name != ".lock"}
    index(IndexConfig(source=study, key_file=key, workers=1, timeout=30), indexed.parent)
    assert before == {path: path.stat().st_mtime_ns for path in indexed.parent.rglob("*") if path.name != ".lock"}


def test_another_configuration_is_refused(indexed: Path, study: Path, key: Path) -> None:
    with pytest.raises(ForeignOutput):
        index(IndexConfig(source=study, key_file=key, frames="first"), indexed.parent)


@pytest.mark.parametrize("workers", [0, 3])
def test_the_number_of_workers_changes_nothing(
    workers: int, indexed: Path, study: Path, key: Path, tmp_path: Path
) -> None:
    again = index(IndexConfig(source=study, key_file=key, workers=workers), tmp_path / "out")
    assert again.read_bytes() == indexed.read_bytes()
    assert (again.parent / "rejects.csv").read_bytes() == (indexed.parent / "rejects.csv").read_bytes()


def test_a_grown_folder_only_reads_what_is_new(tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = pngs(tmp_path / "in")
    config = IndexConfig(source=source, key_file=key, split="train", workers=0)
    first = read_records(index(config, tmp_path / "out"))
    Image.fromarray(simulate_image("benign", 9, size=(48, 48))).save(source / "b" / "new.png")
    (source / "a" / "0.png").unlink()
    read: list[str] = []
    original = worker_pool.accept
    monkeypatch.setattr(worker_pool, "accept", lambda task, how: read.append(task["relative"]) or original(task, how))
    second = read_records(index(config, tmp_path / "out"))
    assert read == ["b/new.png"]
    assert len(second) == len(first) == 6 and len({r["id"] for r in first} & {r["id"] for r in second}) == 5
    assert len(list((tmp_path / "out" / "images").iterdir())) == 6, "the picture of the removed file is gone"


def test_copies_are_dropped_and_not_read_again(tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = pngs(tmp_path / "in", count=4)
    for copy, original in (("a/7", "a/0"), ("a/8", "a/0"), ("b/9", "a/1")):
        (source / f"{copy}.png").write_bytes((source / f"{original}.png").read_bytes())
    config = IndexConfig(source=source, key_file=key, split="train", workers=0)
    first = read_records(index(config, tmp_path / "out"))
    assert len(first) == 4 * 2 - 1 and read_stage(tmp_path / "out")["counts"]["exact_duplicates"] == 4
    rejects = (tmp_path / "out" / "rejects.csv").read_text()
    assert rejects.count("exact duplicate of ") == 2 and rejects.count("occurs under several classes") == 2
    read: list[str] = []
    original_accept = worker_pool.accept
    monkeypatch.setattr(
        worker_pool, "accept", lambda task, how: read.append(task["relative"]) or original_accept(task, how)
    )
    Image.fromarray(simulate_image("benign", 9, size=(48, 48))).save(source / "b" / "new.png")
    assert len(read_records(index(config, tmp_path / "out"))) == 8 and read == ["b/new.png"]
    (source / "a" / "0.png").unlink()
    assert len(read_records(index(config, tmp_path / "out"))) == 8
    assert read == ["b/new.png", "a/7.png"], "the first copy stays now, so its picture is written"
    assert len(list((tmp_path / "out" / "images").iterdir())) == 8


@pytest.mark.slow
def test_memory_hardly_grows_with_the_folder(key: Path, tmp_path: Path) -> None:
    """At most 1 kB per image, each a patient of its own; what cannot shrink is names and ids."""
    code = (
        "import resource, sys; from pathlib import Path; from meddap_monai.images.indexing.stage import *; "
        "index(IndexConfig(source=Path(sys.argv[1]), key_file=Path(sys.argv[2]), modality='any'), Path(sys.argv[3])); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    rng, peaks = np.random.default_rng(0), []
    for count in (2000, 10_000):
        for number in range(count):
            picture = tmp_path / f"in{count}" / "ab"[number % 2] / f"{number}.png"
            picture.parent.mkdir(parents=True, exist_ok=True)
            blocks = rng.integers(0, 255, (6, 6), dtype=np.uint8)
            Image.fromarray(np.kron(blocks, np.ones((4, 4), np.uint8))).save(picture, compress_level=1)
        words = [sys.executable, "-c", code, tmp_path / f"in{count}", key, tmp_path / f"out{count}"]
        peaks.append(int(subprocess.run(words, check=True, capture_output=True, text=True).stdout))
    assert peaks[1] - peaks[0] < 8000 * 1.0, f"{peaks} kB"


def test_killed_and_started_again_gives_equal_records(study: Path, key: Path, indexed: Path, tmp_path: Path) -> None:
    """R13: kill -9 at several times; a rerun gives byte-equal records."""
    code = (
        "import sys; from pathlib import Path; from meddap_monai.images.indexing.stage import *; "
        "index(IndexConfig(source=Path(sys.argv[1]), key_file=Path(sys.argv[2])), Path(sys.argv[3]))"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(meddap_monai.__file__).parents[1])}
    words = [sys.executable, "-c", code, str(study), str(key), str(tmp_path / "out")]
    for wanted in (3, 12):
        with subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL) as process:
            pictures = tmp_path / "out" / "images"
            deadline = time.monotonic() + 60
            while process.poll() is None and len(list(pictures.glob("*.png"))) < wanted:
                assert time.monotonic() < deadline
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
    result = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-1500:]
    assert (tmp_path / "out" / "records.jsonl").read_bytes() == indexed.read_bytes()


def test_a_full_disk_stops_with_its_name_and_goes_on_later(
    tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R14: the error names path and bytes; once there is space, the run ends as if nothing had happened."""
    source = pngs(tmp_path / "in", count=4)
    config = IndexConfig(source=source, key_file=key, split="train", workers=0)
    whole = index(config, tmp_path / "whole").read_bytes()
    original, written = Path.write_bytes, []

    def write(path: Path, data: bytes) -> int:
        written.append(path)
        if len(written) > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(path, data)

    monkeypatch.setattr(Path, "write_bytes", write)
    with pytest.raises(DiskFull, match=r"images/.*png: the disk is full: 2,304 bytes needed"):
        index(config, tmp_path / "out")
    assert len(list((tmp_path / "out" / "images").glob("*.png"))) == 3, "nothing partial under a final name"
    monkeypatch.setattr(Path, "write_bytes", original)
    assert index(config, tmp_path / "out").read_bytes() == whole


def test_a_full_disk_in_a_worker_reaches_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = {"stop": "DiskFull", "message": "a.png: the disk is full"}
    code = f"import sys\nfor line in sys.stdin: print({json.dumps(json.dumps(answer))}, flush=True)"
    original = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda words, **keys: original([sys.executable, "-c", code], **keys))
    with pytest.raises(DiskFull, match="a.png: the disk is full"):
        list(worker_pool.accept_all([{"relative": "a"}], HOW, 1, timeout=20, memory=500))


def table(folder: Path, rows: list[list[str]], name: str = "index.csv") -> None:
    with (folder / name).open("w", newline="") as stream:
        csv.writer(stream, delimiter="\t" if name.endswith("tsv") else ",").writerows(rows)


@pytest.mark.parametrize("name", ["index.csv", "list.tsv"])
def test_labels_from_a_table(name: str, tmp_path: Path, key: Path) -> None:
    source = pngs(tmp_path / "in", classes=("x",))
    rows = [["image", "label", "group", "role"]]
    rows += [["x/0.png", "cyst", "g1", "keep"], ["x/1.png", "solid", "g1", "keep"], ["x/2.png", "solid", "g2", "drop"]]
    table(source, [*rows, ["x/9.png", "solid", "g3", "keep"], ["x/1.png", "", "g3", "keep"]], name)
    config = IndexConfig(
        source=source, labels="csv", table=name, where={"role": "keep"}, key_file=key, split="unseen", workers=0
    )
    records = read_records(index(config, tmp_path / "out"))
    assert {record["class_name"] for record in records} <= {"cyst", "solid"}
    assert len({record["patient"] for record in records}) == 1 and {record["split"] for record in records} == {"unseen"}
    rejects = (tmp_path / "out" / "rejects.csv").read_text()
    assert "cannot be opened" in rejects and "gives no label" in rejects
    assert "g1" not in (tmp_path / "out" / "records.jsonl").read_text(), "groups become pseudonyms too"


def test_no_path_of_the_user_leaves_the_private_folder(tmp_path: Path, key: Path) -> None:
    home = tmp_path / 'Doe, Jane\'s "US" #2'
    source = pngs(home / "in", classes=("x",))
    table(home, [["image", "label"], ["x/0.png", "=cyst"], ["x/1.png", "solid"], ["x/2.png", "solid"]], "Doe.csv")
    (home / "key").write_bytes(key.read_bytes())
    config = IndexConfig(
        source=source, labels="csv", table=home / "Doe.csv", key_file=home / "key", split="unseen", workers=0
    )
    index(config, tmp_path / "out")
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file() and path.parent.name != "private"]
    assert written and not [path for path in written if b"Doe" in path.read_bytes()]
    assert b"Doe" in (tmp_path / "out" / "private" / "sources.csv").read_bytes()


def test_labels_from_an_attribute(tmp_path: Path, key: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(2):
        data = dicom_bytes(simulate_image("benign", number)[None], f"p{number}", f"1.{number}")
        (tmp_path / "in" / f"{number}").write_bytes(data)
    pngs(tmp_path / "in", count=1, classes=("c",))
    config = IndexConfig(
        source=tmp_path / "in", labels="attribute", attribute="BodyPartExamined", key_file=key, split="test", workers=0
    )
    records = read_records(index(config, tmp_path / "out"))
    assert [record["class_name"] for record in records] == ["BREAST", "BREAST"]
    assert "is not DICOM" in (tmp_path / "out" / "rejects.csv").read_text()


def test_frames_of_one_clip_share_a_split(tmp_path: Path, key: Path) -> None:
    source = write_phantom_study(tmp_path / "in", 3, 1, seed=1, clips=3)
    config = IndexConfig(source=source, frames="every 2", near_duplicates="off", key_file=key)
    records = read_records(index(config, tmp_path / "out"), full=True)
    assert len(records) == 9 + 3 * 4
    clips = [record for record in records if record["meta"]["frames"] == 8]
    assert sorted(record["meta"]["frame"] for record in clips) == sorted([0, 2, 4, 6] * 3)
    for patient in {record["patient"] for record in clips}:
        assert len({record["split"] for record in records if record["patient"] == patient}) == 1


def test_classes_fix_the_order_of_labels(tmp_path: Path, key: Path) -> None:
    source = pngs(tmp_path / "in", classes=("a", "b", "c"))
    config = IndexConfig(source=source, classes=("c", "a", "z"), key_file=key, split="train", workers=0)
    path = index(config, tmp_path / "out")
    assert class_names(path) == ["c", "a", "z"]
    assert {record["class_name"]: record["label"] for record in read_records(path)} == {"c": 0, "a": 1}
    assert (tmp_path / "out" / "rejects.csv").read_text().count("its class is none of c, a, z") == 3


def test_a_small_draw(tmp_path: Path, key: Path) -> None:
    source = pngs(tmp_path / "in", count=6)
    config = IndexConfig(source=source, draw={"train": 2, "val": 1}, near_duplicates="off", key_file=key, workers=0)
    document = read_stage(index(config, tmp_path / "out").parent)
    assert document["splits"] == {
        f"{split}/{name}": n for split, n in (("test", 3), ("train", 2), ("val", 1)) for name in "ab"
    }


def test_nothing_to_accept(tmp_path: Path, key: Path) -> None:
    (tmp_path / "in" / "a").mkdir(parents=True)
    (tmp_path / "in" / "a" / "x.dcm").write_bytes(b"no image" * 100)
    with pytest.raises(RecordsError, match="none of 1 items could be accepted; the reasons are in .*rejects.csv"):
        index(IndexConfig(source=tmp_path / "in", key_file=key, workers=0), tmp_path / "out")


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"modality": "MR"}, "index#modality"),
        ({"frames": "some"}, "frames is 'some'"),
        ({"split": "holdout"}, "index#split"),
        ({"fractions": {"train": 0.5}}, "shares of splits that sum to 1"),
        ({"draw": {"train": 3}}, "images per class for train and val"),
        ({"labels": "attribute"}, "expected a DICOM keyword"),
        ({"workers": -1}, "index#workers: got -1"),
        ({"memory": 8}, "index#memory: got 8"),
        ({"masks": "drop"}, "index#masks"),
        ({"modalty": "US"}, "modality"),
        ({"source": "nowhere/at/all"}, "is not a folder"),
    ],
)
def test_configurations_that_cannot_be(keys: dict, text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=text):
        (tmp_path / "in").mkdir()
        index(build(IndexConfig, {"source": str(tmp_path / "in"), **keys}, "index"), tmp_path / "out")


def test_an_output_inside_of_the_source_is_refused(tmp_path: Path, key: Path) -> None:
    with pytest.raises(ConfigurationError, match="lies inside of index#source"):
        index(IndexConfig(source=pngs(tmp_path), key_file=key), tmp_path / "out")


@pytest.mark.parametrize("rows", [[["image", "class"]], []])
def test_tables_that_do_not_fit(rows: list[list[str]], tmp_path: Path, key: Path) -> None:
    table(pngs(tmp_path / "in"), rows)
    with pytest.raises(ConfigurationError, match="expected also 'label'|expected also 'image'"):
        index(IndexConfig(source=tmp_path / "in", labels="csv", key_file=key), tmp_path / "out")


# ---------------------------------------------------------------------------------------------------- its parts
HOW = Acceptance("out", "00" * 16, "US", "middle", "b-mode", False, False, "file", "")
FAKE = """
import json, os, sys, time
sys.stdin.readline()
for line in sys.stdin:
    task = json.loads(line)
    if task["relative"] == "crash": os._exit(11)
    if task["relative"] == "hang": time.sleep(60)
    print(json.dumps({"outcome": {"relative": task["relative"], "items": []}}), flush=True)
"""


@pytest.mark.parametrize("workers", [1, 3])
def test_a_crash_or_a_hang_costs_one_file(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    original = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda words, **keys: original([sys.executable, "-c", FAKE], **keys))
    names = ["a", "crash", "b", "hang", "c", "d", "crash", "e"]
    begin = time.monotonic()
    tasks = [{"relative": name} for name in names]
    outcomes = list(worker_pool.accept_all(tasks, HOW, workers, timeout=1.5, memory=500))
    assert sorted(outcome["relative"] for outcome in outcomes) == sorted(names)
    errors = {outcome["relative"]: outcome["error"] for outcome in outcomes if "error" in outcome}
    assert set(errors) == {"crash", "hang"}
    assert "a decoder crashed on it" in errors["crash"] and "longer than 1.5 s" in errors["hang"]
    assert time.monotonic() - begin < 20


def test_a_file_that_takes_too_much_memory_costs_itself(tmp_path: Path, key: Path) -> None:
    """Files of some kilobytes that unfold to 192 and 64 MB; those behind them are read as ever."""
    source = pngs(tmp_path / "in", classes=("a",))
    Image.new("RGB", (8000, 8000)).save(source / "a" / "1_large.png")
    config = IndexConfig(source=source, key_file=key, split="train", memory=100)
    assert len(read_records(index(config, tmp_path / "out"))) == 3
    with (tmp_path / "out" / "rejects.csv").open() as stream:
        (reject,) = csv.DictReader(stream)
    assert "asks for more memory than one file may take; raise index#memory" in reject["reason"]


def test_a_damaged_journal_is_begun_anew(tmp_path: Path, key: Path) -> None:
    """As a power cut can leave one; everything is read again."""
    config = IndexConfig(source=pngs(tmp_path / "in"), key_file=key, split="train", workers=0)
    records = index(config, tmp_path / "out")
    before, journal = records.read_bytes(), tmp_path / "out" / "private" / "journal.sqlite"
    for damaged in (b"no database" * 500, journal.read_bytes()[:5000], b""):
        journal.write_bytes(damaged)
        Image.fromarray(simulate_image("normal", len(damaged), size=(48, 48))).save(tmp_path / "in" / "a" / "0.png")
        index(config, tmp_path / "out")
        Image.fromarray(simulate_image("normal", 0, size=(48, 48))).save(tmp_path / "in" / "a" / "0.png")
        assert index(config, tmp_path / "out").read_bytes() == before


def numbered(pictures: np.ndarray):
    """Loads blocks of pictures that are named by their numbers."""

    def load(block: int):
        names = range(len(pictures))[block * BLOCK : (block + 1) * BLOCK]
        return names, pictures[names.start : names.stop]

    return load


@pytest.mark.parametrize("panel", [1, 2, 8])
def test_near_duplicates_are_found_among_many(panel: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "PANEL", panel)
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 255, (3000, 32, 32)).astype(np.uint8)
    pictures[2500] = np.clip(pictures[10].astype(int) * 0.8 + 9, 0, 255)
    pictures[40] = np.clip(pictures[2900].astype(int) + rng.integers(-8, 8, (32, 32)), 0, 255)
    pictures[41] = np.clip(pictures[50].astype(int) + rng.integers(-8, 8, (32, 32)), 0, 255)
    pictures[1700] = pictures[60, :, ::-1]
    pictures[70] = np.maximum(pictures[70], pictures[70, :, ::-1])
    pictures[71] = pictures[70]
    found = [(10, 2500), (40, 2900), (41, 50), (60, 1700), (70, 71)]
    assert sorted(near_duplicates(numbered(pictures), 0.98)) == found, "each once, mirrored ones too"
    flat = np.zeros((4, 32, 32), np.uint8)
    assert list(near_duplicates(numbered(flat), 0.98)) == [], "flat pictures are no duplicates"


def test_groups() -> None:
    groups = Groups()
    for pair in ("cd", "ab", "bc", "xy"):
        groups.join(*pair)
    assert groups.names() == dict(zip("abcdxy", "aaaaxx", strict=True))


def test_a_path_too_long_for_sqlite_is_one_sentence(tmp_path: Path) -> None:
    place = tmp_path / ("x" * 200) / ("y" * 200) / ("z" * 200) / "journal.sqlite"
    for _ in range(2):  # the second time, the file that SQLite could not open is there
        with pytest.raises(StageError, match="choose an output folder with a shorter path"), open_journal(place):
            pass
