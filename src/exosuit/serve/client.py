"""The other end of the private socket: how `exosuit run`, `ps` and `stop` talk to the server.

`Client` asks; `RemoteEngine` stands in for an `engine.Engine`, so that a chat does not notice where
its answers are made.
"""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from exosuit.engine.request import Event, Generation, Request
from exosuit.engine.runner import DEFAULT_CONTEXT
from exosuit.errors import ExosuitError, LinkLost
from exosuit.serve.owner import connect_privately
from exosuit.serve.wire import error_from, event_from, request_words
from exosuit.settings import Settings

_POLL_S = 0.05


class _Private(http.client.HTTPConnection):
    """HTTP over a socket that is connected already."""

    def __init__(self, connected: socket.socket) -> None:
        super().__init__("exosuit")
        self.sock = self.connected = connected


@dataclass(frozen=True)
class Answer:
    """An answer on its way: its head (device, context, model), then lines to read."""

    head: dict[str, Any]
    connection: _Private
    response: http.client.HTTPResponse

    def close(self) -> None:
        """Also wakes whoever waits for the next line."""
        with suppress(OSError):
            self.connection.connected.shutdown(socket.SHUT_RDWR)
        self.response.close()
        self.connection.close()


class Client:
    """Questions to this user's server; each takes a connection of its own."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @classmethod
    def find(cls, settings: Settings) -> Client | None:
        """A client if a server answers, else None."""
        connection = connect_privately(settings, 2.0)
        if connection is None:
            return None
        connection.close()
        return cls(settings)

    def status(self) -> dict[str, Any]:
        """`facts.Status` as JSON."""
        return self._ask("GET", "/status")

    def unload(self, model: str) -> bool:
        return bool(self._ask("POST", "/unload", {"model": model})["unloaded"])

    def stop(self, drain_s: float) -> None:
        self._ask("POST", "/stop", {"drain_s": drain_s})

    def restart(self) -> int:
        """The process that took over."""
        return int(self._ask("POST", "/restart", {}, timeout_s=120)["pid"])

    def generate(self, model: str, request: Request, context: int | None) -> Answer:
        """Begin an answer; raises why not."""
        words = {"model": model, "request": request_words(request), "context": context}
        connection, response = self._send("POST", "/generate", words, None)
        answer = Answer({}, connection, response)
        try:
            answer.head.update(json.loads(response.readline() or b"{}"))
            if "error" in answer.head:
                raise error_from(answer.head["error"])
        except (OSError, ValueError, http.client.HTTPException) as problem:
            answer.close()
            raise _gone(problem) from problem
        except BaseException:
            answer.close()
            raise
        return answer

    def _ask(
        self, method: str, path: str, words: dict[str, Any] | None = None, timeout_s: float = 30
    ) -> dict[str, Any]:
        connection, response = self._send(method, path, words, timeout_s)
        try:
            found: dict[str, Any] = json.loads(response.read())
        except (OSError, ValueError, http.client.HTTPException) as problem:
            raise _gone(problem) from problem
        finally:
            response.close()
            connection.close()
        if "error" in found:
            raise error_from(found["error"])
        return found

    def _send(
        self, method: str, path: str, words: dict[str, Any] | None, timeout_s: float | None
    ) -> tuple[_Private, http.client.HTTPResponse]:
        connected = connect_privately(self._settings, timeout_s)
        if connected is None:
            raise _gone(None)
        connection = _Private(connected)
        body = None if words is None else json.dumps(words).encode()
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            return connection, connection.getresponse()
        except (OSError, http.client.HTTPException) as problem:
            connection.close()
            raise _gone(problem) from problem


class RemoteEngine:
    """Answers of the server's engine; implements `engine.session.Answers`.

    device  that the last answer came from; "" before the first
    """

    def __init__(self, client: Client, model: str, context: int | None) -> None:
        self.context = context or DEFAULT_CONTEXT
        self.device = ""
        self._client = client
        self._model = model
        self._asked = context
        self._open: dict[int, Answer] = {}
        self._count = 0

    def submit(self, request: Request) -> Generation:
        """Send it; the errors of `Engine.submit`, and those of loading the model."""
        self._count += 1
        generation = Generation(self._count, request, time.monotonic())
        answer = self._client.generate(self._model, request, self._asked)
        self.context, self.device = int(answer.head["context"]), str(answer.head["device"])
        self._open[generation.id] = answer
        return generation

    def stream(
        self, request: Request, is_cancelled: Callable[[], bool] = lambda: False
    ) -> Generator[Event, None, Generation]:
        return (yield from self.follow(self.submit(request), is_cancelled))

    def follow(
        self, generation: Generation, is_cancelled: Callable[[], bool] = lambda: False
    ) -> Generator[Event, None, Generation]:
        """The events as they come; leaving the loop closes the connection, which cancels."""
        answer = self._open.pop(generation.id)
        try:
            for words in _lines(answer.response, is_cancelled):
                if "error" in words:
                    raise error_from(words["error"])
                if "done" in words:
                    _complete(generation, words["done"])
                    break
                generation.tell(event_from(words["event"]))
                yield from generation.take()
            else:
                if not is_cancelled():
                    raise _gone(None)
                generation.tell(Event("", None, "cancelled"))
                yield from generation.take()
        finally:
            answer.close()
        return generation


def _lines(
    response: http.client.HTTPResponse, is_cancelled: Callable[[], bool]
) -> Iterator[dict[str, Any]]:
    """Each line of the answer; ends early when it is cancelled, also in the middle of a wait."""
    lines: SimpleQueue[bytes] = SimpleQueue()

    def read() -> None:
        try:
            while line := response.readline():
                lines.put(line)
        except (OSError, ValueError, AttributeError, http.client.HTTPException):
            pass  # closed from there, or from here under http.client's hands: the lines end
        lines.put(b"")

    threading.Thread(target=read, name="answer", daemon=True).start()
    while not is_cancelled():
        try:
            line = lines.get(timeout=_POLL_S)
        except Empty:
            continue
        if not line:
            return
        yield json.loads(line)


def _complete(generation: Generation, words: dict[str, Any]) -> None:
    generation.reused_tokens = words["reused_tokens"]
    generation.context_full = words["context_full"]
    for name in ("first_token_s", "last_token_s"):
        if words[name] is not None:
            setattr(generation, name, generation.submitted_s + words[name])


def _gone(problem: Exception | None) -> ExosuitError:
    return LinkLost(
        "the server did not answer" + (f" ({problem})" if problem else ""),
        cause="it has ended, or was replaced, in the middle of it",
        next="exosuit ps, then try again",
    )
