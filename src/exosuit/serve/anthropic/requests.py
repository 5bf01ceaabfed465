"""What Anthropic's clients send."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from exosuit.serve.fields import (
    MOST_MESSAGES,
    MOST_TOOLS,
    Closed,
    Name,
    Open,
    Share,
    Stops,
    Tokens,
    TopK,
)

NO_EFFECT = "accepted, without effect here"


def _ignored() -> Any:
    return Field(default=None, description=NO_EFFECT)


class Block(Open):
    """A part of a message: text, tool_use, tool_result or thinking. Pictures are refused."""

    type: str
    text: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: str | list[Block] | None = None
    is_error: bool | None = None


class Message(Open):
    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class Tool(Open):
    type: str | None = None
    name: Name
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None


class ToolChoice(Open):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(Open):
    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = None


class OutputFormat(Open):
    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(Open):
    format: OutputFormat | None = None
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None


class CountRequest(Closed):
    model: str = Field(max_length=300)
    messages: Annotated[list[Message], Field(min_length=1, max_length=MOST_MESSAGES)]
    system: str | list[Block] | None = None
    tools: Annotated[list[Tool], Field(max_length=MOST_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None
    cache_control: dict[str, Any] | None = _ignored()
    context_management: dict[str, Any] | None = _ignored()
    mcp_servers: list[dict[str, Any]] | None = Field(default=None, description="refused")
    speed: str | None = _ignored()


class MessagesRequest(CountRequest):
    max_tokens: Tokens
    stop_sequences: Stops | None = None
    stream: bool | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Share | None = None
    top_k: TopK | None = None
    metadata: dict[str, Any] | None = _ignored()
    service_tier: str | None = _ignored()
    container: str | dict[str, Any] | None = _ignored()
    inference_geo: str | None = _ignored()
    diagnostics: dict[str, Any] | None = _ignored()
