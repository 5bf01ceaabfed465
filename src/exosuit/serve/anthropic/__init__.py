"""Anthropic's dialect: messages, and the counting of their tokens.

Source: Anthropic's API reference (Messages, Count tokens, Streaming). Unknown fields are refused,
as Anthropic does.
"""

from fastapi import APIRouter

from exosuit.serve.anthropic import messages
from exosuit.serve.problems import AnthropicError, told_as


def router() -> APIRouter:
    """/v1/messages."""
    whole = APIRouter(tags=["Anthropic"], responses=told_as(AnthropicError))
    whole.include_router(messages.router)
    return whole
