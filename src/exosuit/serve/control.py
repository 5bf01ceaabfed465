"""What this user's own tools ask of the server, over its private socket: look, stop, generate.

HTTP with JSON, and lines of JSON for an answer that grows. Only the socket's owner gets here, so
nobody shows a key. Prompts are token ids: `exosuit run` renders and tokenises as it does without a
server, and gets the engine's own events.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, cast

from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from exosuit.engine.batch import Sampling
from exosuit.engine.request import Event, Generation, Request
from exosuit.errors import ExosuitError, RequestError
from exosuit.serve.service import Service, Stream

Words = dict[str, Any]


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


# Values on the wire -----------------------------------------------------------------------


def request_words(request: Request) -> Words:
    sampling = asdict(request.sampling)
    sampling["logit_bias"] = list(request.sampling.logit_bias.items())
    return {
        "prompt": list(request.prompt),
        "sampling": sampling,
        "max_tokens": request.max_tokens,
        "stop": list(request.stop),
    }


def request_from(words: Words) -> Request:
    known = {field.name for field in fields(Sampling)}
    sampling = {key: value for key, value in words["sampling"].items() if key in known}
    sampling["logit_bias"] = {int(token): float(bias) for token, bias in sampling["logit_bias"]}
    return Request(
        tuple(int(token) for token in words["prompt"]),
        Sampling(**sampling),
        words["max_tokens"],
        tuple(words["stop"]),
    )


def event_words(event: Event) -> Words:
    token = event.token
    return {
        "text": event.text,
        "token": None if token is None else [token.token, token.logprob, list(token.top)],
        "finish_reason": event.finish_reason,
    }


def end_words(generation: Generation) -> Words:
    """What the events do not say; times are seconds after the request."""

    def after(moment: float | None) -> float | None:
        return None if moment is None else moment - generation.submitted_s

    return {
        "reused_tokens": generation.reused_tokens,
        "context_full": generation.context_full,
        "first_token_s": after(generation.first_token_s),
        "last_token_s": after(generation.last_token_s),
    }


def error_words(problem: ExosuitError) -> Words:
    return {
        "type": type(problem).__name__,
        "what": problem.what,
        "cause": problem.cause,
        "next": problem.next,
        "fields": {
            key: value
            for key, value in problem.fields.items()
            if isinstance(value, str | int | float | bool | None)
        },
    }


def error_from(words: Mapping[str, Any]) -> ExosuitError:
    """The error, of the class that it had where that class is known here."""
    kinds: dict[str, type[ExosuitError]] = {}
    waiting: list[type[ExosuitError]] = [ExosuitError]
    while waiting:
        kind = waiting.pop()
        kinds[kind.__name__] = kind
        waiting += kind.__subclasses__()
    kind = kinds.get(str(words["type"]), ExosuitError)
    return kind(words["what"], cause=words["cause"], next=words["next"], **words["fields"])


__all__ = [
    "Commands", "control_app", "end_words", "error_from", "error_words", "event_words",
    "request_from", "request_words",
]  # fmt: skip
