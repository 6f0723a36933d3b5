"""The HTTP side of ``oskar serve``: 127.0.0.1 alone, reading alone, nothing by path but the four files of the page.

Whatever the page shows is asked for by the number of a row, so that no request can name a file. Every answer forbids
the page to load anything from elsewhere, and other sites to frame it or to read it. A request whose ``Host`` is not
this server is refused, against names that others let resolve to 127.0.0.1; so is one that another site starts.
"""

import json
import mimetypes
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import parse_qs, urlsplit

from oskar.errors import InputError
from oskar.searching.answers import Answers, NotFoundError
from oskar.searching.confined import OutsideError
from oskar.searching.ranges import Part, UnsatisfiableError, requested_part

ADDRESS = "127.0.0.1"
_PAGE = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_BYTES_AT_ONCE = 1 << 18
_IDLE_SECONDS = 30


class PageServer(ThreadingHTTPServer):
    """A server of one index; threads end with it."""

    daemon_threads = True

    def __init__(self, answers: Answers, port: int) -> None:
        self.answers = answers
        super().__init__((ADDRESS, port), Handler)

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    @property
    def hosts(self) -> frozenset[str]:
        """What a browser on this machine calls the server."""
        names = (ADDRESS, "localhost")
        return frozenset(f"{name}:{self.port}" for name in names) | (
            frozenset(names) if self.port == 80 else frozenset()
        )


@dataclass(frozen=True, slots=True)
class _Reply:
    """What is sent back: a body in memory, or a file."""

    kind: str
    body: bytes | Path
    status: HTTPStatus = HTTPStatus.OK


class Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD; everything else is refused by the base class."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "oskar", ""
    timeout = _IDLE_SECONDS
    server: PageServer

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is logged: what somebody looks for is theirs."""

    def _answer(self) -> None:
        if self.headers.get("Host", "").lower() not in self.server.hosts:
            self._send(_error(HTTPStatus.MISDIRECTED_REQUEST, "this server answers to localhost and 127.0.0.1 only"))
        elif self.path != "/" and self.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            self._send(_error(HTTPStatus.FORBIDDEN, "another site asked; open the page by its address"))
        else:
            self._send(self._reply())

    def _reply(self) -> _Reply:
        try:
            address = urlsplit(self.path)
            if address.path in _PAGE:
                name, kind = _PAGE[address.path]
                return _Reply(kind, (resources.files("oskar.searching") / "page" / name).read_bytes())
            return self._data(address.path, parse_qs(address.query, max_num_fields=20))
        except (NotFoundError, OutsideError) as error:
            return _error(HTTPStatus.NOT_FOUND, str(error))
        except (InputError, ValueError) as error:  # ValueError: an address that is none, or too many fields
            return _error(HTTPStatus.BAD_REQUEST, str(error))

    def _data(self, path: str, asked: dict[str, list[str]]) -> _Reply:
        answers = self.server.answers
        whole: dict[str, Callable[[], dict[str, Any]]] = {
            "/api/about": answers.about,
            "/api/some": answers.some,
            "/api/map": answers.map,
            "/api/search": lambda: answers.search(asked),
        }
        if path in whole:
            return _json(whole[path]())
        kind, _, number = path.removeprefix("/").partition("/")
        if not (number.isascii() and number.isdecimal() and len(number) <= 12):
            raise NotFoundError(f"nothing is at {path!r}", fix="open /")
        row = int(number)
        if kind == "thumbnail":
            return _Reply("video/webm", answers.thumbnail(row))
        if kind == "joints":
            return _json(answers.joints(row))
        if kind == "video":
            file = answers.video(row)
            return _Reply(mimetypes.guess_type(file.name)[0] or "application/octet-stream", file)
        raise NotFoundError(f"nothing is at {path!r}", fix="open /")

    def _send(self, reply: _Reply) -> None:
        n_bytes = reply.body.stat().st_size if isinstance(reply.body, Path) else len(reply.body)
        status, part = reply.status, Part(0, n_bytes, n_bytes)
        is_media = reply.kind.startswith(("video/", "image/", "application/octet-stream"))
        if is_media:
            try:
                wanted = requested_part(self.headers.get("Range"), n_bytes)
            except UnsatisfiableError:
                self._head(
                    HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, reply.kind, 0, {"Content-Range": f"bytes */{n_bytes}"}
                )
                return
            if wanted is not None:
                status, part = HTTPStatus.PARTIAL_CONTENT, wanted
        more = {"Accept-Ranges": "bytes"} if is_media else {}
        if status == HTTPStatus.PARTIAL_CONTENT:
            more["Content-Range"] = part.content_range
        self._head(status, reply.kind, part.end - part.start, more)
        if self.command == "HEAD":
            return
        try:
            for piece in _pieces(reply.body, part):
                self.wfile.write(piece)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the browser has seen enough of the video

    def _head(self, status: HTTPStatus, kind: str, n_bytes: int, more: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**_HEADERS, "Content-Type": kind, "Cache-Control": "no-store", **more}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(n_bytes))
        self.end_headers()


def _pieces(body: bytes | Path, part: Part) -> Iterator[bytes]:
    if isinstance(body, bytes):
        yield body[part.start : part.end]
        return
    with body.open("rb") as stream:
        stream.seek(part.start)
        yield from _read(stream, part.end - part.start)


def _read(stream: BinaryIO, n_bytes: int) -> Iterator[bytes]:
    while n_bytes > 0:
        piece = stream.read(min(n_bytes, _BYTES_AT_ONCE))
        if not piece:
            return
        n_bytes -= len(piece)
        yield piece


def _json(values: dict[str, Any]) -> _Reply:
    return _Reply("application/json; charset=utf-8", json.dumps(values, ensure_ascii=False).encode())


def _error(status: HTTPStatus, message: str) -> _Reply:
    text = json.dumps({"error": message}, ensure_ascii=False).encode()
    return _Reply("application/json; charset=utf-8", text, status)
