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


@router.get("/v1/models", response_model=ModelList)
async def list_models(request: Request) -> ModelList:
    """The models of the store."""
    return ModelList(object="list", data=[_told(m) for m in service_of(request).catalogue()])


@router.get("/v1/models/{model:path}", response_model=Model)
async def retrieve_model(model: str, request: Request) -> Model:
    """One of them."""
    return _told(service_of(request).find(model))


def _told(info: ModelInfo) -> Model:
    return Model(id=info.name, object="model", created=_epoch(info.modified), owned_by="exosuit")


def _epoch(stamp: str) -> int:
    try:
        return int(datetime.fromisoformat(stamp).timestamp())
    except ValueError:
        return 0
