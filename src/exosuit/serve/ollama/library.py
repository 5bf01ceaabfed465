"""The models of the store, in Ollama's words: tags, show, ps, pull, copy, delete, version.

Names are shown with the tag `:latest`, which clients expect, and are taken with and without it.
"""

from __future__ import annotations

import asyncio
import math
from importlib.metadata import version
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse, RedirectResponse

from exosuit.models.gguf import GgufFile
from exosuit.models.gguf_header import Value
from exosuit.serve.exchange import request_id_of, service_of
from exosuit.serve.facts import LoadedInfo, ModelInfo
from exosuit.serve.fields import Told
from exosuit.serve.ollama.reading import name_of
from exosuit.serve.ollama.requests import CopyRequest, NamedRequest, PullRequest, ShowRequest
from exosuit.serve.ollama.telling import NDJSON, stamp, told
from exosuit.serve.sending import Frames, Json, Sending, guarded, ndjson
from exosuit.serve.service import Service

router = APIRouter()
_LIKE = "0.12.0"  # the release of Ollama whose dialect this is; clients compare it
_NEVER_S = 100 * 365 * 86400.0


class Details(Told):
    parent_model: str
    format: str
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str


class Listed(Told):
    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: Details


class ListTold(Told):
    models: list[Listed]


class Running(Told):
    name: str
    model: str
    size: int
    digest: str
    details: Details
    expires_at: str
    size_vram: int
    context_length: int


class RunningTold(Told):
    models: list[Running]


class Shown(Told):
    license: str
    modelfile: str
    parameters: str
    template: str
    details: Details
    model_info: dict[str, Any]
    capabilities: list[str]
    modified_at: str


class Progress(Told):
    status: str


class VersionTold(Told):
    """`version` is Ollama's, whose dialect is spoken; `exosuit` is our own."""

    version: str
    exosuit: str


@router.get("/", response_class=PlainTextResponse)
@router.head("/", response_class=PlainTextResponse, include_in_schema=False)
async def running(request: Request) -> Response:
    """What clients ask to see whether somebody is there; browsers are shown to the page."""
    if "text/html" in request.headers.get("accept", ""):
        return RedirectResponse("/web/", headers={"vary": "Accept"})
    return PlainTextResponse("Ollama is running", headers={"vary": "Accept"})


@router.get("/api/version", response_model=VersionTold)
async def version_told() -> VersionTold:
    return VersionTold(version=_LIKE, exosuit=version("exosuit"))


@router.get("/api/tags", response_model=ListTold)
async def tags(request: Request) -> ListTold:
    """The models of the store."""
    found = await asyncio.to_thread(service_of(request).catalogue)
    return ListTold(
        models=[
            Listed(
                name=tagged(info.name),
                model=tagged(info.name),
                modified_at=info.modified,
                size=info.size_bytes,
                digest=info.digest,
                details=_details(info),
            )
            for info in found
        ]
    )


@router.get("/api/ps", response_model=RunningTold)
async def ps(request: Request) -> RunningTold:
    """The models that are loaded."""
    return RunningTold(models=[_running(info) for info in service_of(request).loaded()])


@router.post("/api/show", response_model=Shown)
async def show(body: ShowRequest, request: Request) -> Response:
    """What a model's file says of it; `verbose` adds its token lists."""
    info = service_of(request).find(name_of(body))
    metadata = await asyncio.to_thread(_metadata, info, bool(body.verbose))
    shown = Shown(
        license=info.licence,
        modelfile=f"FROM {info.name}\n",
        parameters="",
        template=info.template,
        details=_details(info),
        model_info=metadata,
        capabilities=[known for known in info.capabilities if known != "chat"],
        modified_at=info.modified,
    )
    return Json(shown.model_dump())


@router.post("/api/pull", response_model=Progress, responses={200: {"content": {NDJSON: {}}}})
async def pull(body: PullRequest, request: Request) -> Response:
    """Fetch a model into the store, with progress as lines unless `stream` is false."""
    service, name = service_of(request), name_of(body)
    lines = _pulled(service, name)
    if body.stream is False:
        async for _ in lines:
            pass
        return Json({"status": "success"})
    return Sending(guarded(lines, told, request_id_of(request)), NDJSON, closing=lambda: None)


@router.post("/api/copy")
async def copy(body: CopyRequest, request: Request) -> Response:
    """A second name for a model."""
    await service_of(request).copy(body.source, body.destination)
    return Response()


@router.delete("/api/delete")
async def delete(body: NamedRequest, request: Request) -> Response:
    """Remove a model from the store."""
    await service_of(request).delete(name_of(body))
    return Response()


async def _pulled(service: Service, name: str) -> Frames:
    yield ndjson({"status": "pulling manifest"})
    async for progress in service.pull(name.removesuffix(":latest")):
        line: dict[str, Any] = {"status": f"pulling {progress.label}", "digest": progress.label}
        if progress.total_bytes is not None:
            line["total"] = progress.total_bytes
        yield ndjson(line | {"completed": progress.done_bytes})
    yield ndjson({"status": "success"})


def tagged(name: str) -> str:
    return name if ":" in name else f"{name}:latest"


def _details(info: ModelInfo | LoadedInfo) -> Details:
    return Details(
        parent_model="",
        format="gguf",
        family=info.family,
        families=[info.family],
        parameter_size=_count(info.parameters),
        quantization_level=info.quantisation,
    )


def _running(info: LoadedInfo) -> Running:
    expires_at = info.expires_at
    if expires_at is None or math.isinf(expires_at):
        expires_at = _NEVER_S * 2.5  # Ollama, too, writes a far year for never
    return Running(
        name=tagged(info.name),
        model=tagged(info.name),
        size=info.device_bytes,
        digest=info.digest,
        details=_details(info),
        expires_at=stamp(expires_at),
        size_vram=0 if info.device == "cpu" else info.device_bytes,
        context_length=info.context,
    )


def _count(parameters: int) -> str:
    """As Ollama writes it: 134.52M, 7.6B."""
    if parameters >= 1e9:
        return f"{parameters / 1e9:.1f}B"
    return f"{parameters / 1e6:.2f}M" if parameters >= 1e6 else f"{parameters / 1e3:.2f}K"


def _metadata(info: ModelInfo, verbose: bool) -> dict[str, Any]:
    """The file's keys and values; lists are null unless all is wanted."""
    with GgufFile.open(info.path) as file:
        told: dict[str, Any] = {key: _plain(v, verbose) for key, v in file.metadata.items()}
        return {"general.parameter_count": info.parameters} | told


def _plain(value: Value, verbose: bool) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist() if verbose else None
    if isinstance(value, list):
        return value if verbose else None
    return None if isinstance(value, float) and not math.isfinite(value) else value
