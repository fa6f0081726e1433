"""``meddap review``: a small page on this machine only, on which a reader judges images blinded, with the keyboard."""

from __future__ import annotations

import contextlib
import json
import secrets
import signal
import threading
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from meddap_monai import store
from meddap_monai.core.constraints import check_range
from meddap_monai.errors import ConfigurationError, RecordsError
from meddap_monai.reading_form.reading import Reading, ReadingConfig
from meddap_monai.reading_form.reading_table import print_table, summarise_reading

HOST = "127.0.0.1"
LONGEST_BODY = 64 * 1024
_PAGE = Path(__file__).with_name("review.html")
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; "
    "script-src 'unsafe-inline'; style-src 'unsafe-inline'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def review(
    output: Path,
    *,
    records: Path,
    generated: Path,
    reader: str,
    images: int = 60,
    seed: int = 0,
    port: int = 8008,
) -> Path:
    """Serve the reading form until it is stopped (Ctrl-C or SIGTERM), then write and print the table.

    Args:
        output: folder of the reading: ``reading.json`` (which images; keep it from readers),
            ``answers/<reader>.jsonl``, ``table.json``, ``table.csv``. Several readers may share one folder.
        records: real records; split unseen is left out.
        generated: synthetic records (generated.jsonl or kept.jsonl).
        reader: a short name without spaces.
        images: how many to read, half of them synthetic.
        seed: of the draw, equal for all readers.
        port: local port; 0 takes a free one.

    Returns:
        ``<output>/table.json``.

    Raises:
        ConfigurationError: the port is taken or the reader's name is no file name.
        ForeignOutput: the folder holds another reading.
        FolderInUse: this reader is reading already, in another process.
    """
    output = Path(output)
    reading = Reading(output, reader, ReadingConfig(images, seed), Path(records), Path(generated))
    stopping = contextlib.suppress(KeyboardInterrupt)
    with store.lock_folder(output / "locks" / reader), make_server(reading, port) as server, stopping:
        _serve(server)
    print(print_table(summarise_reading(output)), flush=True)
    return output / "table.json"


def _serve(server: ReviewServer) -> None:
    """Say where the form is and serve it until a signal comes."""
    with _terminate_as_interrupt():
        how = "stop with Ctrl-C when done; answers are saved as they are given"
        print(f"reading form: {server.address}\n{how}", flush=True)
        server.serve_forever()


@contextlib.contextmanager
def _terminate_as_interrupt() -> Iterator[None]:
    """Let SIGTERM end the reading as Ctrl-C does; only a main thread can say so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class ReviewServer(ThreadingHTTPServer):
    """The local server of one reading; its address holds a secret, so that no other page or user can read along.

    Attributes:
        reading: what it serves.
        request_queue_size: connections that may wait; Python's 5 resets the others when a page asks for many at once.
        address: what to open in a browser.
    """

    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, reading: Reading, port: int) -> None:
        self.reading = reading
        self.key = secrets.token_urlsafe(12)
        super().__init__((HOST, port), _Handler)
        self.hosts = {f"{name}:{self.server_port}" for name in (HOST, "localhost")}
        self.address = f"http://{HOST}:{self.server_port}/{self.key}/"


def make_server(reading: Reading, port: int = 0) -> ReviewServer:
    """Return a server that is bound but does not serve yet.

    Raises:
        ConfigurationError: the port is out of range or taken.
    """
    check_range(port, 0, 65535, "review#port")
    try:
        return ReviewServer(reading, port)
    except OSError as error:
        raise ConfigurationError(
            f"review#port: {port} cannot be used ({error.strerror}); choose another, or 0"
        ) from error


class _Handler(BaseHTTPRequestHandler):
    """Four things are served: the page, the state, the pictures by place, and answers taken."""

    server: ReviewServer
    server_version = "meddap-review"
    sys_version = ""
    timeout = 30

    def do_GET(self) -> None:
        """Serve the page, the state or a picture."""
        place = self._place()
        if place is None:
            return
        if place == "":
            self._send(_PAGE.read_bytes(), "text/html; charset=utf-8")
        elif place == "state":
            self._send_json(self.server.reading.state())
        elif place.startswith("image/") and self._is_number(place[6:]):
            self._send(self.server.reading.picture(int(place[6:])), "image/png")
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def do_POST(self) -> None:
        """Take the answers about one picture."""
        place = self._place()
        if place is None:
            return
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > LONGEST_BODY or not place.startswith("answer/"):
            self.send_error(HTTPStatus.BAD_REQUEST)
            return
        body = self.rfile.read(int(length))
        try:
            given = json.loads(body)
            if not isinstance(given, dict) or not self._is_number(place[7:]):
                raise RecordsError("review: expected a JSON object about an image that exists")
            self.server.reading.answer(int(place[7:]), given)
        except (ValueError, RecursionError, RecordsError) as error:
            self._send_json({"error": str(error)}, HTTPStatus.BAD_REQUEST)
            return
        self._send_json({"read": len(self.server.reading.answers)})

    def _is_number(self, text: str) -> bool:
        return text.isascii() and text.isdecimal() and len(text) < 7 and int(text) < len(self.server.reading.items)

    def _place(self) -> str | None:
        """Return the path behind the secret, or answer 404: the secret or the host is not ours."""
        parts = self.path.split("?")[0].split("/", 2)
        known = len(parts) == 3 and secrets.compare_digest(parts[1].encode(), self.server.key.encode())
        if not known or self.headers.get("Host", "") not in self.server.hosts:
            self.send_error(HTTPStatus.NOT_FOUND)
            return None
        return parts[2]

    def _send_json(self, document: Any, status: HTTPStatus = HTTPStatus.OK) -> None:
        self._send(json.dumps(document).encode(), "application/json", status)

    def _send(self, body: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **_HEADERS}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent: the terminal belongs to the address of the form."""
