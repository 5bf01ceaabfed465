"""What OpenAI's clients send to the chat and completion endpoints.

Unknown fields are refused, as OpenAI does, so that nobody believes in a setting that does nothing.
Fields that change nothing here (who asks, where to keep it, which tier) are accepted and say so.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from exosuit.serve.fields import (
    MOST_ANSWERS,
    MOST_MESSAGES,
    MOST_TOOLS,
    MOST_TOP_LOGPROBS,
    Closed,
    Name,
    Open,
    Penalty,
    Repetition,
    Seed,
    Share,
    Stop,
    Stops,
    Temperature,
    Tokens,
    TopK,
)

NO_EFFECT = "accepted, without effect here"


def _ignored() -> Any:
    return Field(default=None, description=NO_EFFECT)


class Part(Open):
    """One part of a message. Text is read; images, sound and files are refused by name."""

    type: str
    text: str | None = None
    refusal: str | None = None


class CalledFunction(Open):
    name: str
    arguments: str | dict[str, Any] = "{}"


class ToolCall(Open):
    id: str | None = None
    type: str = "function"
    function: CalledFunction | None = None


class Message(Open):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None


class FunctionDefinition(Open):
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolDefinition(Open):
    type: str
    function: FunctionDefinition | None = None


class NamedFunction(Open):
    name: str


class AllowedTools(Open):
    mode: Literal["auto", "required"]
    tools: list[ToolDefinition]


class NamedChoice(Open):
    type: Literal["function", "allowed_tools", "custom"]
    function: NamedFunction | None = None
    allowed_tools: AllowedTools | None = None


class JsonSchema(Open):
    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Open):
    """`schema` beside json_object is llama.cpp's way to give one."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")


class StreamOptions(Open):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class StructuredOutputs(Closed):
    """vLLM's: one of them."""

    json_: dict[str, Any] | str | None = Field(default=None, alias="json")
    regex: str | None = None
    grammar: str | None = None
    choice: list[str] | None = None


class Common(Closed):
    """What chat completions and completions have in common; `model` "" is the default model."""

    model: str = Field(default="", max_length=300)
    temperature: Temperature | None = None
    top_p: Share | None = None
    n: Annotated[int, Field(ge=1, le=MOST_ANSWERS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: Stop | Stops | None = None
    max_tokens: Tokens | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: dict[str, float] | None = None
    seed: Seed | None = None
    user: str | None = _ignored()
    # of llama.cpp's server, vLLM and Ollama
    top_k: TopK | None = None
    min_p: Share | None = None
    repetition_penalty: Repetition | None = None
    repeat_penalty: Repetition | None = None
    repeat_last_n: Annotated[int, Field(ge=-1, le=4096)] | None = None
    grammar: str | None = Field(default=None, description="GBNF, as llama.cpp reads it")
    json_schema: dict[str, Any] | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_grammar: str | None = None
    guided_choice: list[str] | None = None
    structured_outputs: StructuredOutputs | None = None
    keep_alive: float | str | None = None
    cache_prompt: bool | None = _ignored()
    id_slot: int | None = _ignored()
    timings_per_token: bool | None = _ignored()


class ChatRequest(Common):
    messages: Annotated[list[Message], Field(min_length=1, max_length=MOST_MESSAGES)]
    max_completion_tokens: Tokens | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_TOP_LOGPROBS)] | None = None
    tools: Annotated[list[ToolDefinition], Field(max_length=MOST_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    modalities: list[str] | None = Field(default=None, description='only ["text"]')
    audio: dict[str, Any] | None = Field(default=None, description="refused")
    reasoning_format: str | None = _ignored()
    metadata: dict[str, Any] | None = _ignored()
    store: bool | None = _ignored()
    service_tier: str | None = _ignored()
    prediction: dict[str, Any] | None = _ignored()
    verbosity: str | None = _ignored()
    safety_identifier: str | None = _ignored()
    prompt_cache_key: str | None = _ignored()
    prompt_cache_options: dict[str, Any] | None = _ignored()
    prompt_cache_retention: str | None = _ignored()
    moderation: dict[str, Any] | None = _ignored()


Ids = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1)]
Prompts = Annotated[list[str], Field(min_length=1, max_length=64)]
ManyIds = Annotated[list[Ids], Field(min_length=1, max_length=64)]


class CompletionRequest(Common):
    prompt: str | Prompts | Ids | ManyIds = ""
    suffix: str | None = None
    echo: bool | None = None
    best_of: int | None = Field(default=None, description="only what n is")
    logprobs: Annotated[int, Field(ge=0, le=MOST_TOP_LOGPROBS)] | None = None


class EmbeddingRequest(Closed):
    model: str = Field(default="", max_length=300)
    input: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=2048)]
        | Ids
        | Annotated[list[Ids], Field(min_length=1, max_length=2048)]
    )
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    user: str | None = _ignored()
    keep_alive: float | str | None = None
