"""Anthropic's requests in the server's own words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from exosuit.engine.batch import Sampling
from exosuit.serve.anthropic.requests import Block, CountRequest, MessagesRequest, Tool
from exosuit.serve.constrain import Form
from exosuit.serve.fields import seed_of
from exosuit.serve.openai.reading import schema_form, tool_of, unsupported
from exosuit.serve.problems import Refusal
from exosuit.serve.tools import Choice
from exosuit.serve.tools import Tool as Offered
from exosuit.serve.turn import Conversation, Wishes


def conversation_of(body: CountRequest) -> Conversation:
    """Raises Refusal for pictures, documents, and tools that Anthropic would run itself."""
    if body.mcp_servers:
        raise unsupported("a list of MCP servers", "mcp_servers")
    messages: list[dict[str, Any]] = []
    system = _text(body.system, "system")
    if system:
        messages.append({"role": "system", "content": system})
    for number, message in enumerate(body.messages):
        place = f"messages.{number}"
        if isinstance(message.content, str):
            messages.append({"role": message.role, "content": message.content})
        elif message.role == "assistant":
            messages.append(_said(message.content, place))
        else:
            messages += _asked(message.role, message.content, place)
    choice = body.tool_choice
    variables: dict[str, Any] = {}
    if body.output_config is not None and body.output_config.effort is not None:
        variables["reasoning_effort"] = body.output_config.effort
    return Conversation(
        messages,
        tuple(_tool(tool) for tool in body.tools or ()),
        _choice(body),
        choice is not None and choice.disable_parallel_tool_use is False,
        body.thinking is not None and body.thinking.type != "disabled",
        variables,
    )


def wishes_of(body: MessagesRequest) -> Wishes:
    """Anthropic samples at temperature 1 from all tokens unless told otherwise."""
    sampling = Sampling(
        temperature=1.0 if body.temperature is None else body.temperature,
        top_k=max(0, body.top_k or 0),
        top_p=1.0 if body.top_p is None else body.top_p,
        min_p=0.0,
        seed=seed_of(None),
    )
    return Wishes(sampling, body.max_tokens, tuple(body.stop_sequences or ()), _form(body))


def _form(body: CountRequest) -> Form | None:
    wanted = body.output_format or (body.output_config.format if body.output_config else None)
    return None if wanted is None else schema_form(wanted.schema_)


def _choice(body: CountRequest) -> Choice:
    choice = body.tool_choice
    match choice.type if choice is not None else "auto":
        case "none":
            return Choice("none")
        case "any":
            return Choice("required")
        case "tool":
            assert choice is not None
            if choice.name is None:
                raise Refusal(
                    "tool_choice names no tool",
                    param="tool_choice.name",
                    cause='its type is "tool"',
                    next="add its name",
                )
            return Choice("required", choice.name)
        case _:
            return Choice()


def _tool(tool: Tool) -> Offered:
    if tool.type not in (None, "custom"):
        raise unsupported(f"the tool {tool.type[:40]!r}, which Anthropic runs itself,", "tools")
    return tool_of(tool.name, tool.description, tool.input_schema, tool.strict)


def _said(blocks: Sequence[Block], place: str) -> dict[str, Any]:
    """A message of the assistant: what it thought, said and called."""
    message: dict[str, Any] = {"role": "assistant", "content": ""}
    calls: list[dict[str, Any]] = []
    for block in blocks:
        if block.type == "tool_use":
            function = {"name": block.name or "", "arguments": block.input or {}}
            calls.append({"id": block.id or "", "type": "function", "function": function})
        elif block.type == "thinking":
            message["reasoning_content"] = block.thinking or ""
        elif block.type != "redacted_thinking":
            message["content"] += _text([block], place)
    if calls:
        message["tool_calls"] = calls
    return message


def _asked(role: str, blocks: Sequence[Block], place: str) -> Iterator[dict[str, Any]]:
    """Messages of the user: results of tools stand alone, texts between them are joined."""
    text = ""
    for block in blocks:
        if block.type != "tool_result":
            text += _text([block], place)
            continue
        if text:
            yield {"role": role, "content": text}
            text = ""
        result = _text(block.content, place)
        if block.is_error:
            result = f"Error: {result}"
        yield {"role": "tool", "content": result, "tool_call_id": block.tool_use_id or ""}
    if text or not blocks:
        yield {"role": role, "content": text}


def _text(content: str | Sequence[Block] | None, place: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    for block in content:
        if block.type != "text":
            raise unsupported(f"a block of the type {block.type[:40]!r}", place)
    return "".join(block.text or "" for block in content)
