"""Whether the server lives, whether it takes requests, and what it has counted."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request, Response

from exosuit.serve.exchange import service_of
from exosuit.serve.fields import Told
from exosuit.serve.problems import OpenaiError, told_as
from exosuit.serve.sending import Json


class Health(Told):
    status: Literal["ok", "draining"]


def router() -> APIRouter:
    """/health, /ready and /metrics."""
    room = APIRouter(tags=["Operations"], responses=told_as(OpenaiError))

    @room.get("/health", response_model=Health)
    async def health() -> Health:  # pyright: ignore[reportUnusedFunction]
        """The process answers."""
        return Health(status="ok")

    @room.get("/ready", response_model=Health, responses={503: {"model": Health}})
    async def ready(request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        """New requests are taken; 503 while the server finishes what it has begun."""
        is_draining = service_of(request).is_draining
        return Json({"status": "draining" if is_draining else "ok"}, 503 if is_draining else 200)

    @room.get("/metrics", responses={200: {"content": {"text/plain": {}}}})
    async def metrics(request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Counters for Prometheus."""
        found = service_of(request).metrics
        return Response(found.exposition(), media_type=found.content_type)

    return room
