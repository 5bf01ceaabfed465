"""What OpenAI's clients send to the responses endpoint."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from exosuit.serve.fields import (
    MOST_MESSAGES,
    MOST_TOOLS,
    MOST_TOP_LOGPROBS,
    Closed,
    Open,
    Share,
    Temperature,
    Tokens,
)
from exosuit.serve.openai.requests import NO_EFFECT, Part


def _ignored() -> Any:
    return Field(default=None, description=NO_EFFECT)


def _refused(why: str = "refused") -> Any:
    return Field(default=None, description=why)


class Item(Open):
    """A message, a call of a tool, its output, or thoughts of an earlier answer."""

    type: str | None = None
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: str | list[Part] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | list[Part] | None = None


class ToolDefinition(Open):
    type: str
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class NamedChoice(Open):
    type: str
    name: str | None = None


class TextFormat(Open):
    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class TextConfig(Open):
    format: TextFormat | None = None
    verbosity: str | None = None


class Reasoning(Open):
    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    summary: str | None = None


class ResponseRequest(Closed):
    model: str = Field(default="", max_length=300)
    input: str | Annotated[list[Item], Field(min_length=1, max_length=MOST_MESSAGES)]
    instructions: str | None = None
    max_output_tokens: Tokens | None = None
    temperature: Temperature | None = None
    top_p: Share | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_TOP_LOGPROBS)] | None = None
    stream: bool | None = None
    tools: Annotated[list[ToolDefinition], Field(max_length=MOST_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedChoice | None = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None
    reasoning: Reasoning | None = None
    include: list[str] | None = Field(
        default=None, description='"message.output_text.logprobs" adds log-probabilities'
    )
    previous_response_id: str | None = _refused("refused: answers are not kept")
    conversation: str | dict[str, Any] | None = _refused("refused: answers are not kept")
    background: bool | None = _refused("true is refused")
    prompt: dict[str, Any] | None = _refused()
    metadata: dict[str, Any] | None = None
    keep_alive: float | str | None = None
    store: bool | None = _ignored()
    user: str | None = _ignored()
    truncation: str | None = _ignored()
    service_tier: str | None = _ignored()
    stream_options: dict[str, Any] | None = _ignored()
    safety_identifier: str | None = _ignored()
    prompt_cache_key: str | None = _ignored()
    prompt_cache_options: dict[str, Any] | None = _ignored()
    prompt_cache_retention: str | None = _ignored()
    max_tool_calls: int | None = _ignored()
    moderation: dict[str, Any] | None = _ignored()
    context_management: list[dict[str, Any]] | None = _ignored()
