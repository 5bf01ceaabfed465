"""OpenAI's dialect: chat completions, completions, responses, embeddings, models.

Source: OpenAI's API reference (openapi.yaml of openai/openai-openapi), with the further fields that
llama.cpp's server and vLLM have made usual.
"""

from fastapi import APIRouter

from exosuit.serve.openai import chat, completions, embeddings, models, responses
from exosuit.serve.problems import OpenaiError, told_as


def router() -> APIRouter:
    """Everything under /v1 that is OpenAI's."""
    whole = APIRouter(tags=["OpenAI"], responses=told_as(OpenaiError))
    for room in (chat, completions, responses, embeddings, models):
        whole.include_router(room.router)
    return whole
