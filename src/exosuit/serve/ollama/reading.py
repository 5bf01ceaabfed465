"""Ollama's requests in the server's own words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from exosuit.engine.batch import Sampling
from exosuit.serve.constrain import ANY_OBJECT, Form
from exosuit.serve.fields import last_n_of, seed_of, stops_of
from exosuit.serve.ollama.requests import Common, Message, NamedRequest, Options, ToolDefinition
from exosuit.serve.openai.reading import schema_form
from exosuit.serve.problems import Refusal
from exosuit.serve.reasoning import marks_of
from exosuit.serve.service import ServedModel
from exosuit.serve.tools import Tool
from exosuit.serve.turn import Wishes

_TOP_P, _REPETITION = 0.9, 1.1  # Ollama's defaults where they are not the engine's


def wishes_of(body: Common) -> Wishes:
    options = body.options or Options()
    usual = Sampling(top_p=_TOP_P, min_p=0.0, repetition_penalty=_REPETITION)

    def given(name: str) -> Any:
        value = getattr(options, name)
        return value if value is not None else getattr(usual, name)

    repetition = options.repeat_penalty
    last_n, is_counted = last_n_of(options.repeat_last_n, usual.last_n)
    sampling = Sampling(
        temperature=given("temperature"),
        top_k=max(0, given("top_k")),
        top_p=given("top_p"),
        min_p=given("min_p"),
        repetition_penalty=(repetition or _REPETITION) if is_counted else 1.0,
        presence_penalty=given("presence_penalty") if is_counted else 0.0,
        frequency_penalty=given("frequency_penalty") if is_counted else 0.0,
        last_n=last_n,
        seed=seed_of(options.seed),
        top_logprobs=(body.top_logprobs or 0) if body.logprobs else 0,
    )
    most = options.num_predict
    return Wishes(
        sampling,
        most if most is not None and most > 0 else None,
        stops_of(options.stop),
        _form(body.format),
    )


def context_of(body: Common) -> int | None:
    return (body.options.num_ctx or None) if body.options else None


def _form(wanted: str | dict[str, Any] | None) -> Form | None:
    if isinstance(wanted, dict):
        return schema_form(wanted)
    return ANY_OBJECT if wanted == "json" else None


def thinking_of(body: Common) -> tuple[bool | None, dict[str, Any]]:
    """Whether the model shall think, and the template's further names."""
    if isinstance(body.think, str):
        return True, {"reasoning_effort": body.think}
    return body.think, {}


def check_thinks(model: ServedModel, think: bool | None) -> None:
    """As Ollama: thoughts are asked only of models that have them."""
    if think and (model.template is None or marks_of(model.template.source) is None):
        raise Refusal(
            f"{model.info.name} does not support thinking",
            param="think",
            cause="its chat template has no place for thoughts",
            next="leave think out, or use a model that reasons",
        )


def messages_of(messages: Sequence[Message]) -> list[dict[str, Any]]:
    return [message_of(message, f"messages[{i}]") for i, message in enumerate(messages)]


def message_of(message: Message, param: str) -> dict[str, Any]:
    """A message as templates read it."""
    refuse_images(message.images, param)
    plain: dict[str, Any] = {"role": message.role, "content": message.content or ""}
    if message.thinking is not None:
        plain["reasoning_content"] = message.thinking
    if message.tool_name is not None:
        plain["name"] = message.tool_name
    if message.tool_call_id is not None:
        plain["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        plain["tool_calls"] = [
            {
                "id": call.id or "",
                "type": "function",
                "function": {
                    "name": call.function.name,
                    "arguments": call.function.arguments or {},
                },
            }
            for call in message.tool_calls
        ]
    return plain


def refuse_images(images: list[str] | None, param: str) -> None:
    if images:
        raise Refusal(
            "images are not supported",
            param=param,
            cause="this server runs language models on text",
            next="leave them out",
        )


def tools_of(definitions: Sequence[ToolDefinition]) -> tuple[Tool, ...]:
    found: list[Tool] = []
    for definition in definitions:
        function = definition.function
        tool = Tool(function.name, function.description or "")
        parameters = function.parameters
        found.append(tool if parameters is None else Tool(tool.name, tool.description, parameters))
    return tuple(found)


def name_of(body: NamedRequest) -> str:
    name = body.model or body.name
    if not name:
        raise Refusal(
            "no model is named",
            param="model",
            cause="the request has neither model nor name",
            next='add {"model": "NAME"}',
        )
    return name
