"""The web page, and what it asks of the server besides the dialects: status, placing, unloading.

The page is a handful of static files in `web/`, read once and served as they are; nothing of them
is made of what users or models wrote. They need no key, since they hold no secret: what the page
then asks does. Its policy allows the page's own scripts and styles and nothing else, so a model's
answer could not run or load anything even if it came to stand in the page as HTML.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import Field
from starlette.exceptions import HTTPException

from exosuit.serve.exchange import service_of
from exosuit.serve.facts import DeviceInfo, LoadedInfo
from exosuit.serve.fields import Closed, Told
from exosuit.serve.problems import OpenaiError, told_as

_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self';"
    " img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",  # asked for each time, answered by 304: an upgrade shows at once
}


class ModelTold(Told):
    """A model of the store; fields as in `facts.ModelInfo`."""

    name: str
    size_bytes: int
    family: str
    parameters: int
    quantisation: str
    context: int
    capabilities: list[str]


class StatusTold(Told):
    """The server at a glance; fields as in `facts.Status`.

    default_model  what an empty model name means
    models         of the store
    """

    version: str
    uptime_s: float
    draining: bool
    default_model: str
    models: list[ModelTold]
    devices: list[DeviceInfo]
    loaded: list[LoadedInfo]
    active: int
    waiting: int
    tokens_per_second: float
    prefill_per_second: float
    requests_total: int
    findings: list[dict[str, Any]]


class UnloadRequest(Closed):
    model: str = Field(max_length=300)


class UnloadTold(Told):
    unloaded: bool


class PlaceRequest(Closed):
    model: str = Field(max_length=300)
    device: str = Field(max_length=300)


class PlaceTold(Told):
    device: str


@dataclass(frozen=True)
class _Asset:
    content: bytes
    media_type: str
    etag: str


def router() -> APIRouter:
    """/web/ with its files, and /exosuit/."""
    room = APIRouter(tags=["exosuit"], responses=told_as(OpenaiError))
    assets = _assets()

    @room.get("/exosuit/status", response_model=StatusTold)
    async def status(request: Request) -> StatusTold:  # pyright: ignore[reportUnusedFunction]
        """Devices, memory, models, rates, and what the doctor found."""
        service = service_of(request)
        catalogue = await asyncio.to_thread(service.catalogue)
        found = service.status()
        return StatusTold(
            version=found.version,
            uptime_s=found.uptime_s,
            draining=found.draining,
            default_model=service.default_name,
            models=[
                ModelTold(
                    name=info.name,
                    size_bytes=info.size_bytes,
                    family=info.family,
                    parameters=info.parameters,
                    quantisation=info.quantisation,
                    context=info.context,
                    capabilities=list(info.capabilities),
                )
                for info in catalogue
            ],
            devices=found.devices,
            loaded=found.loaded,
            active=found.active,
            waiting=found.waiting,
            tokens_per_second=found.tokens_per_second,
            prefill_per_second=found.prefill_per_second,
            requests_total=found.requests_total,
            findings=found.findings,
        )

    @room.post("/exosuit/unload", response_model=UnloadTold)
    async def unload(  # pyright: ignore[reportUnusedFunction]
        body: UnloadRequest, request: Request
    ) -> UnloadTold:
        """Unload a model once its answers are done."""
        return UnloadTold(unloaded=await service_of(request).unload(body.model))

    @room.post("/exosuit/place", response_model=PlaceTold)
    async def place(  # pyright: ignore[reportUnusedFunction]
        body: PlaceRequest, request: Request
    ) -> PlaceTold:
        """Have a model loaded on this device from its next use on, if it fits there."""
        service_of(request).place(body.model, body.device)
        return PlaceTold(device=body.device)

    @room.get("/web/{name}", include_in_schema=False)
    @room.get("/web/", include_in_schema=False)
    async def page(  # pyright: ignore[reportUnusedFunction]
        request: Request, name: str = "index.html"
    ) -> Response:
        asset = assets.get(name)
        if asset is None:
            raise HTTPException(404)
        headers = {**_HEADERS, "etag": asset.etag}
        if request.headers.get("if-none-match") == asset.etag:
            return Response(status_code=304, headers=headers)
        return Response(asset.content, media_type=asset.media_type, headers=headers)

    return room


def _assets() -> Mapping[str, _Asset]:
    """The page's files by name; only these are ever served, whatever a path says."""
    found: dict[str, _Asset] = {}
    for entry in files("exosuit.serve").joinpath("web").iterdir():
        kind = entry.name.rpartition(".")[2]
        if kind in _TYPES:
            content = entry.read_bytes()
            etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            found[entry.name] = _Asset(content, _TYPES[kind], etag)
    return found
