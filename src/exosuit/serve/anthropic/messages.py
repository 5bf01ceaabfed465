"""POST /v1/messages and /v1/messages/count_tokens."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any, Literal

from fastapi import APIRouter, Request, Response

from exosuit.serve.answer import Delta, Finish, Whole, stop_string
from exosuit.serve.anthropic.reading import conversation_of, wishes_of
from exosuit.serve.anthropic.requests import CountRequest, MessagesRequest
from exosuit.serve.exchange import Exchange, service_of
from exosuit.serve.fields import Told
from exosuit.serve.problems import Problem, anthropic_body
from exosuit.serve.sending import Frames, Json, attended, sse
from exosuit.serve.turn import Wishes, ask_chat

router = APIRouter()
IDLE = sse({"type": "ping"}, "ping")


class TextBlock(Told):
    type: Literal["text"]
    text: str


class ThinkingBlock(Told):
    """`signature` is empty: nothing is signed here."""

    type: Literal["thinking"]
    thinking: str
    signature: str


class ToolUseBlock(Told):
    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


class Usage(Told):
    """`input_tokens` are those that were not in the cache."""

    input_tokens: int
    output_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int


class Message(Told):
    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[TextBlock | ThinkingBlock | ToolUseBlock]
    stop_reason: Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]
    stop_sequence: str | None
    usage: Usage


class Counted(Told):
    input_tokens: int


@router.post(
    "/v1/messages",
    response_model=Message,
    responses={200: {"content": {"text/event-stream": {}}}},
)
async def messages(body: MessagesRequest, request: Request) -> Response:
    """The next message of a conversation, whole or as a stream of events."""
    conversation, wishes = conversation_of(body), wishes_of(body)
    exchange = await Exchange.begin(
        request, body.model, lambda model: ask_chat(model, conversation, wishes)
    )
    id = f"msg_{secrets.token_hex(12)}"
    if body.stream:
        events = _Events(exchange, body, id).frames()
        return exchange.send(events, told, "text/event-stream", IDLE)
    return Json(_whole(exchange, body, id, (await exchange.whole())[0]))


@router.post("/v1/messages/count_tokens", response_model=Counted)
async def count_tokens(body: CountRequest, request: Request) -> Counted:
    """How many tokens the conversation is for this model, by its own template and tokenizer."""
    conversation = conversation_of(body)

    async def counted() -> int:
        async with await service_of(request).open(body.model) as model:
            turn = await asyncio.to_thread(ask_chat, model, conversation, Wishes())
            return len(turn.prompt)

    return Counted(input_tokens=await attended(request, counted()))


def told(problem: Problem) -> bytes:
    """An error in the middle of a stream."""
    return sse(anthropic_body(problem), "error")


def _whole(exchange: Exchange, body: MessagesRequest, id: str, answer: Whole) -> dict[str, Any]:
    content: list[TextBlock | ThinkingBlock | ToolUseBlock] = []
    if answer.thoughts:
        content.append(ThinkingBlock(type="thinking", thinking=answer.thoughts, signature=""))
    text = answer.content
    for call in answer.calls:
        arguments = call.as_object()
        if arguments is None:  # no object, so no call in this dialect: it stays text
            text += f"{call.name}{call.arguments}"
        else:
            content.append(
                ToolUseBlock(type="tool_use", id=_call_id(), name=call.name, input=arguments)
            )
    if text:
        content.insert(1 if answer.thoughts else 0, TextBlock(type="text", text=text))
    reason, stop = _ended(exchange, answer.finish)
    message = Message(
        id=id,
        type="message",
        role="assistant",
        model=body.model or exchange.model.info.name,
        content=content,
        stop_reason=reason,
        stop_sequence=stop,
        usage=_usage(exchange),
    )
    return message.model_dump()


class _Events:
    """One exchange as Anthropic's events: blocks that open, grow and close, one after the other."""

    def __init__(self, exchange: Exchange, body: MessagesRequest, id: str) -> None:
        self._exchange = exchange
        self._body = body
        self._id = id
        self._index = -1
        self._open: object = None  # "text", "thinking", a call's position; None between blocks

    async def frames(self) -> Frames:
        start: dict[str, Any] = {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._body.model or self._exchange.model.info.name,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": _usage(self._exchange).model_dump(),
        }
        yield _event("message_start", message=start)
        finish: Finish = "stop"
        deltas = self._exchange.deltas()
        try:
            async for _, delta in deltas:
                frame = self._news(delta)
                if frame:
                    yield frame
                finish = delta.finish or finish
        finally:
            await deltas.aclose()
        closing = self._close()
        if closing:
            yield closing
        reason, stop = _ended(self._exchange, finish)
        yield _event(
            "message_delta",
            delta={"stop_reason": reason, "stop_sequence": stop},
            usage=_usage(self._exchange).model_dump(),
        )
        yield _event("message_stop")

    def _news(self, delta: Delta) -> bytes:
        out = b""
        if delta.thoughts:
            out += self._begin("thinking", {"type": "thinking", "thinking": "", "signature": ""})
            out += self._grow({"type": "thinking_delta", "thinking": delta.thoughts})
        if delta.content:
            out += self._begin("text", {"type": "text", "text": ""})
            out += self._grow({"type": "text_delta", "text": delta.content})
        for call in delta.calls:
            if call.name is not None:
                block: dict[str, Any] = {"type": "tool_use", "id": _call_id(), "name": call.name}
                out += self._begin(call.position, block | {"input": {}})
            if call.arguments:
                out += self._grow({"type": "input_json_delta", "partial_json": call.arguments})
        return out

    def _begin(self, kind: object, block: dict[str, Any]) -> bytes:
        if self._open == kind:
            return b""
        closing = self._close()
        self._open = kind
        self._index += 1
        return closing + _event("content_block_start", index=self._index, content_block=block)

    def _grow(self, delta: dict[str, Any]) -> bytes:
        return _event("content_block_delta", index=self._index, delta=delta)

    def _close(self) -> bytes:
        if self._open is None:
            return b""
        self._open = None
        return _event("content_block_stop", index=self._index)


def _event(kind: str, **more: Any) -> bytes:
    return sse({"type": kind, **more}, kind)


def _ended(
    exchange: Exchange, finish: Finish
) -> tuple[Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"], str | None]:
    if finish == "length":
        return "max_tokens", None
    if finish == "tool_calls":
        return "tool_use", None
    stop = stop_string(exchange.answers[0].generation, exchange.model.tokenizer)
    return ("end_turn" if stop is None else "stop_sequence"), stop


def _usage(exchange: Exchange) -> Usage:
    reused = exchange.reused_tokens
    return Usage(
        input_tokens=exchange.prompt_tokens - reused,
        output_tokens=exchange.completion_tokens,
        cache_creation_input_tokens=0,
        cache_read_input_tokens=reused,
    )


def _call_id() -> str:
    return f"toolu_{secrets.token_hex(12)}"
