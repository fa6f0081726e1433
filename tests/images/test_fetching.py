"""Files of a store elsewhere: fetched once, known by their hashes, and only what is new the next time."""

import functools
import http.server
import json
import stat
import threading
from pathlib import Path

import fsspec
import pytest

from meddap_monai import store
from meddap_monai.cli.main import main
from meddap_monai.engines.config import EngineConfig
from meddap_monai.engines.engine import use_engine
from meddap_monai.errors import ConfigurationError, ForeignOutput, MissingPackage
from meddap_monai.images.fetching import LEDGER, fetch


@pytest.fixture
def bucket() -> str:
    """Three files in memory."""
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    for name, content in (("a/1.png", b"one"), ("a/2.png", b"two"), ("b/3.png", b"three")):
        with memory.open(f"/bucket/{name}", "wb") as stream:
            stream.write(content)
    return "memory://bucket"


def contents(output: Path) -> dict[str, bytes]:
    files = output / "files"
    return {path.relative_to(files).as_posix(): path.read_bytes() for path in files.rglob("*") if path.is_file()}


ALL = {"a/1.png": b"one", "a/2.png": b"two", "b/3.png": b"three"}


def test_files_are_fetched_once_and_known_by_their_hashes(bucket: str, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert fetch(bucket, output) == {"fetched": 3, "kept": 0, "failed": 0}
    assert contents(output) == ALL
    told = [json.loads(line) for line in (output / LEDGER).read_text().splitlines() if line]
    assert {one["name"]: one["sha256"] for one in told}["a/1.png"] == store.sha256_text("one")
    assert stat.S_IMODE((output / LEDGER).stat().st_mode) == 0o600, "names can name people"
    assert fetch(bucket, output) == {"fetched": 0, "kept": 3, "failed": 0}


def test_only_what_is_new_changed_damaged_or_torn_is_fetched_again(bucket: str, tmp_path: Path) -> None:
    output = tmp_path / "out"
    fetch(bucket, output)
    memory = fsspec.filesystem("memory")
    with memory.open("/bucket/a/1.png", "wb") as stream:
        stream.write(b"once more")
    with memory.open("/bucket/c.png", "wb") as stream:
        stream.write(b"new")
    (output / "files/a/2.png").write_bytes(b"longer than it was")
    with (output / LEDGER).open("a") as ledger:
        ledger.write('{"name": "b/3.p')
    assert fetch(bucket, output) == {"fetched": 3, "kept": 1, "failed": 0}
    assert contents(output) == ALL | {"a/1.png": b"once more", "c.png": b"new"}
    (output / "files/b/3.png").write_bytes(b"THREE")
    assert fetch(bucket, output)["fetched"] == 0, "size and state are the same"
    assert fetch(bucket, output, verify=True) == {"fetched": 1, "kept": 3, "failed": 0}
    assert contents(output)["b/3.png"] == b"three"


def test_a_file_that_cannot_be_read_costs_itself(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = type(fsspec.filesystem("memory"))
    opened = memory.open

    def open_but_one(self, path, *words, **keys):
        if str(path).endswith("2.png"):
            raise PermissionError("not yours")
        return opened(self, path, *words, **keys)

    monkeypatch.setattr(memory, "open", open_but_one)
    assert fetch(bucket, tmp_path / "out") == {"fetched": 2, "kept": 0, "failed": 1}
    assert "a/2.png,PermissionError: not yours" in (tmp_path / "out/private/failed.csv").read_text()
    monkeypatch.undo()
    assert fetch(bucket, tmp_path / "out") == {"fetched": 1, "kept": 2, "failed": 0}


def test_a_folder_over_http(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp", reason="aiohttp is not installed: pip install '.[storage]'")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "1.png").write_bytes(b"one")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "in"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert fetch(f"http://127.0.0.1:{server.server_port}/", tmp_path / "out")["fetched"] == 1
        server.shutdown()
    assert contents(tmp_path / "out") == {"1.png": b"one"}


def test_workers_fetch_the_same(tmp_path: Path) -> None:
    for number in range(40):
        path = tmp_path / "in" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes([number]))
    with use_engine(EngineConfig(workers=2)):
        assert fetch(f"file://{tmp_path / 'in'}", tmp_path / "out")["fetched"] == 40
    assert contents(tmp_path / "out") == {f"{number}.png": bytes([number]) for number in range(40)}


@pytest.mark.parametrize(
    ("source", "error", "text"),
    [
        ("memory://nothing", ConfigurationError, "holds no file"),
        ("nonsense://bucket", ConfigurationError, "nonsense://bucket: is no URL that can be read"),
    ],
)
def test_what_cannot_be_listed_is_named(source: str, error: type[Exception], text: str, tmp_path: Path) -> None:
    fsspec.filesystem("memory").store.clear()
    with pytest.raises(error, match=text):
        fetch(source, tmp_path / "out")


def test_a_store_without_its_client_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    with pytest.raises(MissingPackage, match="s3fs"):
        fetch("s3://bucket/folder", tmp_path / "out")


def test_a_folder_of_somebody_else_is_left_alone(bucket: str, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".lock").write_text("not of this package")
    with pytest.raises(ForeignOutput):
        fetch(bucket, tmp_path / "out")


def test_the_command_says_how_many(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "1.png").write_bytes(b"one")
    assert main(["fetch", "--source", f"file://{tmp_path / 'in'}", "--output", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert said == f"1 files fetched, 0 were here, 0 failed\n{tmp_path / 'out' / 'files'}\n"
