"""POST /v1/chat/completions: the next message of a conversation."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Any, Literal

from fastapi import APIRouter, Request, Response

from exosuit.serve.answer import Delta, Whole
from exosuit.serve.exchange import Exchange
from exosuit.serve.fields import Told
from exosuit.serve.openai.logprobs import ChatLogprobs, chat_logprobs
from exosuit.serve.openai.reading import conversation_of, wishes_of
from exosuit.serve.openai.requests import ChatRequest
from exosuit.serve.openai.usage import FINGERPRINT, Timings, Usage, timings_of, usage_of
from exosuit.serve.problems import Problem, openai_body
from exosuit.serve.sending import Frames, Json, sse
from exosuit.serve.turn import ask_chat

router = APIRouter()
IDLE = b": still working\n\n"
DONE = b"data: [DONE]\n\n"


class FunctionTold(Told):
    name: str
    arguments: str


class CallTold(Told):
    id: str
    type: Literal["function"]
    function: FunctionTold


class MessageTold(Told):
    """The last two are absent where there is nothing to tell."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning_content: str | None = None
    tool_calls: list[CallTold] | None = None


class ChoiceTold(Told):
    index: int
    message: MessageTold
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"]


class ChatCompletion(Told):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChoiceTold]
    usage: Usage
    system_fingerprint: str
    timings: Timings


@router.post(
    "/v1/chat/completions",
    response_model=ChatCompletion,
    responses={200: {"content": {"text/event-stream": {}}}},
)
async def chat_completions(body: ChatRequest, request: Request) -> Response:
    """The next message of a conversation, whole or as a stream of chunks."""
    conversation = conversation_of(body)
    top = (body.top_logprobs or 0) if body.logprobs else 0
    wishes = wishes_of(body, top, body.max_completion_tokens)
    exchange = await Exchange.begin(
        request,
        body.model,
        lambda model: ask_chat(model, conversation, wishes),
        keep_alive=body.keep_alive,
    )
    said = _Said(exchange, body)
    if body.stream:
        return exchange.send(said.frames(), told, "text/event-stream", IDLE)
    return Json(said.whole(await exchange.whole()))


def told(problem: Problem) -> bytes:
    """An error in the middle of a stream."""
    return sse(openai_body(problem))


class _Said:
    """One exchange in OpenAI's words."""

    def __init__(self, exchange: Exchange, body: ChatRequest) -> None:
        self._exchange = exchange
        self._body = body
        self._head: dict[str, Any] = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": body.model or exchange.model.info.name,
            "system_fingerprint": FINGERPRINT,
        }

    def whole(self, answers: Sequence[Whole]) -> dict[str, Any]:
        completion = ChatCompletion(
            **self._head,
            object="chat.completion",
            choices=[self._choice(number, answer) for number, answer in enumerate(answers)],
            usage=usage_of(self._exchange, sum(answer.thought_tokens for answer in answers)),
            timings=timings_of(self._exchange),
        )
        return completion.model_dump(exclude_unset=True)

    def _choice(self, number: int, answer: Whole) -> ChoiceTold:
        calls = [
            CallTold(
                id=call.id or f"call_{secrets.token_hex(12)}",
                type="function",
                function=FunctionTold(name=call.name, arguments=call.arguments),
            )
            for call in answer.calls
        ]
        message = MessageTold(
            role="assistant",
            content=answer.content if answer.content or not calls else None,
            refusal=None,
        )
        if answer.thoughts:
            message.reasoning_content = answer.thoughts
        if calls:
            message.tool_calls = calls
        logprobs = None
        if self._body.logprobs:
            logprobs = chat_logprobs(self._exchange.model.tokenizer, answer.tokens)
        return ChoiceTold(
            index=number, message=message, logprobs=logprobs, finish_reason=answer.finish
        )

    async def frames(self) -> Frames:
        wants_usage = bool(self._body.stream_options and self._body.stream_options.include_usage)
        for number in range(len(self._exchange.answers)):
            yield self._chunk(number, {"role": "assistant", "content": ""})
        thought = 0
        deltas = self._exchange.deltas()
        try:
            async for number, delta in deltas:
                thought += len(delta.tokens) if delta.thoughts else 0
                news = _news(delta)
                if news or self._body.logprobs:
                    yield self._chunk(number, news, delta)
                if delta.finish is not None:
                    yield self._chunk(number, {}, finish=delta.finish)
        finally:
            await deltas.aclose()
        if wants_usage:
            last: dict[str, Any] = {
                "object": "chat.completion.chunk",
                "choices": [],
                "usage": usage_of(self._exchange, thought).model_dump(),
                "timings": timings_of(self._exchange).model_dump(),
            }
            yield sse(self._head | last)
        yield DONE

    def _chunk(
        self,
        number: int,
        news: dict[str, Any],
        delta: Delta | None = None,
        finish: str | None = None,
    ) -> bytes:
        choice: dict[str, Any] = {
            "index": number, "delta": news, "logprobs": None, "finish_reason": finish
        }  # fmt: skip
        if self._body.logprobs and delta is not None and delta.tokens:
            found = chat_logprobs(self._exchange.model.tokenizer, delta.tokens)
            choice["logprobs"] = found.model_dump()
        return sse(self._head | {"object": "chat.completion.chunk", "choices": [choice]})


def _news(delta: Delta) -> dict[str, Any]:
    news: dict[str, Any] = {}
    if delta.thoughts:
        news["reasoning_content"] = delta.thoughts
    if delta.content:
        news["content"] = delta.content
    calls: list[dict[str, Any]] = []
    for call in delta.calls:
        function: dict[str, Any] = {"arguments": call.arguments}
        entry: dict[str, Any] = {"index": call.position, "function": function}
        if call.name is not None:
            function["name"] = call.name
            entry |= {"id": call.id or f"call_{secrets.token_hex(12)}", "type": "function"}
        calls.append(entry)
    if calls:
        news["tool_calls"] = calls
    return news
