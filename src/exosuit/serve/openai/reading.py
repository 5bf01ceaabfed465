"""OpenAI's requests in the server's own words: conversations, tools, forms, sampling."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, TypeVar

from exosuit.engine.batch import Sampling
from exosuit.serve.constrain import ANY_OBJECT, Form
from exosuit.serve.fields import arguments_of, last_n_of, seed_of, stops_of
from exosuit.serve.openai.requests import (
    ChatRequest,
    Common,
    Message,
    NamedChoice,
    Part,
    ToolDefinition,
)
from exosuit.serve.problems import Refusal
from exosuit.serve.tools import Choice, Tool
from exosuit.serve.turn import Conversation, Wishes

T = TypeVar("T", int, float)


def unsupported(what: str, param: str, next: str = "leave it out") -> Refusal:
    """A field or value that this server has nothing for."""
    return Refusal(
        f"{what} is not supported",
        param=param,
        cause="this server runs language models on text",
        next=next,
    )


def conversation_of(body: ChatRequest) -> Conversation:
    """Raises Refusal for pictures, sound, and tools other than functions."""
    if body.audio is not None or any(kind != "text" for kind in body.modalities or ()):
        raise unsupported("an answer in sound", "modalities")
    variables = dict(body.chat_template_kwargs or {})
    think = variables.pop("enable_thinking", None)
    if body.reasoning_effort is not None:
        think = body.reasoning_effort != "none" if think is None else think
        variables.setdefault("reasoning_effort", body.reasoning_effort)
    choice = body.tool_choice
    tools = tools_of(body.tools or [])
    if isinstance(choice, NamedChoice) and choice.allowed_tools is not None:
        allowed = {tool.name for tool in tools_of(choice.allowed_tools.tools)}
        tools = tuple(tool for tool in tools if tool.name in allowed)
    return Conversation(
        [message_of(message, f"messages[{i}]") for i, message in enumerate(body.messages)],
        tools,
        choice_of(choice),
        body.parallel_tool_calls is True,
        think if isinstance(think, bool) else None,
        variables,
    )


def message_of(message: Message, param: str) -> dict[str, Any]:
    """A message as templates read it."""
    role = {"developer": "system", "function": "tool"}.get(message.role, message.role)
    plain: dict[str, Any] = {"role": role, "content": text_of(message.content, param)}
    for name in ("name", "tool_call_id", "reasoning_content"):
        value = getattr(message, name)
        if value is not None:
            plain[name] = value
    if message.tool_calls:
        plain["tool_calls"] = [
            {
                "id": call.id or "",
                "type": "function",
                "function": {
                    "name": call.function.name,
                    "arguments": arguments_of(call.function.arguments),
                },
            }
            for call in message.tool_calls
            if call.function is not None
        ]
    return plain


def text_of(content: str | Sequence[Part] | None, param: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    texts: list[str] = []
    for part in content:
        if part.type not in ("text", "input_text", "output_text", "refusal"):
            raise unsupported(f"a message part of the type {part.type[:40]!r}", param)
        texts.append(part.text or part.refusal or "")
    return "".join(texts)


def tools_of(definitions: Sequence[ToolDefinition]) -> tuple[Tool, ...]:
    tools: list[Tool] = []
    for definition in definitions:
        function = definition.function
        if definition.type != "function" or function is None:
            raise unsupported(f"a tool of the type {definition.type[:40]!r}", "tools")
        tools.append(
            tool_of(function.name, function.description, function.parameters, function.strict)
        )
    return tuple(tools)


def tool_of(
    name: str, description: str | None, parameters: dict[str, Any] | None, strict: bool | None
) -> Tool:
    tool = Tool(name, description or "", strict=bool(strict))
    return tool if parameters is None else Tool(name, tool.description, parameters, tool.strict)


def choice_of(choice: str | NamedChoice | None) -> Choice:
    match choice:
        case None | "auto":
            return Choice()
        case "none":
            return Choice("none")
        case NamedChoice(function=function) if function is not None:
            return Choice("required", function.name)
        case NamedChoice(allowed_tools=allowed) if allowed is not None:
            return Choice(allowed.mode)
        case NamedChoice():
            raise unsupported("a choice of a custom tool", "tool_choice")
        case _:
            return Choice("required")


def wishes_of(body: Common, top_logprobs: int = 0, max_tokens: int | None = None) -> Wishes:
    """How the answer is made. Defaults are the engine's, which are llama.cpp's."""
    usual = Sampling()
    last_n, is_counted = last_n_of(body.repeat_last_n, usual.last_n)
    repetition = _given(body.repetition_penalty, _given(body.repeat_penalty, 1.0))
    sampling = Sampling(
        temperature=_given(body.temperature, usual.temperature),
        top_k=max(0, _given(body.top_k, usual.top_k)),
        top_p=_given(body.top_p, usual.top_p),
        min_p=_given(body.min_p, usual.min_p),
        repetition_penalty=repetition if is_counted else 1.0,
        presence_penalty=_given(body.presence_penalty, 0.0) if is_counted else 0.0,
        frequency_penalty=_given(body.frequency_penalty, 0.0) if is_counted else 0.0,
        last_n=last_n,
        seed=seed_of(body.seed),
        logit_bias=_biases(body.logit_bias or {}),
        top_logprobs=top_logprobs,
    )
    return Wishes(
        sampling,
        max_tokens or body.max_tokens,
        stops_of(body.stop),
        form_of(body),
        body.n or 1,
    )


def form_of(body: Common) -> Form | None:
    """The one form that the request asks for; Refusal for two of them."""
    forms: list[Form] = []
    if isinstance(body, ChatRequest) and body.response_format is not None:
        form = body.response_format
        if form.type == "json_object":
            forms.append(schema_form(form.schema_) if form.schema_ else ANY_OBJECT)
        elif form.type == "json_schema":
            if form.json_schema is None:
                raise Refusal(
                    "response_format has no json_schema",
                    param="response_format",
                    cause="its type says that there is one",
                    next='add {"json_schema": {"name": "x", "schema": {...}}}',
                )
            forms.append(schema_form(form.json_schema.schema_ or {"type": "object"}))
    outputs = body.structured_outputs
    for schema in (body.json_schema, body.guided_json, outputs.json_ if outputs else None):
        if schema is not None:
            forms.append(Form("schema", schema) if isinstance(schema, str) else schema_form(schema))
    for kind, text in (
        ("regex", body.guided_regex),
        ("regex", outputs.regex if outputs else None),
        ("gbnf", body.grammar),
        ("gbnf", body.guided_grammar),
        ("gbnf", outputs.grammar if outputs else None),
    ):
        if text:
            forms.append(Form("regex" if kind == "regex" else "gbnf", text))
    for options in (body.guided_choice, outputs.choice if outputs else None):
        if options:
            forms.append(Form("lark", "start: " + " | ".join(map(json.dumps, options))))
    if len(forms) > 1:
        raise Refusal(
            "the request asks for two forms of its answer",
            param="response_format",
            cause="response_format, grammar, guided_* and structured_outputs exclude one another",
            next="keep one of them",
        )
    return forms[0] if forms else None


def schema_form(schema: dict[str, Any]) -> Form:
    return Form("schema", json.dumps(schema))


def _given(value: T | None, usual: T) -> T:
    return usual if value is None else value


def _biases(given: dict[str, float]) -> dict[int, float]:
    biases: dict[int, float] = {}
    for token, bias in given.items():
        if not token.isascii() or not token.isdigit() or len(token) > 9 or not math.isfinite(bias):
            raise Refusal(
                f"logit_bias names the token {token[:40]!r}",
                param="logit_bias",
                cause="its keys are token ids, written as text",
                next="ask /tokenize for the ids of a text",
            )
        biases[int(token)] = bias
    return biases
