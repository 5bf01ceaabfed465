"""Anthropic's dialect: messages, and the counting of their tokens.

Source: Anthropic's API reference (Messages, Count tokens, Streaming). Unknown fields are refused,
as Anthropic does.
"""

from fastapi import APIRouter

from exosuit.serve.anthropic import messages


def router() -> APIRouter:
    """/v1/messages."""
    whole = APIRouter(tags=["Anthropic"])
    whole.include_router(messages.router)
    return whole
