"""POST /v1/responses. Nothing is kept: a client sends the whole conversation each time."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from typing import Any, Literal

from fastapi import APIRouter, Request, Response

from exosuit.engine.batch import Sampled
from exosuit.serve.answer import Delta, Finish
from exosuit.serve.exchange import Exchange
from exosuit.serve.fields import Told
from exosuit.serve.openai.chat import IDLE
from exosuit.serve.openai.logprobs import TokenLogprob, chat_logprobs
from exosuit.serve.openai.responses_reading import LOGPROBS, conversation_of, wishes_of
from exosuit.serve.openai.responses_requests import ResponseRequest
from exosuit.serve.problems import Problem
from exosuit.serve.sending import Frames, Json, attended, sse
from exosuit.serve.turn import ask_chat

router = APIRouter()


class OutputText(Told):
    type: Literal["output_text"]
    text: str
    annotations: list[dict[str, Any]]
    logprobs: list[TokenLogprob]


class MessageItem(Told):
    type: Literal["message"]
    id: str
    role: Literal["assistant"]
    status: Literal["in_progress", "completed", "incomplete"]
    content: list[OutputText]


class ReasoningText(Told):
    type: Literal["reasoning_text"]
    text: str


class ReasoningItem(Told):
    type: Literal["reasoning"]
    id: str
    summary: list[dict[str, Any]]
    content: list[ReasoningText]
    status: Literal["in_progress", "completed", "incomplete"]


class CallItem(Told):
    type: Literal["function_call"]
    id: str
    call_id: str
    name: str
    arguments: str
    status: Literal["in_progress", "completed", "incomplete"]


class InputDetails(Told):
    cached_tokens: int


class OutputDetails(Told):
    reasoning_tokens: int


class Usage(Told):
    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class Incomplete(Told):
    reason: Literal["max_output_tokens"]


class ResponseTold(Told):
    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    error: dict[str, Any] | None
    incomplete_details: Incomplete | None
    instructions: str | None
    max_output_tokens: int | None
    model: str
    output: list[MessageItem | ReasoningItem | CallItem]
    parallel_tool_calls: bool
    previous_response_id: None
    temperature: float
    top_p: float
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    text: dict[str, Any]
    reasoning: dict[str, Any]
    truncation: Literal["disabled"]
    store: Literal[False]
    metadata: dict[str, Any]
    usage: Usage | None


@router.post(
    "/v1/responses",
    response_model=ResponseTold,
    responses={200: {"content": {"text/event-stream": {}}}},
)
async def responses(body: ResponseRequest, request: Request) -> Response:
    """An answer as a list of items, whole or as a stream of events."""
    conversation, wishes = conversation_of(body), wishes_of(body)
    exchange = await Exchange.begin(
        request,
        body.model,
        lambda model: ask_chat(model, conversation, wishes),
        keep_alive=body.keep_alive,
    )
    written = _Written(exchange, body)
    if body.stream:
        return exchange.send(written.frames(), written.failed, "text/event-stream", IDLE)

    async def finished() -> dict[str, Any]:
        async for _ in written.frames():
            pass
        return written.response

    try:
        return Json(await attended(request, finished()))
    finally:
        exchange.close()


class _Written:
    """One exchange as items that open, grow and close; whole answers are read off the end."""

    def __init__(self, exchange: Exchange, body: ResponseRequest) -> None:
        self._exchange = exchange
        self._wants_logprobs = LOGPROBS in (body.include or ())
        self._count = 0
        self._thought = 0
        self._open: object = None  # "message", "reasoning", a call's position
        self.response = self._empty(body)

    def _empty(self, body: ResponseRequest) -> dict[str, Any]:
        sampling = self._exchange.turns[0].wishes.sampling
        choice = body.tool_choice
        told = ResponseTold(
            id=f"resp_{secrets.token_hex(16)}",
            object="response",
            created_at=int(time.time()),
            status="in_progress",
            error=None,
            incomplete_details=None,
            instructions=body.instructions,
            max_output_tokens=body.max_output_tokens,
            model=body.model or self._exchange.model.info.name,
            output=[],
            parallel_tool_calls=body.parallel_tool_calls is True,
            previous_response_id=None,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            tool_choice=choice.model_dump()
            if choice is not None and not isinstance(choice, str)
            else choice or "auto",
            tools=[tool.model_dump() for tool in body.tools or ()],
            text=_format(body),
            reasoning=body.reasoning.model_dump() if body.reasoning else {},
            truncation="disabled",
            store=False,
            metadata=body.metadata or {},
            usage=None,
        )
        return told.model_dump()

    async def frames(self) -> Frames:
        yield self._event("response.created", response=self.response)
        yield self._event("response.in_progress", response=self.response)
        finish: Finish = "stop"
        deltas = self._exchange.deltas()
        try:
            async for _, delta in deltas:
                for frame in self._news(delta):
                    yield frame
                finish = delta.finish or finish
        finally:
            await deltas.aclose()
        for frame in self._close("incomplete" if finish == "length" else "completed"):
            yield frame
        is_cut = finish == "length"
        self.response["status"] = "incomplete" if is_cut else "completed"
        if is_cut:
            self.response["incomplete_details"] = {"reason": "max_output_tokens"}
        self.response["usage"] = self._usage().model_dump()
        yield self._event(f"response.{self.response['status']}", response=self.response)

    def failed(self, problem: Problem) -> bytes:
        """An error in the middle of a stream."""
        self.response["status"] = "failed"
        self.response["error"] = {"code": "server_error", "message": problem.message}
        return self._event("response.failed", response=self.response)

    # Items --------------------------------------------------------------------------------

    @property
    def _item(self) -> dict[str, Any]:
        return self.response["output"][-1]

    @property
    def _place(self) -> dict[str, Any]:
        return {"item_id": self._item["id"], "output_index": len(self.response["output"]) - 1}

    def _news(self, delta: Delta) -> Iterator[bytes]:
        if delta.thoughts:
            self._thought += len(delta.tokens)
            yield from self._begin("reasoning", {"summary": [], "content": []})
            yield self._grow("reasoning_text", delta.thoughts)
        if delta.content:
            yield from self._begin("message", {"role": "assistant", "content": []})
            yield self._grow("output_text", delta.content, delta.tokens)
        for call in delta.calls:
            if call.name is not None:
                item = {"call_id": call.id or _id("call"), "name": call.name, "arguments": ""}
                yield from self._begin(call.position, item)
            if call.arguments:
                self._item["arguments"] += call.arguments
                kind = "response.function_call_arguments.delta"
                yield self._event(kind, delta=call.arguments, **self._place)

    def _begin(self, kind: object, fields: dict[str, Any]) -> Iterator[bytes]:
        if self._open == kind:
            return
        yield from self._close("completed")
        self._open = kind
        name, prefix = {"message": ("message", "msg"), "reasoning": ("reasoning", "rs")}.get(
            str(kind), ("function_call", "fc")
        )
        item: dict[str, Any] = {"type": name, "id": _id(prefix), "status": "in_progress", **fields}
        self.response["output"].append(item)
        place = {"output_index": len(self.response["output"]) - 1}
        yield self._event("response.output_item.added", item=item, **place)
        if name != "function_call":
            part = _part("output_text" if name == "message" else "reasoning_text")
            item["content"].append(part)
            if name == "message":
                yield self._event(
                    "response.content_part.added", part=part, content_index=0, **self._place
                )

    def _grow(self, kind: str, text: str, tokens: tuple[Sampled, ...] = ()) -> bytes:
        part = self._item["content"][0]
        part["text"] += text
        more: dict[str, Any] = {"delta": text, "content_index": 0}
        if kind == "output_text":
            found = chat_logprobs(self._exchange.model.tokenizer, tokens).model_dump()["content"]
            more["logprobs"] = found if self._wants_logprobs else []
            part["logprobs"] += more["logprobs"]
        return self._event(f"response.{kind}.delta", **more, **self._place)

    def _close(self, status: str) -> Iterator[bytes]:
        if self._open is None:
            return
        self._open = None
        item = self._item
        item["status"] = status
        if item["type"] == "function_call":
            yield self._event(
                "response.function_call_arguments.done",
                arguments=item["arguments"],
                name=item["name"],
                **self._place,
            )
        else:
            part = item["content"][0]
            done: dict[str, Any] = {"text": part["text"], "content_index": 0}
            if item["type"] == "message":
                done["logprobs"] = part["logprobs"]
            yield self._event(f"response.{part['type']}.done", **done, **self._place)
            if item["type"] == "message":
                yield self._event(
                    "response.content_part.done", part=part, content_index=0, **self._place
                )
        place = {"output_index": len(self.response["output"]) - 1}
        yield self._event("response.output_item.done", item=item, **place)

    def _usage(self) -> Usage:
        prompt, completion = self._exchange.prompt_tokens, self._exchange.completion_tokens
        return Usage(
            input_tokens=prompt,
            input_tokens_details=InputDetails(cached_tokens=self._exchange.reused_tokens),
            output_tokens=completion,
            output_tokens_details=OutputDetails(reasoning_tokens=self._thought),
            total_tokens=prompt + completion,
        )

    def _event(self, kind: str, **more: Any) -> bytes:
        self._count += 1
        return sse({"type": kind, "sequence_number": self._count - 1, **more}, kind)


def _part(kind: str) -> dict[str, Any]:
    part: dict[str, Any] = {"type": kind, "text": ""}
    return part | {"annotations": [], "logprobs": []} if kind == "output_text" else part


def _format(body: ResponseRequest) -> dict[str, Any]:
    wanted = body.text.format if body.text else None
    return {"format": wanted.model_dump(by_alias=True) if wanted else {"type": "text"}}


def _id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(16)}"
