"""What this user's own tools ask of the server, over its private socket: look, stop, generate.

HTTP with JSON, and lines of JSON for an answer that grows. Only the socket's owner gets here, so
nobody shows a key. Prompts are token ids: `exosuit run` renders and tokenises as it does without a
server, and gets the engine's own events.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass
from typing import Any, cast

from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from exosuit.errors import ExosuitError, RequestError
from exosuit.serve.service import Service, Stream
from exosuit.serve.wire import Words, end_words, error_words, event_words, request_from


@dataclass(frozen=True)
class Commands:
    """What the process itself does.

    stop     end, giving answers so many seconds
    restart  hand over to a new process; raises ExosuitError if that does not come up
    """

    stop: Callable[[float], None]
    restart: Callable[[], Any]


def control_app(service: Service, commands: Commands) -> Starlette:
    """The app of the private socket."""

    async def status(_: HttpRequest) -> Response:
        return JSONResponse(asdict(service.status()))

    async def unload(request: HttpRequest) -> Response:
        words = await _words(request)
        return JSONResponse({"unloaded": await service.unload(str(words.get("model", "")))})

    async def stop(request: HttpRequest) -> Response:
        words = await _words(request)
        commands.stop(float(words.get("drain_s", 30)))
        return JSONResponse({"stopping": True})

    async def restart(_: HttpRequest) -> Response:
        return JSONResponse({"pid": await commands.restart()})

    async def generate(request: HttpRequest) -> Response:
        words = await _words(request)
        asked = request_from(words["request"])
        model = await service.open(
            str(words["model"]), keep_alive_s=words.get("keep_alive_s"),
            context=words.get("context"),
        )  # fmt: skip
        try:
            stream = model.generate(asked)
            head = {
                "device": model.device_name,
                "context": model.context,
                "model": model.info.name,
            }
        finally:
            model.release()  # the stream holds it
        return StreamingResponse(_lines(head, stream), media_type="application/x-ndjson")

    async def failed(_: HttpRequest, problem: Exception) -> Response:
        assert isinstance(problem, ExosuitError)
        return JSONResponse({"error": error_words(problem)}, 409)

    return Starlette(
        routes=[
            Route("/status", status),
            Route("/unload", unload, methods=["POST"]),
            Route("/stop", stop, methods=["POST"]),
            Route("/restart", restart, methods=["POST"]),
            Route("/generate", generate, methods=["POST"]),
        ],
        exception_handlers={ExosuitError: failed},
    )


async def _words(request: HttpRequest) -> Words:
    try:
        found = json.loads(await request.body())
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise RequestError(
            "the body is no JSON object",
            cause="client and server may be of different versions",
            next="exosuit serve --restart",
        )
    return cast("Words", found)


async def _lines(head: Words, stream: Stream) -> AsyncIterator[bytes]:
    yield _line(head)
    try:
        async for event in stream:
            yield _line({"event": event_words(event)})
    except ExosuitError as problem:
        yield _line({"error": error_words(problem)})
        return
    finally:
        await stream.aclose()
    yield _line({"done": end_words(stream.generation)})


def _line(words: Words) -> bytes:
    return json.dumps(words, separators=(",", ":")).encode() + b"\n"
