"""GET /v1/models: what is in the store."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from fastapi import APIRouter, Request

from exosuit.serve.exchange import service_of
from exosuit.serve.facts import ModelInfo
from exosuit.serve.fields import Told

router = APIRouter()


class Model(Told):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(Told):
    object: Literal["list"]
    data: list[Model]


class AnthropicModel(Told):
    type: Literal["model"]
    id: str
    display_name: str
    created_at: str


class AnthropicList(Told):
    data: list[AnthropicModel]
    first_id: str | None
    last_id: str | None
    has_more: bool


@router.get("/v1/models", response_model=ModelList | AnthropicList)
async def list_models(request: Request) -> ModelList | AnthropicList:
    """The models of the store; with the header `anthropic-version`, in Anthropic's words."""
    if "anthropic-version" in request.headers:
        return _for_anthropic(service_of(request).catalogue())
    return ModelList(object="list", data=[_told(m) for m in service_of(request).catalogue()])


@router.get("/v1/models/{model:path}", response_model=Model)
async def retrieve_model(model: str, request: Request) -> Model:
    """One of them."""
    return _told(service_of(request).find(model))


def _for_anthropic(found: list[ModelInfo]) -> AnthropicList:
    names = [info.name for info in found]
    data = [
        AnthropicModel(type="model", id=i.name, display_name=i.name, created_at=i.modified)
        for i in found
    ]
    first, last = (names[0], names[-1]) if names else (None, None)
    return AnthropicList(data=data, first_id=first, last_id=last, has_more=False)


def _told(info: ModelInfo) -> Model:
    return Model(id=info.name, object="model", created=_epoch(info.modified), owned_by="exosuit")


def _epoch(stamp: str) -> int:
    try:
        return int(datetime.fromisoformat(stamp).timestamp())
    except ValueError:
        return 0
