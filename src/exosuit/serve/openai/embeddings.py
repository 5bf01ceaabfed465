"""POST /v1/embeddings: texts to vectors."""

from __future__ import annotations

import base64
from typing import Any, Literal, cast

import numpy as np
from fastapi import APIRouter, Request, Response

from exosuit.serve.embedding import embedded
from exosuit.serve.fields import Told
from exosuit.serve.openai.requests import EmbeddingRequest
from exosuit.serve.sending import Json

router = APIRouter()


class Embedding(Told):
    """`embedding` is base64 of little-endian float32 where that was asked for."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(Told):
    prompt_tokens: int
    total_tokens: int


class EmbeddingList(Told):
    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


@router.post("/v1/embeddings", response_model=EmbeddingList)
async def embeddings(body: EmbeddingRequest, request: Request) -> Response:
    """One vector of length 1 for each input."""
    found = await embedded(
        request,
        body.model,
        _inputs(body),
        dimensions=body.dimensions,
        keep_alive=body.keep_alive,
    )

    def told(row: Any) -> list[float] | str:
        if body.encoding_format == "base64":
            return base64.b64encode(np.ascontiguousarray(row, "<f4").tobytes()).decode()
        return row.tolist()

    data = [
        Embedding(object="embedding", index=index, embedding=told(row))
        for index, row in enumerate(found.vectors)
    ]
    usage = EmbeddingUsage(prompt_tokens=found.tokens, total_tokens=found.tokens)
    listed = EmbeddingList(object="list", data=data, model=body.model or found.model, usage=usage)
    return Json(listed.model_dump())


def _inputs(body: EmbeddingRequest) -> list[str | list[int]]:
    match body.input:
        case str(text):
            return [text]
        case [int(), *_] as ids:
            return [ids]
        case many:
            return list(cast("list[str | list[int]]", many))
