"""Sends answers: whole, or frame by frame, and notices when nobody listens any more.

A stream begins with its headers at once; comments keep it alive while nothing happens. A client
that leaves, or stops reading for a minute, ends the work behind its answer.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from exosuit.errors import ExosuitError
from exosuit.serve.problems import Problem, Refusal, problem_of

_LOG = logging.getLogger(__name__)
_IDLE_S = 15.0
_STUCK_S = 60.0

T = TypeVar("T")
Frames = AsyncGenerator[bytes]


def json_bytes(value: object) -> bytes:
    """Compact JSON; lone surrogates, which no UTF-8 can hold, become question marks."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "replace")


class Json(JSONResponse):
    """A JSON body that any text can be part of."""

    def render(self, content: Any) -> bytes:
        return json_bytes(content)


def sse(data: object, event: str | None = None) -> bytes:
    """One server-sent event."""
    head = f"event: {event}\n".encode() if event else b""
    return head + b"data: " + json_bytes(data) + b"\n\n"


def ndjson(data: object) -> bytes:
    """One line."""
    return json_bytes(data) + b"\n"


class Sending(Response):
    """A response of frames.

    closing  called once at the end, however it comes about
    idle     sent whenever nothing else was for a while; None where the dialect has nothing for it
    """

    def __init__(
        self,
        frames: Frames,
        media_type: str,
        closing: Callable[[], None],
        idle: bytes | None = None,
        idle_s: float = _IDLE_S,
    ) -> None:
        super().__init__(media_type=media_type)
        del self.headers["content-length"]
        self.headers["cache-control"] = "no-store"
        self._frames = frames
        self._closing = closing
        self._idle = idle
        self._idle_s = idle_s
        self._last = time.monotonic()
        self._stuck_since: float | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            with suppress(Refusal):
                await _unless(self._send_all(send), _gone(receive), self._watch(send))
        finally:
            await self._frames.aclose()
            self._closing()

    async def _send_all(self, send: Send) -> None:
        async for frame in self._frames:
            await self._put(send, frame)
        await self._put(send, b"")

    async def _put(self, send: Send, frame: bytes) -> None:
        """Frames themselves are never empty; an empty one is the end."""
        self._stuck_since = self._last = time.monotonic()
        await send({"type": "http.response.body", "body": frame, "more_body": bool(frame)})
        self._stuck_since = None

    async def _watch(self, send: Send) -> None:
        """Sends `idle` where nothing else was sent for a while; ends if the client is stuck.

        Once in a while, so that the frames themselves cost no timers.
        """
        while True:
            await asyncio.sleep(self._idle_s)
            now = time.monotonic()
            if self._stuck_since is not None:
                if now - self._stuck_since > _STUCK_S:
                    _LOG.info("a client stopped reading; its answer ends")
                    return
            elif self._idle is not None and now - self._last >= self._idle_s:
                await send({"type": "http.response.body", "body": self._idle, "more_body": True})


async def attended(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which ends at once when the client leaves.

    Raises Refusal then, which nobody is left to read.
    """
    return await _unless(work, _gone(request.receive))


async def guarded(frames: Frames, told: Callable[[Problem], bytes], request_id: str) -> Frames:
    """The frames; an error on the way becomes the last of them, in the dialect's words."""
    try:
        async for frame in frames:
            yield frame
    except ExosuitError as error:
        yield told(problem_of(error, request_id))
    except Exception:
        _LOG.exception("an answer broke off", extra={"request_id": request_id})
        message = "the server has a fault of its own; its log tells more"
        yield told(Problem(500, message, request_id=request_id))
    finally:
        await frames.aclose()


async def _unless(work: Coroutine[Any, Any, T], *ends: Coroutine[Any, Any, None]) -> T:
    """The result of `work`, which is cancelled as soon as one of `ends` is over."""
    task = asyncio.create_task(work)
    watchers = [asyncio.create_task(end) for end in ends]
    try:
        await asyncio.wait({task, *watchers}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        is_over = any(watcher.done() for watcher in watchers)
        for watcher in watchers:
            await _cancelled(watcher)
        if not task.done():
            await _cancelled(task)
    if is_over and task.cancelled():
        raise Refusal(
            "the client left",
            status=499,
            cause="it closed its connection, or stopped reading, before the answer was there",
            next="wait longer",
        )
    return task.result()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()  # seen: whoever waits for the task's result was told, or is gone
