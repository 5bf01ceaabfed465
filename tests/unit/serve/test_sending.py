"""Streams on the wire: frames, comments, errors on the way, and clients that leave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest
from starlette.types import Message

from exosuit.errors import (
    CardHung,
    ContextFull,
    DoesNotFit,
    ExosuitError,
    ModelNotFound,
    ServerBusy,
)
from exosuit.serve.problems import Problem, Refusal, body_for, problem_of
from exosuit.serve.sending import Frames, Sending, guarded, json_bytes, ndjson, sse


class Wire:
    """A client, as ASGI sees it."""

    def __init__(self, leaves_after_s: float = 60.0) -> None:
        self.sent: list[Message] = []
        self._leaves_after_s = leaves_after_s

    async def receive(self) -> Message:
        await asyncio.sleep(self._leaves_after_s)
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)


def run(
    frames: Frames, wire: Wire, idle: bytes | None = None, idle_s: float = 15.0
) -> tuple[Wire, list[str]]:
    closed: list[str] = []

    async def go() -> None:
        sending = Sending(frames, "text/event-stream", lambda: closed.append("x"), idle, idle_s)
        await asyncio.wait_for(sending({"type": "http"}, wire.receive, wire.send), 10)

    asyncio.run(go())
    return wire, closed


async def numbers(count: int, pause_s: float = 0.0, ended: list[str] | None = None) -> Frames:
    try:
        for number in range(count):
            await asyncio.sleep(pause_s)
            yield str(number).encode()
    finally:
        if ended is not None:
            ended.append("ended")


def test_frames_are_sent_one_by_one_and_ended() -> None:
    wire, closed = run(numbers(3), Wire())
    assert [m.get("body") for m in wire.sent[1:]] == [b"0", b"1", b"2", b""]
    assert [m["more_body"] for m in wire.sent[1:]] == [True, True, True, False]
    assert wire.sent[0]["status"] == 200
    headers = dict(wire.sent[0]["headers"])
    assert b"content-length" not in headers
    assert headers[b"cache-control"] == b"no-store"
    assert closed == ["x"]


def test_comments_keep_a_stream_alive() -> None:
    wire, _ = run(numbers(2, 0.2), Wire(), b": on\n\n", 0.05)
    assert wire.body.count(b": on\n\n") >= 4
    assert wire.body.replace(b": on\n\n", b"") == b"01"
    wire, _ = run(numbers(2, 0.2), Wire(), None, 0.05)
    assert wire.body == b"01"


def test_a_client_that_leaves_ends_the_frames() -> None:
    ended: list[str] = []
    wire, closed = run(numbers(100, 0.05, ended), Wire(leaves_after_s=0.12))
    assert ended == ["ended"]
    assert closed == ["x"]
    assert len(wire.body) < 10


def test_an_error_on_the_way_is_the_last_frame() -> None:
    def told(problem: Problem) -> bytes:
        return f"<{problem.status} {problem.message.split(';')[0]} {problem.request_id}>".encode()

    async def breaks(error: Exception) -> AsyncGenerator[bytes]:
        yield b"a"
        raise error

    hung = CardHung("the card hangs", cause="c", next="n")
    wire, _ = run(guarded(breaks(hung), told, "r1"), Wire())
    assert wire.body == b"a<503 the card hangs r1>"
    wire, _ = run(guarded(breaks(ValueError("secret")), told, "r1"), Wire())
    assert wire.body.startswith(b"a<500 the server has a fault of its own")
    assert b"secret" not in wire.body


def test_what_json_cannot_hold_is_sent_all_the_same() -> None:
    assert json_bytes({"a": "\ud800x"}) == b'{"a":"?x"}'
    assert sse({"a": "é\n"}) == 'data: {"a":"é\\n"}\n\n'.encode()
    assert sse({}, "ping") == b"event: ping\ndata: {}\n\n"
    assert ndjson([1]) == b"[1]\n"
    with pytest.raises(ValueError, match="JSON"):
        json_bytes(float("nan"))


def error(kind: type[ExosuitError], **fields: object) -> ExosuitError:
    return kind("what", cause="cause", next="next", **fields)


@pytest.mark.parametrize(
    ("problem", "status", "code"),
    [
        (error(ModelNotFound), 404, "model_not_found"),
        (error(ContextFull), 400, "context_length_exceeded"),
        (error(DoesNotFit), 422, "model_too_large"),
        (error(ServerBusy, retry_after_s=3.2), 503, "server_busy"),
        (error(CardHung), 503, None),
        (error(ExosuitError), 500, None),
        (Refusal("what", status=413, cause="c", next="n"), 413, None),
        (Refusal("what", status=401, cause="c", next="n"), 401, "invalid_api_key"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_error_has_its_status(problem: ExosuitError, status: int, code: str | None) -> None:
    found = problem_of(problem, "req_1")
    assert (found.status, found.code) == (status, code)
    assert found.message.startswith("what; c")
    if isinstance(problem, ServerBusy):
        assert found.headers == (("retry-after", "3"),)
    openai = body_for("/v1/chat/completions", found)["error"]
    assert set(openai) == {"message", "type", "param", "code"}
    assert openai["type"] == ("invalid_request_error" if status < 500 else "server_error")
    assert body_for("/api/chat", found) == {"error": found.message}
    anthropic = body_for("/v1/messages", found)
    assert anthropic["type"] == "error"
    assert anthropic["request_id"] == "req_1"


def test_a_client_that_stops_reading_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exosuit.serve.sending._STUCK_S", 0.1)
    ended: list[str] = []

    class Stuck(Wire):
        async def send(self, message: Message) -> None:
            await super().send(message)
            if message.get("body") == b"1":
                await asyncio.sleep(60)

    wire, closed = run(numbers(9, 0, ended), Stuck(), b": on\n\n", 0.05)
    assert wire.body == b"01"
    assert ended == ["ended"]
    assert closed == ["x"]
