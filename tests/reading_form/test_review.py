"""The blinded reading form: over HTTP, and in a real browser."""

import http.client
import io
import json
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from meddap_monai import store
from meddap_monai.core.records import read_records, write_records
from meddap_monai.errors import ConfigurationError, FolderInUse, ForeignOutput, MeddapError, RecordsError
from meddap_monai.reading_form.reading import CLASS, QUESTIONS, Reading, ReadingConfig, read_answers
from meddap_monai.reading_form.reading_table import print_table, summarise_reading
from meddap_monai.reading_form.review import ReviewServer, make_server, review
from meddap_monai.statistics.shares import wilson
from tests.reading_form.chromium import Chromium
from tests.selection.synthetic import CLASSES, picture, synthetic_record

ALL_YES = dict.fromkeys(QUESTIONS, "yes") | {CLASS: "unsure"}


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generated")
    records = [synthetic_record(folder, n, CLASSES[n % 3], picture(CLASSES[n % 3], 900_000 + n, 96)) for n in range(12)]
    for record in records:
        note = PngImagePlugin.PngInfo()
        note.add_text("meddap", "synthetic")
        Image.open(record["image"]).save(record["image"], pnginfo=note)
    write_records(folder / "generated.jsonl", records)
    return folder / "generated.jsonl"


def start(tmp_path: Path, records: Path, generated: Path, reader: str = "one", images: int = 6) -> Reading:
    return Reading(tmp_path / "reading", reader, ReadingConfig(images, seed=3), records, generated)


@pytest.fixture
def reading(tmp_path: Path, simulated_records: Path, generated: Path) -> Reading:
    return start(tmp_path, simulated_records, generated)


@pytest.fixture
def server(reading: Reading) -> Iterator[ReviewServer]:
    with make_server(reading) as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def ask(
    server: ReviewServer, place: str, body: Any = None, key: str | None = None, host: str | None = None
) -> tuple[int, bytes, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    path = f"/{server.key if key is None else key}/{place}"
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    headers = {"Host": host} if host else {}
    connection.request("GET" if body is None else "POST", path, data, headers)
    reply = connection.getresponse()
    found = reply.status, reply.read(), reply.getheader("Content-Type") or ""
    connection.close()
    return found


def test_half_is_synthetic_and_readers_share_images_in_their_own_order(
    tmp_path: Path, simulated_records: Path, generated: Path
) -> None:
    one = start(tmp_path, simulated_records, generated, "one", 12)
    two = start(tmp_path, simulated_records, generated, "two", 12)
    assert Counter((r["source"], r["class_name"]) for r in one.items) == {
        (source, name): 2 for source in ("real", "synthetic") for name in CLASSES
    }
    assert {r["id"] for r in one.items} == {r["id"] for r in two.items}
    assert [r["id"] for r in one.items] != [r["id"] for r in two.items]


def test_page_state_and_pictures_do_not_tell_the_source(server: ReviewServer, reading: Reading) -> None:
    status, page, kind = ask(server, "")
    assert status == 200 and kind.startswith("text/html") and b"Blinded reading" in page
    status, state, _ = ask(server, "state")
    assert json.loads(state)["count"] == 6 and list(json.loads(state)["questions"]) == [*QUESTIONS, CLASS]
    sizes = set()
    for number in range(6):
        status, data, kind = ask(server, f"image/{number}")
        image = Image.open(io.BytesIO(data))
        sizes.add((status, kind, image.size, image.mode, tuple(image.info)))
    assert sizes == {(200, "image/png", (64, 64), "RGB", ())}
    told = page + state
    for record in reading.items:
        assert record["id"].encode() not in told and b"synthetic" not in told


@pytest.mark.parametrize("text", ["\ud800 half", "two\u2028lines\x85here", "\0", "\U0001f600"])
def test_any_remark_is_kept_and_the_next_answer_too(
    text: str, server: ReviewServer, reading: Reading, tmp_path: Path, simulated_records: Path, generated: Path
) -> None:
    assert ask(server, "answer/0", ALL_YES | {"text": text})[0] == 200
    assert ask(server, "answer/1", ALL_YES | {"seconds": float("nan")})[0] == 200
    kept = start(tmp_path, simulated_records, generated).answers
    assert [kept[reading.items[number]["id"]]["text"] for number in (0, 1)] == [text.replace("\ud800", "?"), ""]
    assert kept[reading.items[1]["id"]]["seconds"] == 0.0


def test_a_failed_write_does_not_spoil_the_next(reading: Reading, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken, pytest.raises(OSError, match="disk"):
        broken.setattr(store, "write_atomic", lambda *_: (_ for _ in ()).throw(OSError("disk")))
        reading.answer(0, ALL_YES)
    assert reading.answers == {}
    reading.answer(1, ALL_YES)
    assert list(reading.answers) == [reading.items[1]["id"]]


def exchange_at_once(server: ReviewServer, requests: list[bytes]) -> list[bytes]:
    """Open one connection per request, all before any is answered; return the status lines."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    open_ones = [socket.create_connection(("127.0.0.1", server.server_port), timeout=60) for _ in requests]
    for connection, request in zip(open_ones, requests, strict=True):
        connection.sendall(request)
    found = []
    for connection in open_ones:
        with connection, connection.makefile("rb") as reply:
            found.append(reply.readline())
            reply.read()
    return found


@pytest.mark.parametrize("count", [300, pytest.param(1000, marks=pytest.mark.slow)])
def test_many_requests_at_once_are_all_answered(server: ReviewServer, reading: Reading, count: int) -> None:
    host = f"Host: 127.0.0.1:{server.server_port}\r\n"
    asked = [f"GET /{server.key}/image/{n % 6} HTTP/1.0\r\n{host}\r\n".encode() for n in range(count)]
    assert {line.split()[1] for line in exchange_at_once(server, asked)} == {b"200"}
    body = json.dumps(ALL_YES)
    told = [
        f"POST /{server.key}/answer/{n % 6} HTTP/1.0\r\n{host}Content-Length: {len(body)}\r\n\r\n{body}".encode()
        for n in range(count // 5)
    ]
    assert {line.split()[1] for line in exchange_at_once(server, told)} == {b"200"}
    assert len(reading.answers) == 6


def test_a_broken_answers_file_is_named(reading: Reading) -> None:
    reading.answer(0, ALL_YES)
    good = reading.path.read_text()
    for bad in ("[1]", '{"id": "a"}', "{", good.strip().replace('"yes"', '"maybe"')):
        reading.path.write_text(good + bad + "\n")
        with pytest.raises(RecordsError, match=r"one\.jsonl, line 2: "):
            read_answers(reading.path)


def test_answers_are_records_on_disk_and_survive_a_restart(
    server: ReviewServer, reading: Reading, tmp_path: Path, simulated_records: Path, generated: Path
) -> None:
    status, reply, _ = ask(server, "answer/2", ALL_YES | {"text": "reverb \u2013 fine", "seconds": 3.21})
    assert status == 200 and json.loads(reply) == {"read": 1}
    ask(server, "answer/2", ALL_YES | {"real": "no", "text": "second thought"})
    line = json.loads((tmp_path / "reading" / "answers" / "one.jsonl").read_text())
    expected = {key: reading.items[2][key] for key in ("id", "source", "class_name")}
    assert line == ALL_YES | expected | {"real": "no", "text": "second thought", "reader": "one", "seconds": 0.0}
    again = start(tmp_path, simulated_records, generated)
    assert again.state()["given"] == {2: ALL_YES | {"real": "no", "text": "second thought"}}


@pytest.mark.parametrize(
    "place, body, text",
    [
        ("answer/0", {"real": "yes"}, "person is None"),
        ("answer/0", ALL_YES | {"finding": "maybe"}, "finding is 'maybe', expected one of yes, no, unsure"),
        (
            "answer/0",
            ALL_YES | {CLASS: "cyst"},
            "reader_class is 'cyst', expected one of benign, malignant, normal, ",
        ),
        ("answer/6", ALL_YES, "an image that exists"),
        ("answer/-1", ALL_YES, "an image that exists"),
        ("answer/0", [1], "expected a JSON object"),
        ("answer/0", b"{", "Expecting property name"),
        ("answer/0", b"x" * 70_000, ""),
        ("state", {}, ""),
    ],
)
def test_bad_answers_are_refused(server: ReviewServer, reading: Reading, place: str, body: Any, text: str) -> None:
    status, reply, _ = ask(server, place, body)
    assert status == 400 and text in reply.decode()
    assert reading.answers == {}


@pytest.mark.parametrize("place", ["image/6", "image/../reading.json", "image/1e0", "reading.json", "image/²"])
def test_nothing_else_is_served(server: ReviewServer, place: str) -> None:
    from urllib.parse import quote

    assert ask(server, quote(place))[0] == 404


def test_another_key_or_host_gets_nothing(server: ReviewServer) -> None:
    assert ask(server, "state", key="guess")[0] == 404
    assert ask(server, "state", host="evil.example:80")[0] == 404
    assert server.server_address[0] == "127.0.0.1"


@pytest.mark.parametrize("reader", ["../x", "", "a b", "x" * 41, "é"])
def test_reader_names_that_are_no_file_names(
    tmp_path: Path, simulated_records: Path, generated: Path, reader: str
) -> None:
    with pytest.raises(ConfigurationError, match="expected 1 to 40 letters"):
        start(tmp_path, simulated_records, generated, reader)
    assert not (tmp_path / "reading").exists()


@pytest.mark.parametrize(
    "images, error, text",
    [(60, RecordsError, "expected 30; set --images to at most"), (8, ForeignOutput, "another reading")],
)
def test_other_numbers(
    tmp_path: Path, simulated_records: Path, generated: Path, images: int, error: type[MeddapError], text: str
) -> None:
    start(tmp_path, simulated_records, generated)
    with pytest.raises(error, match=text):
        start(tmp_path, simulated_records, generated, images=images)


def test_a_taken_port_and_a_second_window(tmp_path: Path, simulated_records: Path, generated: Path) -> None:
    from meddap_monai.store import lock_folder

    reading = start(tmp_path, simulated_records, generated)
    with make_server(reading) as server, pytest.raises(ConfigurationError, match="choose another, or 0"):
        make_server(reading, server.server_port)
    arguments = {"records": simulated_records, "generated": generated, "images": 6, "seed": 3, "port": 0}
    with lock_folder(tmp_path / "reading" / "locks" / "one"), pytest.raises(FolderInUse, match="is writing here"):
        review(tmp_path / "reading", reader="one", **arguments)


def test_table(tmp_path: Path, simulated_records: Path, generated: Path) -> None:
    for reader, flips in (("one", ()), ("two", (0, 1))):
        reading = start(tmp_path, simulated_records, generated, reader)
        order = sorted(range(6), key=lambda number: reading.items[number]["id"])
        for rank, number in enumerate(order):
            right = "yes" if reading.items[number]["source"] == "real" else "no"
            wrong = "no" if right == "yes" else "yes"
            named = {CLASS: reading.items[number]["class_name"] if reader == "one" else "benign"}
            reading.answer(number, ALL_YES | named | {"real": wrong if rank in flips else right, "malformed": "no"})
    table = summarise_reading(tmp_path / "reading")
    rows = {(r["question"], r["reader"], r["source"], r["class_name"]): r for r in table["rows"]}
    assert rows["real", "one", "real", "all"]["share_yes"] == 1.0
    assert rows["real", "one", "synthetic", "all"]["yes"] == 0
    assert rows["malformed", "all", "synthetic", "all"]["count"] == 6
    both, one = rows["real", "all", "real", "all"], rows["real", "one", "real", "all"]
    assert both["count"] == 6 and one["count"] == 3
    assert rows["malformed", "all", "real", "all"]["high"] == rows["malformed", "one", "real", "all"]["high"] < 1
    named = [rows["reader_class", reader, "real", name] for reader, name in (("one", "all"), ("two", "all"))]
    assert [(row["yes"], row["no"]) for row in named] == [(3, 0), (1, 2)]
    low, high = wilson(3, 3)
    assert rows["real", "one", "real", "all"]["low"] == pytest.approx(low, abs=1e-4) and high == 1.0
    assert table["told_apart"]["one"]["share"] == 1.0 and table["told_apart"]["two"]["right"] == 4
    kappa = {entry["question"]: entry for entry in table["agreement"]}
    assert kappa["real"]["kappa"] == pytest.approx(1 / 3, abs=1e-3) and kappa["malformed"]["kappa"] is None
    assert "kappa one / two, malformed: undefined (n=6)" in print_table(table)
    assert (
        (tmp_path / "reading" / "table.csv").read_text().startswith("question,reader,source,class_name,yes,no,unsure")
    )


def test_the_page_says_how_to_read_and_has_an_icon(server: ReviewServer) -> None:
    page = ask(server, "")[1].decode()
    for text in ('rel="icon"', "Before you read", "Answer every question about each image", "zoom", "contrast"):
        assert text in page
    assert json.loads(ask(server, "state")[1])["answers"][CLASS] == [*CLASSES, "unsure"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_reading_and_prints_its_table(
    tmp_path: Path, simulated_records: Path, generated: Path, number: signal.Signals
) -> None:
    start(tmp_path, simulated_records, generated).answer(0, ALL_YES)
    command = [sys.executable, "-m", "meddap_monai.cli", "review", "--records", str(simulated_records)]
    command += ["--generated", str(generated), "--output", str(tmp_path / "reading"), "--reader", "one"]
    command += ["--images", "6", "--seed", "3", "--port", "0"]
    heard = partial(signal.signal, number, signal.default_int_handler)  # a suite in the background ignores SIGINT
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=heard) as process:  # noqa: PLW1509
        assert process.stdout is not None
        assert process.stdout.readline().startswith("reading form: http://127.0.0.1:")
        assert "answers are saved as they are given" in process.stdout.readline()
        process.send_signal(number)
        told = process.communicate(timeout=60)[0]
    assert process.returncode == 0
    assert told.startswith("question     source        yes  95 % interval\nreal ") and "reader_class" in told
    assert json.loads((tmp_path / "reading" / "table.json").read_text())["read"] == {"one": 1}


@pytest.mark.slow
def test_a_reader_works_through_it_with_the_keyboard(
    server: ReviewServer, reading: Reading, tmp_path: Path, simulated_records: Path
) -> None:
    executable = shutil.which("chromium")
    if executable is None:
        pytest.skip("needs Debian's chromium (apt-get install chromium)")
    browser = Chromium(executable, tmp_path / "profile", server.address)
    try:
        browser.wait_for("document.querySelectorAll('fieldset').length === 5")
        browser.wait_for("document.getElementById('picture').naturalWidth === 64")
        assert "Before you read" in browser.wait_for("document.getElementById('help').open && document.body.innerText")
        browser.press("Enter")
        assert not browser.evaluate("document.getElementById('help').open")
        style = "document.getElementById('picture').style"
        for key in ("+", "]", "]"):
            browser.press(key)
        assert browser.evaluate(f"{style}.transform").endswith("scale(1.25)")
        assert browser.evaluate(f"{style}.filter").startswith("contrast(1.23")
        browser.press("0")
        assert browser.evaluate(f"{style}.transform + {style}.filter").endswith("scale(1)contrast(1) brightness(1)")
        browser.press("Enter")
        browser.wait_for("document.getElementById('message').textContent.includes('every question')")
        for number in range(6):
            for key in "ynu" if number else "yyn":
                browser.press(key)
            browser.press("y")
            browser.press("2" if number else "u")
            browser.press("Enter")
            if number < 5:
                browser.wait_for(
                    f"document.getElementById('progress').textContent.startsWith('Image {number + 2} of 6')"
                )
        browser.wait_for("document.getElementById('message').textContent.includes('All images are read')")
        browser.press("ArrowLeft")
        browser.press("r")
        browser.wait_for("document.activeElement.id === 'text'")
        browser.press("n")
        browser.press("Escape")
        browser.press("Enter")
        browser.wait_for("document.getElementById('message').textContent.includes('All images are read')")
        shot = browser.send("Page.captureScreenshot", format="png")["data"]
    finally:
        browser.close()
    answers = [reading.answers[record["id"]] for record in reading.items]
    assert [answer["real"] for answer in answers] == ["yes"] * 6
    assert [answer["malformed"] for answer in answers] == ["no"] + ["unsure"] * 5
    assert [answer[CLASS] for answer in answers] == ["unsure"] + ["malignant"] * 5
    assert [answer["text"] for answer in answers] == [""] * 4 + ["n", ""]
    assert len(shot) > 1000 and len(read_records(simulated_records)) == 72
