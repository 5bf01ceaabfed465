"""Conversations with tools, as the template of a model wants them.

Clients send messages in OpenAI's shape. Templates differ: some take a call's arguments as an
object, some as text; some know no tools at all. For those the tools are described in the system
message, calls and results become text, in the way of Hermes, which is the most widely known.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from exosuit.errors import RequestError, TemplateFailed
from exosuit.models.chat.template import ChatTemplate, Prompt

Message = Mapping[str, Any]

RESERVED = frozenset(
    {"messages", "tools", "add_generation_prompt", "now", "self", "strftime_now"}
    | {"bos_token", "eos_token"}
)
"""Names that nobody else may give to a template."""

_SHORT_ID = re.compile("[A-Za-z0-9]{9}")
_ASKS_FOR_NONE = re.compile(r"content['\"]?\]? is (not )?none")


def render_conversation(
    template: ChatTemplate,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]] = (),
    variables: Mapping[str, Any] | None = None,
    *,
    in_words: bool = False,
) -> Prompt:
    """The prompt of a conversation that may offer tools and hold calls and their results.

    messages   [{"role", "content": str, "tool_calls": [{"id", "type", "function": {"name",
               "arguments": object}}], "tool_call_id", "name"}], the last four where they apply
    tools      [{"type": "function", "function": {"name", "description", "parameters"}}]
    variables  further names for the template; those of value None are left out
    in_words   tools are told in words even to a template that knows them
    Raises as `ChatTemplate.render` does, and RequestError for a name that is the template's own.
    """
    given = {name: value for name, value in (variables or {}).items() if value is not None}
    for name in given.keys() & RESERVED:
        raise RequestError(
            f"a request may not set {name!r} for the chat template",
            cause="the conversation itself says what it is",
            next="leave it out, or use the request's own field",
        )
    speaks_of_tools = bool(tools) or any(
        message.get("tool_calls") or message.get("role") == "tool" for message in messages
    )
    if not speaks_of_tools:
        return template.render(messages, **given)
    if in_words or not template.knows_tools:
        return template.render(as_text(messages, tools), **given)
    offered = tools or None
    suited = [_with_content(message, template) for message in with_ids(messages)]
    try:
        return template.render(suited, tools=offered, **given)
    except TemplateFailed:
        texts = [_with_text_arguments(message) for message in suited]
        if texts == suited:
            raise
        return template.render(texts, tools=offered, **given)


def with_ids(messages: Sequence[Message]) -> list[Message]:
    """Every call and result with an id of nine letters and digits, as Mistral's templates demand.

    A result without one belongs to the first call of its name, or of any, that has no result yet.
    """
    open_calls: list[tuple[str, str]] = []
    found: list[Message] = []
    for number, message in enumerate(messages):
        if message.get("tool_calls"):
            given = cast("list[dict[str, Any]]", message["tool_calls"])
            calls: list[dict[str, Any]] = [
                call | {"id": _short(call.get("id") or f"{number}.{place}")}
                for place, call in enumerate(given)
            ]
            open_calls = [(call["id"], call["function"]["name"]) for call in calls]
            message = {**message, "tool_calls": calls}
        elif message.get("role") == "tool":
            id = message.get("tool_call_id")
            if id:
                id = _short(id)
            else:
                named = [entry for entry in open_calls if entry[1] == message.get("name")]
                id = next((entry[0] for entry in [*named, *open_calls]), _short(f"{number}"))
            open_calls = [entry for entry in open_calls if entry[0] != id]
            message = {**message, "tool_call_id": id}
        found.append(message)
    return found


def as_text(
    messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The conversation in roles that every template knows; neighbours of one role become one."""
    plain: list[dict[str, Any]] = []
    if tools:
        plain.append({"role": "system", "content": _offer(tools)})
    for message in messages:
        role, content = message["role"], message.get("content") or ""
        if message.get("tool_calls"):
            calls = cast("list[Message]", message["tool_calls"])
            content = "\n".join(filter(None, [content, *map(_call, calls)]))
        elif role == "tool":
            role, content = "user", f"<tool_response>\n{content}\n</tool_response>"
        elif role == "system" and plain and plain[0]["role"] == "system":
            plain[0]["content"] = f"{content}\n\n{plain[0]['content']}"
            continue
        if plain and plain[-1]["role"] == role:
            plain[-1]["content"] += f"\n{content}"
        else:
            plain.append({"role": role, "content": content})
    return plain


def _offer(tools: Sequence[Mapping[str, Any]]) -> str:
    listed = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    return (
        "These functions can be called, one JSON object for each:\n"
        f"<tools>\n{listed}\n</tools>\n"
        "To call one, write nothing but its name and arguments as JSON between these marks:\n"
        '<tool_call>\n{"name": "NAME", "arguments": {"KEY": "VALUE"}}\n</tool_call>'
    )


def _call(call: Message) -> str:
    function = call["function"]
    said = {"name": function["name"], "arguments": function["arguments"]}
    return f"<tool_call>\n{json.dumps(said, ensure_ascii=False)}\n</tool_call>"


def _with_content(message: Message, template: ChatTemplate) -> Message:
    """A call without words has no content for templates that look whether it has, else none."""
    if message.get("tool_calls") and not message.get("content"):
        return {**message, "content": None if _ASKS_FOR_NONE.search(template.source) else ""}
    return message


def _short(id: str) -> str:
    return id if _SHORT_ID.fullmatch(id) else hashlib.sha256(id.encode()).hexdigest()[:9]


def _with_text_arguments(message: Message) -> Message:
    if not message.get("tool_calls"):
        return message
    calls = [
        call | {"function": call["function"] | {"arguments": _json(call["function"]["arguments"])}}
        for call in cast("list[dict[str, Any]]", message["tool_calls"])
    ]
    return {**message, "tool_calls": calls}


def _json(arguments: object) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
