"""Ollama's dialect: chat, generate, embeddings, and the models of the store.

Source: Ollama's docs/api.md and api/types.go. Unknown fields are ignored, as Ollama does.
"""

from fastapi import APIRouter

from exosuit.serve.ollama import chat, embed, generate, library
from exosuit.serve.problems import OllamaError, told_as


def router() -> APIRouter:
    """Everything under /api."""
    whole = APIRouter(tags=["Ollama"], responses=told_as(OllamaError))
    for room in (chat, generate, embed, library):
        whole.include_router(room.router)
    return whole
