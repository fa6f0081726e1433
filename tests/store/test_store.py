"""The store: atomic files, one writer, skip / resume / refuse, shards."""

import csv
import errno
import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from meddap_monai import store
from meddap_monai.errors import DiskFull, FolderInUse, ForeignOutput, Interrupted, StageError

COUNTS = {"in": 3, "out": 2, "rejected": 1}
HOLD = (
    "import sys, time; from meddap_monai import store\n"
    "with store.lock_folder(sys.argv[1]):\n    print('held', flush=True); time.sleep(float(sys.argv[2]))"
)


def _finish(folder: Path, **keys: object) -> None:
    with store.open_stage(folder, "index", {"a": 1}, **keys) as stage:
        stage.finish(COUNTS, classes=["x"])


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = store.write_atomic(tmp_path / "file", "old")
    with pytest.raises(RuntimeError), store.atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_full_disk_names_path_and_bytes_and_keeps_the_old_file(tmp_path: Path) -> None:
    path = store.write_atomic(tmp_path / "file", "old")
    with pytest.raises(DiskFull, match=r"file: the disk is full: 5 bytes needed"), store.atomic_path(path, needs=5):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert path.read_text() == "old"


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="needs Linux' full device")
def test_a_full_disk_is_told_from_the_errors_of_other_writers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch does not say ENOSPC: its own error on a device without room is the real one."""
    import torch

    path = store.write_atomic(tmp_path / "weights.pt", "old")

    def write() -> None:
        with store.atomic_path(path, needs=5):
            torch.save({"weights": torch.zeros(100_000)}, "/dev/full")

    with pytest.raises(RuntimeError, match="unexpected pos"):  # as long as the disk has room, something else is wrong
        write()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    with pytest.raises(DiskFull, match=r"weights\.pt: the disk is full: 5 bytes needed, 100 bytes free"):
        write()
    assert path.read_text() == "old"
    with pytest.raises(DiskFull, match="more than 3 bytes needed"), store.disk_full_errors(tmp_path):
        raise RuntimeError("of any library")
    with pytest.raises(FileNotFoundError), store.disk_full_errors(tmp_path):
        (tmp_path / "missing").read_text()


def test_private_files_are_private(tmp_path: Path) -> None:
    path = store.write_atomic(tmp_path / "key", b"secret", mode=0o600)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_finished_stage_is_skipped_and_its_document_matches_the_schema(tmp_path: Path) -> None:
    _finish(tmp_path)
    with store.open_stage(tmp_path, "index", {"a": 1}) as stage:
        assert stage.done
    document = store.read_stage(tmp_path)
    assert document["counts"] == COUNTS
    assert document["state"] == "done"
    assert document["classes"] == ["x"]


def test_an_unfinished_stage_goes_on_with_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), store.open_stage(tmp_path, "adapt", {"a": 1}) as stage:
        (stage.folder / "checkpoint").write_text("step 5")
        raise KeyboardInterrupt
    assert store.read_stage(tmp_path)["state"] == "running"
    with store.open_stage(tmp_path, "adapt", {"a": 1}) as stage:
        assert not stage.done
        assert (stage.folder / "checkpoint").read_text() == "step 5"


@pytest.mark.parametrize(
    ("stage", "configuration", "inputs", "message"),
    [
        ("index", {"a": 2}, {}, r"configuration a was 1, now 2"),
        ("index", {"a": 1}, {"base": "other"}, r"inputs base was None, now 'other'"),
        ("select", {"a": 1}, {}, r"stage 'index', expected 'select'"),
    ],
)
def test_a_folder_of_another_run_is_refused_unless_told(
    tmp_path: Path, stage: str, configuration: dict, inputs: dict, message: str
) -> None:
    _finish(tmp_path)
    (tmp_path / "records.jsonl").write_text("precious")
    with pytest.raises(ForeignOutput, match=message), store.open_stage(tmp_path, stage, configuration, inputs):
        pass
    assert (tmp_path / "records.jsonl").read_text() == "precious"
    with store.open_stage(tmp_path, stage, configuration, inputs, overwrite=True) as opened:
        assert not opened.done
    assert not (tmp_path / "records.jsonl").exists()


def test_a_foreign_folder_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ForeignOutput, match="never overwritten"):
        _finish(tmp_path, overwrite=True)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_changed_input_records_are_another_run(tmp_path: Path) -> None:
    records = tmp_path / "records.jsonl"
    records.write_text("one\n")
    _finish(tmp_path / "out", inputs={"records": records})
    records.write_text("two\n")
    with pytest.raises(ForeignOutput, match="inputs records"):
        _finish(tmp_path / "out", inputs={"records": records})


def test_counts_must_be_whole(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="missing"), store.open_stage(tmp_path, "mix", {}) as stage:
        stage.finish({"in": 1})


def test_a_second_writer_is_told_who_holds_the_folder_and_a_dead_holder_is_taken_over(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path), "60"], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        started = time.monotonic()
        with pytest.raises(FolderInUse, match=f"process {holder.pid} on"), store.lock_folder(tmp_path):
            pass
        assert time.monotonic() - started < 2
    finally:
        holder.kill()
        holder.wait()
    with store.lock_folder(tmp_path):
        pass


def test_a_holder_that_has_not_written_its_name_yet_is_waited_for(tmp_path: Path) -> None:
    """A process can stall before it writes its name; what a dead one wrote before is not believed."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (tmp_path / ".lock").write_text(f"process {gone.pid} on {socket.gethostname()}")
    with (tmp_path / ".lock").open("r+") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        threading.Timer(1.2, lambda: (holder.write("process 1 on elsewhere"), holder.flush())).start()
        started = time.monotonic()
        with pytest.raises(FolderInUse, match="process 1 on elsewhere"), store.lock_folder(tmp_path):
            pass
        assert 1.2 <= time.monotonic() - started < 2


def test_what_a_killed_writer_left_is_swept_away(tmp_path: Path) -> None:
    write = (
        "import os, sys; from meddap_monai import store\n"
        "with store.open_stage(sys.argv[1], 'generate', {}) as stage, store.commit_shard(stage.folder, 0) as shard:\n"
        "    (shard / 'a.png').write_text('x')\n"
        "    with store.atomic_path(stage.folder / 'deep/plan.csv') as path:\n"
        "        path.write_text('half'); os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", write, str(tmp_path)])
    assert len([*tmp_path.glob("shards/.*"), *tmp_path.glob("deep/.*")]) == 2
    with store.open_stage(tmp_path, "generate", {}):
        assert [*tmp_path.glob("shards/*"), *tmp_path.glob("deep/*")] == []


def test_a_full_disk_keeps_the_shards_that_were_there(tmp_path: Path) -> None:
    with store.commit_shard(tmp_path, 0) as folder:
        (folder / "a.png").write_bytes(b"x")
    message = r"shards/000001: the disk is full: more than 3 bytes needed, [\d,]+ bytes free"
    with pytest.raises(DiskFull, match=message), store.commit_shard(tmp_path, 1) as folder:
        (folder / "a.png").write_bytes(b"xyz")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert sorted(path.name for path in (tmp_path / "shards").iterdir()) == ["000000"]


def test_a_shard_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stop"), store.commit_shard(tmp_path, 3) as folder:
        (folder / "a.png").write_bytes(b"x")
        raise ValueError("stop")
    assert not store.shard_done(tmp_path, 3)
    assert os.listdir(tmp_path / "shards") == []
    with store.commit_shard(tmp_path, 3) as folder:
        (folder / "a.png").write_bytes(b"x")
    assert (store.shard_path(tmp_path, 3) / "a.png").read_bytes() == b"x"


def test_a_signal_stops_at_the_next_check() -> None:
    import signal

    told = "checkpoint of step 7 written; run the same command again"
    with pytest.raises(Interrupted, match=told), store.InterruptFlag() as flag:
        os.kill(os.getpid(), signal.SIGTERM)
        assert flag.is_set
        flag.raise_if_set("checkpoint of step 7 written")
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_signal_after_the_last_check_is_not_lost() -> None:
    import signal

    with pytest.raises(Interrupted, match="finished is kept; run the same command again"), store.InterruptFlag():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    with pytest.raises(ValueError, match="another reason"), store.InterruptFlag():
        os.kill(os.getpid(), signal.SIGTERM)
        raise ValueError("another reason")


def test_the_lock_needs_no_heavy_import() -> None:
    code = "import sys, meddap_monai.store; print(sorted({'torch', 'monai', 'numpy'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_json_is_sorted_and_ends_with_a_newline(tmp_path: Path) -> None:
    path = store.write_json(tmp_path / "a.json", {"b": (1, 2), "a": Path("x")})
    assert path.read_text() == '{\n  "a": "x",\n  "b": [\n    1,\n    2\n  ]\n}\n'
    assert json.loads(path.read_text()) == {"a": "x", "b": [1, 2]}
    path = store.write_json(tmp_path / "b.json", {"a": float("nan"), "b": [float("-inf"), 0.5]})
    assert json.loads(path.read_text()) == {"a": None, "b": [None, 0.5]}, "JSON knows neither"


BROKEN_DOCUMENTS = {
    "Latin-1": (b'{\n"name": "\xe9"}', "line 2: not UTF-8 text"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "line 1: not UTF-8 text"),
    "binary": (b"\x89PNG\r\n\x1a\n\0\0", "line 1: not UTF-8 text"),
    "empty": (b"", "line 1: not JSON"),
    "cut": (b'{"a": 1,\n"b": ', "line 2: not JSON"),
    "list": (b"[1]", "got list, expected a JSON object"),
    "number": (b"3", "got int, expected a JSON object"),
    "null": (b"null", "got NoneType, expected a JSON object"),
    "deep": (b'{"a": ' + b"[" * 10_000 + b"]" * 10_000 + b"}", "more than 64 nested levels"),
    "rather deep": (b'{"a": ' + b"[" * 80 + b"]" * 80 + b"}", "more than 64 nested levels"),
    "surrogate": (b'{"a": "\\ud800"}', "half a character"),
    "NaN": (b'{"a": NaN}', "NaN is no JSON number"),
    "long number": (b'{"a": ' + b"9" * 5000 + b"}", "not JSON"),
}


@pytest.mark.parametrize("name", BROKEN_DOCUMENTS)
def test_a_broken_document_is_one_named_error(tmp_path: Path, name: str) -> None:
    data, message = BROKEN_DOCUMENTS[name]
    path = tmp_path / "stage.json"
    path.write_bytes(data)
    with pytest.raises(StageError, match=message) as found:
        store.read_stage(tmp_path)
    assert str(path) in str(found.value) and "line" in str(found.value)
    with pytest.raises(ForeignOutput, match=message):
        _finish(tmp_path)
    assert path.read_bytes() == data


def test_deep_is_counted_and_wide_is_not(tmp_path: Path) -> None:
    document = {"a": [[index] for index in range(1000)]}
    assert store.read_json(store.write_json(tmp_path / "wide.json", document)) == document


@pytest.mark.parametrize(
    "document",
    [
        '{"classes": 3}',
        '{"classes": [1]}',
        '{"classes": []}',
        '{"configuration": []}',
        '{"counts": 1}',
        '{"counts": {"in": "x"}}',
        '{"counts": {"in": -1}}',
        '{"stage": "other"}',
        '{"stage": 3}',
    ],
)
def test_a_stage_whose_values_have_another_type_is_refused(tmp_path: Path, document: str) -> None:
    (tmp_path / "stage.json").write_text(document)
    with pytest.raises(StageError, match="expected (a|one)"):
        store.read_stage(tmp_path)


def test_a_pipe_is_no_document(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "stage.json")
    with pytest.raises(StageError, match="is a named pipe, expected a regular file"):
        store.read_stage(tmp_path)


def test_two_runs_give_equal_stage_files_and_what_they_cost_stands_apart(tmp_path: Path) -> None:
    for name, speed in (("a", 1.0), ("b", 2.0)):
        with store.open_stage(tmp_path / name, "index", {"a": 1}) as stage:
            time.sleep(speed / 100)
            stage.finish(COUNTS, cost={"speed": speed})
    assert (tmp_path / "a" / "stage.json").read_bytes() == (tmp_path / "b" / "stage.json").read_bytes()
    costs = [store.read_cost(tmp_path / name) for name in "ab"]
    assert [cost["speed"] for cost in costs] == [1.0, 2.0] and costs[0]["seconds"] < costs[1]["seconds"]


def test_the_time_of_a_run_that_was_stopped_counts(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), store.open_stage(tmp_path, "adapt", {"a": 1}):
        store.write_atomic(tmp_path / "checkpoint", "x")
        time.sleep(0.05)
        raise KeyboardInterrupt
    first = store.read_cost(tmp_path)["seconds"]
    with store.open_stage(tmp_path, "adapt", {"a": 1}) as stage:
        stage.finish(COUNTS)
    assert store.read_cost(tmp_path)["seconds"] >= first >= 0.05


def test_a_lock_that_is_something_else_is_left_as_it_is(tmp_path: Path) -> None:
    victim = tmp_path / "thesis.tex"
    victim.write_text("years of work")
    made = {"link": os.symlink, "hard link": os.link, "copy": shutil.copy}
    for name, make in made.items():
        (tmp_path / name).mkdir()
        make(victim, tmp_path / name / ".lock")
        with pytest.raises(StageError, match=r"choose (an|another) output folder"), store.lock_folder(tmp_path / name):
            pass
        assert (tmp_path / name / ".lock").read_text() == victim.read_text() == "years of work"


def test_nothing_is_cleared_through_a_link(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / f".{'0' * 32}.mine").write_text("years of work")
    _finish(tmp_path / "out")
    (tmp_path / "out" / "images").symlink_to(elsewhere)
    for overwrite in (False, True):
        with pytest.raises(ForeignOutput, match="images: is a symbolic link"):
            _finish(tmp_path / "out", overwrite=overwrite)
    assert len(list(elsewhere.iterdir())) == 1
    whole = tmp_path / "whole"
    whole.symlink_to(tmp_path / "real")
    (tmp_path / "real").mkdir()
    _finish(whole)  # a whole output folder on another disk is fine
    assert (tmp_path / "real" / "stage.json").is_file()


@pytest.mark.parametrize("case", ["a file", "below a file", "read-only", "a long name", "a NUL"])
def test_an_output_that_cannot_be_written_is_one_sentence(tmp_path: Path, case: str) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "locked").mkdir(mode=0o500)
    places = {
        "a file": tmp_path / "file",
        "below a file": tmp_path / "file" / "out",
        "read-only": tmp_path / "locked" / "out" if os.getuid() else Path("/proc/out"),
        "a long name": tmp_path / ("x" * 300),
        "a NUL": tmp_path / "a\0b",
    }
    with pytest.raises(StageError, match=r"cannot be written .*choose an output folder"):
        _finish(places[case])
    assert (tmp_path / "file").read_text() == "mine"


def test_a_name_that_is_too_long_for_the_disk_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="File name too long"):
        store.write_atomic(tmp_path / ("x" * 300), "text")
    assert os.listdir(tmp_path) == []


LIMITED = """
import resource, sys, torch
from safetensors.torch import save_file
from meddap_monai import store
from meddap_monai.errors import StageError
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
weights = {"weights": torch.zeros(1_000_000)}
writers = {
    "plain": lambda path: path.write_bytes(bytes(1_000_000)),
    "torch": lambda path: torch.save(weights, path),
    "safetensors": lambda path: save_file(weights, path),
}
for name, write in writers.items():
    try:
        with store.atomic_path(sys.argv[1] + "/" + name) as temporary:
            write(temporary)
    except StageError as error:
        print(name, "at most 100,000 bytes" in str(error))
"""


def test_a_limit_on_the_size_of_files_is_one_sentence(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["plain", "True", "torch", "True", "safetensors", "True"], done.stderr
    assert os.listdir(tmp_path) == []


CELLS = [
    "=1+1",
    "+a",
    "-a",
    "@a",
    "\t=1",
    "\r=1",
    "\n=1",
    "'=1",
    "''=1",
    "'",
    "'a",
    "a'",
    "＝1",
    "a\rb",
    "a\r\nb",
    'a"b',
    "",
]
NUMBERS = ["-1", "+1.5", "-1e-3", "1", "-inf", "nan"]


def test_a_table_holds_no_formula_and_reads_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    store.write_atomic(path, store.csv_text(["=head", "b"], [[cell, 1] for cell in (*CELLS, *NUMBERS)]))
    with path.open(newline="", encoding="utf-8") as stream:
        shown = [row[0] for row in csv.reader(stream)]
    assert not [cell for cell in shown if cell[:1] in tuple("=+-@\t\r\n＝") and cell not in NUMBERS]
    assert shown[-len(NUMBERS) :] == NUMBERS, "a number stays one"
    assert [cells[0] for _, cells in store.read_csv(path)] == ["=head", *CELLS, *NUMBERS]
    assert store.csv_text(["a", "b"], [[None, 0.5], [True, -2]]) == "a,b\n,0.5\nTrue,-2\n"


def test_a_cell_that_is_no_text_is_written_with_backslashes() -> None:
    assert store.csv_text(["a"], [["M\udcfcller"]]) == "a\nM\\udcfcller\n"


def test_a_file_name_is_text_in_every_locale() -> None:
    code = "import sys; from meddap_monai.store import name_text; print(ascii(name_text(sys.argv[1])))"
    here = str(Path(store.__file__).parents[2])
    for locale in ({"PYTHONUTF8": "1"}, {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}):
        for name, text in ((b"Zyste_\xc3\xa4", "Zyste_\\xe4"), (b"M\xfcller", "M\\\\udcfcller")):
            found = subprocess.check_output(
                [sys.executable, "-c", code, name], text=True, env={**os.environ, "PYTHONPATH": here, **locale}
            )
            assert found == f"'{text}'\n"


def test_a_path_that_is_no_text_is_written_into_a_document_that_reads_back(tmp_path: Path) -> None:
    name = os.fsdecode(b"/data/M\xfcller")
    store.write_json(tmp_path / "stage.json", {"weights": Path(name), "base": name})
    assert store.read_json(tmp_path / "stage.json") == {k: "/data/M\\udcfcller" for k in ("weights", "base")}
    store.write_atomic(tmp_path / "page.html", name)
    assert (tmp_path / "page.html").read_bytes() == b"/data/M\\udcfcller"


@pytest.mark.parametrize("name", store.STAGES)
@pytest.mark.parametrize("kind", [str, Path])
def test_a_refused_command_does_not_block_itself(kind: type, name: str, tmp_path: Path) -> None:
    """Its input is missing at first, and there later: the same command works then."""
    records, output = tmp_path / "in" / "records.jsonl", tmp_path / "out"

    def run() -> None:
        with store.open_stage(output, name, {"a": 1}, {"records": kind(records)}) as stage:
            (output / "images").mkdir(exist_ok=True)
            records.read_text()
            store.write_atomic(output / "result", "x")
            stage.finish(COUNTS)

    with pytest.raises(StageError if kind is Path else FileNotFoundError, match="records.jsonl"):
        run()
    assert not (output / "stage.json").exists()
    store.write_atomic(records, "{}")
    run()
    assert store.read_stage(output)["state"] == "done"


def test_a_missing_input_is_refused_before_anything_is_overwritten(tmp_path: Path) -> None:
    _finish(tmp_path)
    store.write_atomic(tmp_path / "records.jsonl", "old")
    with (
        pytest.raises(StageError, match="nowhere: does not exist, but mix needs it .records."),
        store.open_stage(tmp_path, "mix", {}, {"records": tmp_path / "nowhere"}, overwrite=True),
    ):
        pytest.fail("opened")
    assert (tmp_path / "records.jsonl").read_text() == "old" and store.read_stage(tmp_path)["stage"] == "index"


def test_a_failed_stage_with_results_stays_and_goes_on(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), store.open_stage(tmp_path, "index", {"a": 1}):
        store.write_atomic(tmp_path / "images" / "x.png", "x")
        raise RuntimeError
    assert store.read_stage(tmp_path)["state"] == "running"
    _finish(tmp_path)
