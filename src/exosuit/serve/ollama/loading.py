"""A question without a question: the client wants the model loaded, or unloaded."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from exosuit.serve.exchange import service_of
from exosuit.serve.keep_alive import keep_alive_s
from exosuit.serve.ollama.reading import context_of
from exosuit.serve.ollama.requests import Common
from exosuit.serve.ollama.telling import NDJSON, stamp
from exosuit.serve.sending import Json, attended, json_bytes


async def load_only(request: Request, body: Common, more: dict[str, Any]) -> Response:
    """`more` is what the endpoint's answers have besides."""
    service = service_of(request)
    seconds = None if body.keep_alive is None else keep_alive_s(body.keep_alive)
    if seconds == 0:
        await service.unload(body.model)
    else:
        opening = service.open(body.model, keep_alive_s=seconds, context=context_of(body))
        (await attended(request, opening)).release()
    line = {
        "model": body.model,
        "created_at": stamp(),
        **more,
        "done": True,
        "done_reason": "unload" if seconds == 0 else "load",
    }
    if body.stream is False:
        return Json(line)
    return Response(json_bytes(line) + b"\n", media_type=NDJSON)
