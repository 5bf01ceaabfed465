"""Servers to measure, each in a process of its own, and a client that costs little.

The client reads server-sent events straight from the socket: on two cores whatever it needs is
taken from the server. Both servers get the same file, threads, places and context.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CONTEXT = 4096


@dataclass
class Answer:
    """What came of one request: pieces of text with the time of each, from its start."""

    status: int = 0
    texts: list[str] = field(default_factory=list[str])
    times: list[float] = field(default_factory=list[float])
    finish: str | None = None
    error: str = ""
    usage: dict[str, Any] = field(default_factory=dict[str, Any])
    left: bool = False

    @property
    def text(self) -> str:
        return "".join(self.texts)


@dataclass(frozen=True)
class Server:
    name: str
    port: int
    pid: int
    model: str

    @property
    def resident_bytes(self) -> int:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """One whole request, blocking; its JSON."""
        import http.client

        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        words = None if body is None else json.dumps(body | {"model": self.model})
        method = "GET" if body is None else "POST"
        connection.request(method, path, words, {"Content-Type": "application/json"})
        response = connection.getresponse()
        found = response.read()
        connection.close()
        if response.status != 200:
            raise RuntimeError(f"{self.name}: {path} gave {response.status}: {found[:500]!r}")
        return json.loads(found)

    async def stream(
        self, path: str, body: dict[str, Any], leave_after: Callable[[int], bool] = lambda n: False
    ) -> Answer:
        """One streamed answer; the client leaves once `leave_after(pieces)` says so."""
        answer = Answer()
        started = time.perf_counter()
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 20)
        try:
            words = json.dumps(body | {"model": self.model, "stream": True}).encode()
            writer.write(
                f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(words)}\r\n"
                "Connection: close\r\n\r\n".encode()
                + words
            )
            head = await reader.readuntil(b"\r\n\r\n")
            answer.status = int(head.split(None, 2)[1])
            if answer.status != 200:
                answer.error = (await reader.read()).decode("utf-8", "replace")
                return answer
            async for line in reader:
                if line.startswith(b"data: {"):
                    self._note(answer, json.loads(line[6:]), time.perf_counter() - started)
                    if leave_after(len(answer.texts)):
                        answer.left = True
                        return answer
        except (OSError, asyncio.IncompleteReadError) as problem:
            answer.error = repr(problem)
        finally:
            writer.close()
        return answer

    def _note(self, answer: Answer, found: dict[str, Any], seconds: float) -> None:
        if "error" in found:
            answer.error = json.dumps(found["error"])
        answer.usage = found.get("usage") or answer.usage
        for choice in found.get("choices", ()):
            answer.finish = choice.get("finish_reason") or answer.finish
            text = choice.get("text") or ""
            if text:
                answer.texts.append(text)
                answer.times.append(seconds)


@contextlib.contextmanager
def exosuit(path: Path, parallel: int, threads: int) -> Generator[Server]:
    """`exosuit serve` with this file, its kernels compiled before."""
    with tempfile.TemporaryDirectory() as home:
        cache = Path(home) / "cache"
        kept = Path(tempfile.gettempdir()) / "exosuit-serve-load-cache"
        kept.mkdir(exist_ok=True)
        cache.symlink_to(kept)
        port = _free_port()
        command = [
            sys.executable, "-m", "exosuit", "serve", "--port", str(port), "--model", str(path),
            "--parallel", str(parallel), "--threads", str(threads), "--context", str(CONTEXT),
            "--keep-alive", "-1", "--log", "json",
        ]  # fmt: skip
        environment = os.environ | {"EXOSUIT_HOME": home}
        with _process(command, environment) as pid:
            server = Server("exosuit", port, pid, "")
            _wait(server, "/health")
            name = server.ask("/v1/models")["data"][0]["id"]
            yield Server("exosuit", port, pid, name)


@contextlib.contextmanager
def llama_cpp(path: Path, parallel: int, threads: int) -> Generator[Server]:
    """llama.cpp's own HTTP server, out of xllamacpp."""
    port = _free_port()
    program = f"""
import time, xllamacpp
p = xllamacpp.CommonParams()
p.model.path = {str(path)!r}
p.port, p.n_parallel, p.n_ctx = {port}, {parallel}, {CONTEXT * parallel}
p.cpuparams.n_threads = p.cpuparams_batch.n_threads = {threads}
p.n_gpu_layers, p.verbosity, p.warmup = 0, 0, True
server = xllamacpp.Server(p)
print(server.listening_address, flush=True)
while True:
    time.sleep(1)
"""
    with _process([sys.executable, "-c", program], dict(os.environ)) as pid:
        server = Server("llama.cpp", port, pid, "m")
        _wait(server, "/health")
        yield server


PEERS: dict[str, Callable[..., contextlib.AbstractContextManager[Server]]] = {
    "exosuit": exosuit,
    "llama.cpp": llama_cpp,
}


@contextlib.contextmanager
def _process(command: list[str], environment: dict[str, str]) -> Iterator[int]:
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            yield child.pid
        except BaseException:
            log.seek(0)
            sys.stderr.write(log.read()[-2000:].decode("utf-8", "replace"))
            raise
        finally:
            child.send_signal(signal.SIGTERM)
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _wait(server: Server, path: str) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            server.ask(path)
            return
        except (OSError, RuntimeError, ValueError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
