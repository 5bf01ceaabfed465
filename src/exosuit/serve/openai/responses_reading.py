"""A request for a response in the server's own words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from exosuit.engine.batch import Sampling
from exosuit.serve.constrain import ANY_OBJECT, Form
from exosuit.serve.fields import arguments_of, seed_of
from exosuit.serve.openai.reading import schema_form, text_of, tool_of, unsupported
from exosuit.serve.openai.responses_requests import Item, NamedChoice, ResponseRequest
from exosuit.serve.problems import Refusal
from exosuit.serve.tools import Choice, Tool
from exosuit.serve.turn import Conversation, Wishes

LOGPROBS = "message.output_text.logprobs"


def conversation_of(body: ResponseRequest) -> Conversation:
    """Raises Refusal for what would need answers to be kept, and for tools of OpenAI's own."""
    for name in ("previous_response_id", "conversation", "background", "prompt"):
        if getattr(body, name):
            raise unsupported(name, name, "send the whole conversation as the input")
    messages: list[dict[str, Any]] = []
    if body.instructions:
        messages.append({"role": "system", "content": body.instructions})
    if isinstance(body.input, str):
        messages.append({"role": "user", "content": body.input})
    else:
        messages += _messages(body.input)
    if not messages:
        raise Refusal(
            "the input holds no message",
            param="input",
            cause="an answer answers something",
            next='send a text, or [{"role": "user", "content": "Hello"}]',
        )
    effort = body.reasoning.effort if body.reasoning else None
    return Conversation(
        messages,
        _tools(body),
        _choice(body.tool_choice),
        body.parallel_tool_calls is True,
        None if effort is None else effort != "none",
        {} if effort is None else {"reasoning_effort": effort},
    )


def wishes_of(body: ResponseRequest) -> Wishes:
    usual = Sampling()
    wants_logprobs = LOGPROBS in (body.include or ())
    sampling = Sampling(
        temperature=usual.temperature if body.temperature is None else body.temperature,
        top_p=usual.top_p if body.top_p is None else body.top_p,
        seed=seed_of(None),
        top_logprobs=(body.top_logprobs or 0) if wants_logprobs else 0,
    )
    return Wishes(sampling, body.max_output_tokens, form=_form(body))


def _form(body: ResponseRequest) -> Form | None:
    wanted = body.text.format if body.text else None
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return ANY_OBJECT
    return schema_form(wanted.schema_ or {"type": "object"})


def _messages(items: Sequence[Item]) -> list[dict[str, Any]]:
    """Calls that stand beside each other, or after a message of the assistant, belong to it."""
    messages: list[dict[str, Any]] = []
    for number, item in enumerate(items):
        place = f"input[{number}]"
        kind = item.type or "message"
        if kind == "message" and item.role is not None:
            role = "system" if item.role == "developer" else item.role
            messages.append({"role": role, "content": text_of(item.content, place)})
        elif kind == "function_call":
            function = {"name": item.name or "", "arguments": arguments_of(item.arguments)}
            call = {"id": item.call_id or "", "type": "function", "function": function}
            if not messages or messages[-1]["role"] != "assistant":
                messages.append({"role": "assistant", "content": ""})
            messages[-1].setdefault("tool_calls", []).append(call)
        elif kind == "function_call_output":
            content = text_of(item.output, place)
            messages.append(
                {"role": "tool", "content": content, "tool_call_id": item.call_id or ""}
            )
        elif kind != "reasoning":  # what was thought before is not told to the model again
            raise unsupported(f"an input item of the type {kind[:40]!r}", place)
    return messages


def _tools(body: ResponseRequest) -> tuple[Tool, ...]:
    tools: list[Tool] = []
    for tool in body.tools or ():
        if tool.type != "function" or not tool.name:
            raise unsupported(f"a tool of the type {tool.type[:40]!r}", "tools")
        tools.append(tool_of(tool.name, tool.description, tool.parameters, tool.strict))
    return tuple(tools)


def _choice(choice: str | NamedChoice | None) -> Choice:
    match choice:
        case None | "auto":
            return Choice()
        case "none":
            return Choice("none")
        case NamedChoice(type="function", name=str(name)):
            return Choice("required", name)
        case NamedChoice(type=kind):
            raise unsupported(f"a tool choice of the type {kind[:40]!r}", "tool_choice")
        case _:
            return Choice("required")
