"""What Ollama's clients send."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from exosuit.serve.fields import (
    MOST_MESSAGES,
    MOST_TOOLS,
    MOST_TOP_LOGPROBS,
    Name,
    Open,
    Repetition,
    Seed,
    Share,
    Stop,
    Stops,
    Temperature,
    TopK,
)

Model = Annotated[str, Field(max_length=300)]
Count = Annotated[int, Field(ge=-2, le=1 << 24)]


class Options(Open):
    """Those that have a meaning here; Ollama has more, for its own runner."""

    temperature: Temperature | None = None
    top_k: TopK | None = None
    top_p: Share | None = None
    min_p: Share | None = None
    seed: Seed | None = None
    num_predict: Count | None = None
    num_ctx: Annotated[int, Field(ge=0, le=1 << 24)] | None = None
    stop: Stop | Stops | None = None
    repeat_penalty: Repetition | None = None
    repeat_last_n: Annotated[int, Field(ge=-1, le=1 << 24)] | None = None
    presence_penalty: Annotated[float, Field(ge=-10, le=10)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-10, le=10)] | None = None


class Common(Open):
    model: Model
    stream: bool | None = None
    format: Literal["", "json"] | dict[str, Any] | None = None
    options: Options | None = None
    keep_alive: float | str | None = None
    think: bool | Literal["low", "medium", "high"] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_TOP_LOGPROBS)] | None = None


class CalledFunction(Open):
    name: str
    arguments: dict[str, Any] | None = None


class ToolCall(Open):
    id: str | None = None
    function: CalledFunction


class Message(Open):
    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    thinking: str | None = None
    images: list[str] | None = Field(default=None, description="refused")
    tool_calls: list[ToolCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class FunctionDefinition(Open):
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None


class ToolDefinition(Open):
    type: str | None = None
    function: FunctionDefinition


class ChatRequest(Common):
    messages: Annotated[list[Message], Field(max_length=MOST_MESSAGES)] | None = None
    tools: Annotated[list[ToolDefinition], Field(max_length=MOST_TOOLS)] | None = None


class GenerateRequest(Common):
    prompt: str | None = None
    suffix: str | None = None
    system: str | None = None
    template: str | None = Field(default=None, description="refused: Go templates are not read")
    context: list[Annotated[int, Field(ge=0, lt=2**31)]] | None = None
    raw: bool | None = None
    images: list[str] | None = Field(default=None, description="refused")


class EmbedRequest(Open):
    model: Model
    input: str | Annotated[list[str], Field(max_length=2048)] | None = None
    truncate: bool | None = None
    dimensions: Annotated[int, Field(ge=0)] | None = None
    keep_alive: float | str | None = None


class EmbeddingsRequest(Open):
    model: Model
    prompt: str | None = None
    keep_alive: float | str | None = None


class NamedRequest(Open):
    """`name` is the older word for `model`."""

    model: Model | None = None
    name: Model | None = None


class ShowRequest(NamedRequest):
    verbose: bool | None = None


class PullRequest(NamedRequest):
    stream: bool | None = None
    insecure: bool | None = None


class CopyRequest(Open):
    source: Model
    destination: Model
