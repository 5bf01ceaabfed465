"""Sends answers: whole, or frame by frame, and notices when nobody listens any more.

A stream begins with its headers at once; comments keep it alive while nothing happens. A client
that leaves, or stops reading for a minute, ends the work behind its answer.
"""

from __future__ import annotations

import asyncio
import json
import logging
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

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            with suppress(Refusal):
                await _until_gone(receive, self._send_all(send))
        finally:
            await self._frames.aclose()
            self._closing()

    async def _send_all(self, send: Send) -> None:
        async def body(frame: bytes, more: bool) -> None:
            async with asyncio.timeout(_STUCK_S):
                await send({"type": "http.response.body", "body": frame, "more_body": more})

        coming: asyncio.Task[bytes] | None = None
        try:
            while True:
                coming = coming or asyncio.create_task(_next(self._frames))
                done, _ = await asyncio.wait({coming}, timeout=self._idle_s)
                if not done:
                    if self._idle is not None:
                        await body(self._idle, True)
                    continue
                frame, coming = await coming, None
                if not frame:
                    break
                await body(frame, True)
            await body(b"", False)
        except TimeoutError:
            _LOG.info("a client stopped reading; its answer ends")
        finally:
            if coming is not None:
                await _cancelled(coming)


async def attended(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which ends at once when the client leaves.

    Raises Refusal then, which nobody is left to read.
    """
    return await _until_gone(request.receive, work)


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


async def _next(frames: Frames) -> bytes:
    """The next frame; empty at the end. Frames themselves are never empty."""
    return await anext(frames, b"")


async def _until_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    task = asyncio.create_task(work)
    gone = asyncio.create_task(_gone(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        has_left = gone.done()
        await _cancelled(gone)
        if not task.done():
            await _cancelled(task)
    if has_left and task.cancelled():
        raise Refusal(
            "the client left",
            status=499,
            cause="it closed its connection before the answer was there",
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
