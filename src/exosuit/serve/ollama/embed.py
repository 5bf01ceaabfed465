"""POST /api/embed and the older /api/embeddings."""

from __future__ import annotations

import time

from fastapi import APIRouter, Request, Response

from exosuit.serve.embedding import embedded
from exosuit.serve.fields import Told
from exosuit.serve.ollama.requests import EmbeddingsRequest, EmbedRequest
from exosuit.serve.sending import Json

router = APIRouter()


class EmbedTold(Told):
    """Times are in nanoseconds."""

    model: str
    embeddings: list[list[float]]
    total_duration: int
    load_duration: int
    prompt_eval_count: int


class EmbeddingsTold(Told):
    embedding: list[float]


@router.post("/api/embed", response_model=EmbedTold)
async def embed(body: EmbedRequest, request: Request) -> Response:
    """One vector of length 1 for each input; long inputs are cut unless `truncate` is false."""
    start = time.monotonic()
    inputs = [body.input] if isinstance(body.input, str) else list(body.input or [])
    found = await embedded(
        request,
        body.model,
        inputs,
        dimensions=body.dimensions or None,
        truncate=body.truncate is not False,
        keep_alive=body.keep_alive,
    )
    answer = EmbedTold(
        model=body.model,
        embeddings=found.vectors.tolist(),
        total_duration=int((time.monotonic() - start) * 1e9),
        load_duration=int(found.load_s * 1e9),
        prompt_eval_count=found.tokens,
    )
    return Json(answer.model_dump())


@router.post("/api/embeddings", response_model=EmbeddingsTold)
async def embeddings(body: EmbeddingsRequest, request: Request) -> Response:
    """One vector for one prompt; none for none, as Ollama does."""
    inputs = [body.prompt] if body.prompt else []
    found = await embedded(request, body.model, inputs, truncate=True, keep_alive=body.keep_alive)
    return Json({"embedding": found.vectors[0].tolist() if inputs else []})
