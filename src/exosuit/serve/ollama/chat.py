"""POST /api/chat: the next message of a conversation."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from exosuit.serve.answer import Call, Whole
from exosuit.serve.exchange import Exchange
from exosuit.serve.fields import Told
from exosuit.serve.ollama.loading import load_only
from exosuit.serve.ollama.reading import (
    check_thinks,
    context_of,
    messages_of,
    thinking_of,
    tools_of,
    wishes_of,
)
from exosuit.serve.ollama.requests import ChatRequest
from exosuit.serve.ollama.telling import NDJSON, Answered, called, ended, logprobs, stamp, told
from exosuit.serve.sending import Frames, Json, ndjson
from exosuit.serve.service import ServedModel
from exosuit.serve.turn import Conversation, Turn, ask_chat

router = APIRouter()


class FunctionTold(Told):
    index: int
    name: str
    arguments: dict[str, Any]


class CallTold(Told):
    id: str | None = None
    function: FunctionTold


class MessageTold(Told):
    role: str
    content: str
    thinking: str | None = None
    tool_calls: list[CallTold] | None = None


class ChatAnswered(Answered):
    message: MessageTold


@router.post(
    "/api/chat",
    response_model=ChatAnswered,
    responses={200: {"content": {NDJSON: {}}}},
)
async def chat(body: ChatRequest, request: Request) -> Response:
    """The next message of a conversation, as lines unless `stream` is false."""
    if not body.messages:
        return await load_only(request, body, {"message": {"role": "assistant", "content": ""}})
    think, variables = thinking_of(body)
    conversation = Conversation(
        messages_of(body.messages), tools_of(body.tools or []), think=think, variables=variables
    )
    wishes = wishes_of(body)

    def ask(model: ServedModel) -> Turn:
        check_thinks(model, think)
        return ask_chat(model, conversation, wishes)

    exchange = await Exchange.begin(
        request, body.model, ask, keep_alive=body.keep_alive, context=context_of(body)
    )
    if body.stream is False:
        return Json(_whole(exchange, body, (await exchange.whole())[0]))
    return exchange.send(_lines(exchange, body), told, NDJSON)


def _whole(exchange: Exchange, body: ChatRequest, answer: Whole) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.content}
    if answer.thoughts:
        message["thinking"] = answer.thoughts
    _add_calls(message, answer.calls, 0)
    line = _line(body, message) | ended(exchange, answer.finish)
    if body.logprobs:
        line["logprobs"] = logprobs(exchange.model.tokenizer, answer.tokens)
    return line


async def _lines(exchange: Exchange, body: ChatRequest) -> Frames:
    """A call is told once it is complete, since its arguments are an object."""
    whole, told_calls = Whole(), 0
    deltas = exchange.deltas()
    try:
        async for _, delta in deltas:
            whole.add(delta)
            complete = len(whole.calls) - (0 if delta.finish else 1)
            message: dict[str, Any] = {"role": "assistant", "content": delta.content}
            if delta.thoughts:
                message["thinking"] = delta.thoughts
            if complete > told_calls:
                _add_calls(message, whole.calls[told_calls:complete], told_calls)
                told_calls = complete
            if len(message) > 2 or delta.content:
                line = _line(body, message)
                if body.logprobs and delta.tokens:
                    line["logprobs"] = logprobs(exchange.model.tokenizer, delta.tokens)
                yield ndjson(line)
    finally:
        await deltas.aclose()
    yield ndjson(_line(body, {"role": "assistant", "content": ""}) | ended(exchange, whole.finish))


def _add_calls(message: dict[str, Any], calls: list[Call], first: int) -> None:
    """Calls whose arguments are no object become what they are: text of the answer."""
    found: list[dict[str, Any]] = []
    for position, call in enumerate(calls, first):
        entry = called(call, position)
        if entry is None:
            message["content"] += f"{call.name}{call.arguments}"
        else:
            found.append(entry)
    if found:
        message["tool_calls"] = found


def _line(body: ChatRequest, message: dict[str, Any]) -> dict[str, Any]:
    return {"model": body.model, "created_at": stamp(), "message": message, "done": False}
