"""A small file server with every bad habit that a download meets, and model files to serve."""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


@dataclass
class Served:
    """What one path answers, and how badly."""

    body: bytes = b""
    etag: str = '"v1"'
    ranges: bool = True
    pieces: bool = False  # says that it serves any span
    most: int = 99  # connections at a time; further ones are told 503
    open: int = 0
    guard: Any = field(default_factory=threading.Lock, repr=False)
    states_length: bool = True
    cuts: list[int] = field(default_factory=list)  # bytes sent before each connection is cut
    statuses: list[int] = field(default_factory=list)  # answered first, one per request
    redirect: str = ""
    pause_s: float = 0.0  # between pieces of 64 KiB


@dataclass
class FileServer:
    port: int
    files: dict[str, Served] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ranges_asked(self) -> list[str | None]:
        return [headers.get("Range") for _, headers in self.requests]


class _Handler(BaseHTTPRequestHandler):
    owner: FileServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None: ...

    def do_GET(self) -> None:
        self.owner.requests.append((self.path, dict(self.headers)))
        self.close_connection = True
        served = self.owner.files.get(self.path.partition("?")[0])
        if served is None:
            return self._plain(404)
        if served.statuses:
            return self._plain(served.statuses.pop(0))
        if served.redirect:
            self.send_response(302)
            self.send_header("Location", served.redirect)
            self.send_header("Content-Length", "0")
            return self.end_headers()
        with served.guard:
            if served.open >= served.most:
                return self._plain(503)
            served.open += 1
        try:
            return self._body(served)
        finally:
            with served.guard:
                served.open -= 1

    def _plain(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _body(self, served: Served) -> None:
        asked = self.headers.get("Range")
        version = self.headers.get("If-Range", served.etag)
        start, stop = 0, len(served.body)
        if asked and served.ranges and version == served.etag:
            first, _, end = asked.removeprefix("bytes=").partition("-")
            start, stop = int(first), int(end) + 1 if end else stop
            if start >= len(served.body):
                return self._plain(416)
            self.send_response(206)
            last = stop - 1
            self.send_header("Content-Range", f"bytes {start}-{last}/{len(served.body)}")
        else:
            self.send_response(200)
        self.send_header("ETag", served.etag)
        if served.states_length:
            self.send_header("Content-Length", str(stop - start))
        if served.pieces:
            self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        end = min(start + served.cuts.pop(0), stop) if served.cuts else stop
        for at in range(start, end, 1 << 16):
            try:
                self.wfile.write(served.body[at : min(at + (1 << 16), end)])
            except (BrokenPipeError, ConnectionResetError):
                return None
            time.sleep(served.pause_s)
        return None


@pytest.fixture
def file_server() -> Iterator[FileServer]:
    handler = type("Handler", (_Handler,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    owner = FileServer(server.server_address[1])
    handler.owner = owner  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield owner
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def served() -> type[Served]:
    return Served


@pytest.fixture
def make_gguf() -> Callable[..., bytes]:
    """A GGUF file of version 3 without tensors; `filler` bytes of text make it longer."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    def make(filler: int = 0, architecture: str = "llama") -> bytes:
        values = {
            "general.architecture": architecture,
            "general.license": "apache-2.0",
            "filler": "x" * filler,
        }
        pairs = b"".join(text(k) + struct.pack("<I", 8) + text(v) for k, v in values.items())
        header = b"GGUF" + struct.pack("<IQQ", 3, 0, len(values)) + pairs
        return header + bytes(-len(header) % 32)

    return make
