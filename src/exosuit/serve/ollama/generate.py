"""POST /api/generate: a prompt through the template, a raw one, or a gap between two texts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request, Response

from exosuit.serve.answer import Delta, Whole
from exosuit.serve.exchange import Exchange
from exosuit.serve.ollama.loading import load_only
from exosuit.serve.ollama.reading import (
    check_thinks,
    context_of,
    refuse_images,
    thinking_of,
    wishes_of,
)
from exosuit.serve.ollama.requests import GenerateRequest
from exosuit.serve.ollama.telling import NDJSON, Answered, ended, logprobs, stamp, told
from exosuit.serve.problems import Refusal
from exosuit.serve.sending import Frames, Json, ndjson
from exosuit.serve.service import ServedModel
from exosuit.serve.turn import Conversation, Turn, ask_chat, ask_text

router = APIRouter()


class Generated(Answered):
    """`context` is the conversation so far, as tokens, to be sent with the next prompt."""

    response: str
    thinking: str | None = None
    context: list[int] | None = None


@router.post(
    "/api/generate",
    response_model=Generated,
    responses={200: {"content": {NDJSON: {}}}},
)
async def generate(body: GenerateRequest, request: Request) -> Response:
    """An answer to one prompt, as lines unless `stream` is false."""
    refuse_images(body.images, "images")
    if body.template:
        raise Refusal(
            "a template in the request is not supported",
            param="template",
            cause="the model's own chat template is used",
            next="send raw=true and the whole text as the prompt",
        )
    if not body.prompt and not body.suffix:
        return await load_only(request, body, {"response": ""})
    exchange = await Exchange.begin(
        request,
        body.model,
        lambda model: _ask(model, body),
        keep_alive=body.keep_alive,
        context=context_of(body),
    )
    if body.stream is False:
        answer = (await exchange.whole())[0]
        return Json(_line(body, exchange, _news(answer)) | _last(body, exchange, answer))
    return exchange.send(_lines(exchange, body), told, NDJSON)


def _ask(model: ServedModel, body: GenerateRequest) -> Turn:
    think, variables = thinking_of(body)
    check_thinks(model, think)
    prompt, wishes = body.prompt or "", wishes_of(body)
    if body.raw or body.suffix or model.template is None:
        return ask_text(model, prompt, wishes, body.suffix or None)
    messages = [{"role": "user", "content": prompt}]
    if body.system:
        messages.insert(0, {"role": "system", "content": body.system})
    turn = ask_chat(model, Conversation(messages, think=think, variables=variables), wishes)
    return replace(turn, prompt=(*(body.context or ()), *turn.prompt))


async def _lines(exchange: Exchange, body: GenerateRequest) -> Frames:
    whole = Whole()
    deltas = exchange.deltas()
    try:
        async for _, delta in deltas:
            whole.add(delta)
            news = _news(delta)
            if news != {"response": ""}:
                yield ndjson(_line(body, exchange, news))
    finally:
        await deltas.aclose()
    yield ndjson(
        _line(body, exchange, {"response": ""}) | _last(body, exchange, whole, streamed=True)
    )


def _line(body: GenerateRequest, exchange: Exchange, news: dict[str, Any]) -> dict[str, Any]:
    return {"model": body.model, "created_at": stamp(), **news, "done": False}


def _news(answer: Whole | Delta) -> dict[str, Any]:
    news: dict[str, Any] = {"response": answer.content}
    return news | {"thinking": answer.thoughts} if answer.thoughts else news


def _last(
    body: GenerateRequest, exchange: Exchange, answer: Whole, streamed: bool = False
) -> dict[str, Any]:
    last = ended(exchange, answer.finish)
    if not body.raw:
        last["context"] = [*exchange.turns[0].prompt, *exchange.answers[0].generation.tokens]
    if body.logprobs and not streamed:
        last["logprobs"] = logprobs(exchange.model.tokenizer, answer.tokens)
    return last
