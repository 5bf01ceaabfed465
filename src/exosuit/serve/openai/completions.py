"""POST /v1/completions: texts continued, or filled in where the model was taught to."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, cast

from fastapi import APIRouter, Request, Response

from exosuit.serve.answer import Whole
from exosuit.serve.exchange import Exchange
from exosuit.serve.fields import MOST_ANSWERS, Told
from exosuit.serve.openai.chat import DONE, IDLE, told
from exosuit.serve.openai.logprobs import TextLogprobs, text_logprobs
from exosuit.serve.openai.reading import unsupported, wishes_of
from exosuit.serve.openai.requests import CompletionRequest
from exosuit.serve.openai.usage import FINGERPRINT, Timings, Usage, timings_of, usage_of
from exosuit.serve.problems import Refusal
from exosuit.serve.sending import Frames, Json, sse
from exosuit.serve.service import ServedModel
from exosuit.serve.turn import Turn, ask_text

router = APIRouter()
_USUAL_TOKENS = 16  # OpenAI's own default


class TextChoice(Told):
    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Literal["stop", "length"]


class Completion(Told):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage
    system_fingerprint: str
    timings: Timings


@router.post(
    "/v1/completions",
    response_model=Completion,
    responses={200: {"content": {"text/event-stream": {}}}},
)
async def completions(body: CompletionRequest, request: Request) -> Response:
    """A text continued, whole or as a stream of chunks; several prompts give several choices."""
    prompts = _prompts(body)
    count = body.n or 1
    if body.best_of is not None and body.best_of != count:
        raise unsupported("best_of other than n", "best_of")
    if len(prompts) * count > MOST_ANSWERS:
        raise Refusal(
            f"{len(prompts)} prompts with {count} answers each are asked for",
            param="prompt",
            cause=f"one request gets {MOST_ANSWERS} answers",
            next="send several requests",
        )
    if body.suffix and len(prompts) > 1:
        raise unsupported("a suffix to several prompts", "suffix")
    wishes = wishes_of(body, body.logprobs or 0)
    if wishes.max_tokens is None:
        wishes = replace(wishes, max_tokens=_USUAL_TOKENS)

    def ask(model: ServedModel) -> list[Turn]:
        return [ask_text(model, prompt, wishes, body.suffix or None) for prompt in prompts]

    exchange = await Exchange.begin(request, body.model, ask, keep_alive=body.keep_alive)
    said = _Said(exchange, body, prompts)
    if body.stream:
        return exchange.send(said.frames(), told, "text/event-stream", IDLE)
    return Json(said.whole(await exchange.whole()))


def _prompts(body: CompletionRequest) -> list[str | list[int]]:
    match body.prompt:
        case str(text):
            return [text]
        case [int(), *_] as ids:
            return [ids]
        case many:
            return list(cast("list[str | list[int]]", many))


class _Said:
    """One exchange in OpenAI's words."""

    def __init__(
        self, exchange: Exchange, body: CompletionRequest, prompts: list[str | list[int]]
    ) -> None:
        self._exchange = exchange
        self._body = body
        self._tokenizer = exchange.model.tokenizer
        self._echoes = [self._echo(prompt) if body.echo else "" for prompt in prompts]
        self._head: dict[str, Any] = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": body.model or exchange.model.info.name,
            "system_fingerprint": FINGERPRINT,
        }

    def whole(self, answers: Sequence[Whole]) -> dict[str, Any]:
        choices = [self._choice(number, answer) for number, answer in enumerate(answers)]
        completion = Completion(
            **self._head,
            choices=choices,
            usage=usage_of(self._exchange),
            timings=timings_of(self._exchange),
        )
        return completion.model_dump()

    def _choice(self, number: int, answer: Whole) -> TextChoice:
        echo = self._echoes[number // (self._body.n or 1)]
        logprobs = None
        if self._body.logprobs is not None:
            logprobs = text_logprobs(self._tokenizer, answer.tokens, len(echo))
        assert answer.finish != "tool_calls"
        return TextChoice(
            index=number,
            text=echo + answer.content,
            logprobs=logprobs,
            finish_reason=answer.finish,
        )

    async def frames(self) -> Frames:
        starts: list[int] = []
        for number in range(len(self._exchange.answers)):
            echo = self._echoes[number // (self._body.n or 1)]
            starts.append(len(echo))
            if echo:
                yield self._chunk(number, echo)
        deltas = self._exchange.deltas()
        try:
            async for number, delta in deltas:
                logprobs = None
                if self._body.logprobs is not None and delta.tokens:
                    logprobs = text_logprobs(self._tokenizer, delta.tokens, starts[number])
                    starts[number] += sum(map(len, logprobs.tokens))
                if delta.content or logprobs or delta.finish:
                    yield self._chunk(number, delta.content, logprobs, delta.finish)
        finally:
            await deltas.aclose()
        if self._body.stream_options and self._body.stream_options.include_usage:
            last: dict[str, Any] = {
                "choices": [],
                "usage": usage_of(self._exchange).model_dump(),
                "timings": timings_of(self._exchange).model_dump(),
            }
            yield sse(self._head | last)
        yield DONE

    def _chunk(
        self,
        number: int,
        text: str,
        logprobs: TextLogprobs | None = None,
        finish: str | None = None,
    ) -> bytes:
        choice = {
            "index": number,
            "text": text,
            "logprobs": logprobs.model_dump() if logprobs else None,
            "finish_reason": finish,
        }
        return sse(self._head | {"choices": [choice]})

    def _echo(self, prompt: str | list[int]) -> str:
        return prompt if isinstance(prompt, str) else self._tokenizer.decode(prompt, special=True)
